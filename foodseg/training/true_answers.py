"""The true answer as one more rollout of each group; `methods.visurf` has the method."""

from __future__ import annotations

from dataclasses import replace

import torch

from foodseg.methods.visurf import smooth
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE, Rollout
from foodseg.models.shared_prefix import score_groups
from foodseg.rl.groups import Group


@torch.no_grad()
def true_rollout(mllm: Mllm, group: Group, text: str) -> Rollout:
    """The true answer as a rollout of one completion, with the log-probs of the policy as it is."""
    ids = [*mllm.tokenizer.encode(text, add_special_tokens=False), mllm.eos_token_id]
    tokens = torch.tensor(ids, device=mllm.device)
    alone = Rollout(group.rollout.prompt, (tokens,), (torch.zeros(len(ids)),), (text,), (True,))
    log_probs = score_groups(mllm, [alone], TEMPERATURE).log_probs[0]
    return replace(alone, log_probs=(log_probs,))


def join(group: Group, truth: Group) -> Group:
    """The group with the true answer behind its completions, its reward smoothed."""
    names = ("tokens", "log_probs", "texts", "ended")
    both = {name: getattr(group.rollout, name) + getattr(truth.rollout, name) for name in names}
    return Group(
        group.sample,
        replace(group.rollout, **both),
        group.evidence + truth.evidence,
        _points(group, truth),
    )


def _points(group: Group, truth: Group) -> tuple[dict[str, float], ...]:
    last = smooth(truth.points[0], group.rewards)
    return (*(one | {"smoothing": 0.0} for one in group.points), last)
