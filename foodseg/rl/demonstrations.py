"""Demonstrations: beside the completions that the policy samples, one that is known to be right.

After LUFFY (arXiv:2504.14945), which mixes off-policy traces into a GRPO group. Where every sample
fails, the group still says what was asked for; where they succeed, the demonstration's advantage
shrinks with theirs, and where all earn full marks it is gone. What LUFFY has and this has not: a
ratio to the demonstrator's own probabilities, shaped so that unlikely tokens count more. Here a
demonstration is taken for a sample of the policy, so its ratio starts at 1 like the others' and
its tokens are pushed as in supervised fine-tuning, times the advantage, until the clip stops them.

Demonstrations are learnt from and nothing else: they are no rollouts, and no curve counts them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from foodseg.models.mllm import Mllm
    from foodseg.rl.groups import Group
    from foodseg.rl.rollouts import Rollout


def demonstrate(rollout: Rollout, text: str, mllm: Mllm) -> Rollout:
    """The rollout with `text` as one more completion, the last.

    No sampler drew it, so its log-probs (L,) are NaN.
    """
    ids = mllm.tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([*ids, mllm.eos_token_id], device=mllm.device)
    unknown = rollout.log_probs[0].new_full(tokens.shape, torch.nan)
    return replace(
        rollout,
        tokens=(*rollout.tokens, tokens),
        log_probs=(*rollout.log_probs, unknown),
        texts=(*rollout.texts, text),
        ended=(*rollout.ended, True),
    )


def without_demonstration(group: Group) -> Group:
    """What the policy itself sampled of a group."""
    rollout = group.rollout
    parts = {n: getattr(rollout, n)[:-1] for n in ("tokens", "log_probs", "texts", "ended")}
    sampled = replace(rollout, **parts)
    return replace(group, rollout=sampled, evidence=group.evidence[:-1], points=group.points[:-1])
