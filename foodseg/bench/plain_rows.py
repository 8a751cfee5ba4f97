"""What shared prefixes are measured against: every completion in a row of its own.

The rows [prompt | completion] of one group go through transformers' own causal attention in one
forward, padded on the right, with the head on completions only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import Rollout
from foodseg.models.shared_prefix import TokenScores, completion_mask, pad_rows


def plain_score_groups(
    mllm: Mllm, rollouts: Sequence[Rollout], temperature: float = 1.0
) -> TokenScores:
    """The same scores as `shared_prefix.score_groups`, for G (P + R) tokens a group."""
    mask = completion_mask(rollouts)
    groups = [_score_group(mllm, rollout, temperature) for rollout in rollouts]
    log_probs, entropies = (torch.cat(parts) for parts in zip(*groups, strict=True))
    return TokenScores(pad_rows([log_probs], mask), pad_rows([entropies], mask), mask)


def _score_group(mllm: Mllm, rollout: Rollout, temperature: float):
    """Log-probabilities and entropies (N,) of one group's completion tokens, in order."""
    own = completion_mask([rollout])
    prompt, rows = rollout.prompt, len(rollout.tokens)
    tokens = torch.cat(rollout.tokens)
    completions = mllm.embed_tokens(pad_rows(rollout.tokens, own))
    steps = torch.arange(own.shape[1], device=own.device) + prompt.next_position
    positions = torch.cat([prompt.position_ids, steps.expand(3, -1)], 1)
    hidden = mllm.model.model(
        inputs_embeds=torch.cat([prompt.embeddings.expand(rows, -1, -1), completions], 1),
        attention_mask=torch.cat([own.new_ones(rows, prompt.length), own], 1).long(),
        position_ids=positions[:, None].expand(-1, rows, -1),
        use_cache=False,
    ).last_hidden_state
    # The state before a token predicts it.
    predictors = hidden[:, prompt.length - 1 : -1][own]
    return mllm.token_log_probabilities(predictors, tokens, temperature)
