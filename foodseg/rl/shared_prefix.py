"""Exact log-probabilities and gradients of a group, its prompt computed once.

One row holds one group: [prompt | completion 1 | ... | completion G]. A token looks at the prompt
and at its own completion's past, and every completion's positions restart after the prompt, so
each sees exactly what it would see in a row of its own. The last prompt token's hidden state
predicts every completion's first token. Gradients flow through the shared prompt. A step of G
completions of length R after a prompt of length P costs P + G R tokens, not G (P + R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foodseg.models.mllm import Mllm
from foodseg.rl.rollouts import Rollout


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of every completion token, one row a completion, groups in order.

    log_probs, entropies: (R, L) float, 0 where mask is False; the entropies carry no gradient.
    mask: (R, L) bool, True on completion tokens.
    """

    log_probs: torch.Tensor
    entropies: torch.Tensor
    mask: torch.Tensor


def score_groups(mllm: Mllm, rollouts: Sequence[Rollout], temperature: float = 1.0) -> TokenScores:
    """Log-probabilities of all completions of these groups in one forward, with a gradient."""
    mask = completion_mask(rollouts)
    embeddings, position_ids, attention = _pack(mllm, rollouts)
    hidden = mllm.hidden_states(embeddings, attention, position_ids)
    rows, columns = _predictors(rollouts, mllm.device)
    distribution = mllm.log_probabilities(hidden[rows, columns], temperature)
    targets = torch.cat([tokens for rollout in rollouts for tokens in rollout.tokens])
    log_probs = distribution.gather(1, targets[:, None])[:, 0]
    with torch.no_grad():
        entropies = torch.special.entr(distribution.exp()).sum(-1)
    empty = log_probs.new_zeros(mask.shape)
    return TokenScores(
        empty.masked_scatter(mask, log_probs), empty.masked_scatter(mask, entropies), mask
    )


def completion_mask(rollouts: Sequence[Rollout]) -> torch.Tensor:
    """(R, L) bool: True on the tokens of each completion."""
    lengths = torch.tensor([len(tokens) for rollout in rollouts for tokens in rollout.tokens])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    return mask.to(rollouts[0].tokens[0].device)


def pad_rows(rows: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Ragged rows, R tensors (L_i,), as one (R, L) tensor with 0 outside the mask."""
    flat = torch.cat(list(rows))
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


def _pack(mllm: Mllm, rollouts: Sequence[Rollout]):
    """Embeddings (B, T, D), positions (3, B, T) and the mask (B, 1, T, T) of the group rows."""
    embeddings, positions, segments = zip(*(_group_row(mllm, r) for r in rollouts), strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    segment = pad(segments, batch_first=True, padding_value=-1)
    position_ids = pad([p.T for p in positions], batch_first=True).permute(2, 0, 1)
    query, key = segment[:, :, None], segment[:, None, :]
    width = segment.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=segment.device).tril()
    itself = torch.eye(width, dtype=torch.bool, device=segment.device)  # padding: avoids 0/0
    attention = (causal & ((key == 0) | (key == query))) | itself
    return pad(embeddings, batch_first=True), position_ids, attention[:, None]


def _group_row(mllm: Mllm, rollout: Rollout):
    """One group's embeddings (T, D), positions (3, T), segments (T,): 0 prompt, i completion i."""
    prompt, device = rollout.prompt, mllm.device
    positions = [prompt.position_ids]
    segments = [torch.zeros(prompt.length, dtype=torch.long, device=device)]
    for index, tokens in enumerate(rollout.tokens, start=1):
        steps = torch.arange(len(tokens), device=device) + prompt.next_position
        positions.append(steps.expand(3, -1))
        segments.append(torch.full((len(tokens),), index, device=device))
    completions = mllm.embed_tokens(torch.cat(rollout.tokens))
    return (
        torch.cat([prompt.embeddings, completions]),
        torch.cat(positions, 1),
        torch.cat(segments),
    )


def _predictors(rollouts: Sequence[Rollout], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the hidden state that predicts each completion token, in order."""
    rows, columns = [], []
    for row, rollout in enumerate(rollouts):
        start = rollout.prompt.length
        for tokens in rollout.tokens:
            before = torch.arange(start - 1, start - 1 + len(tokens))
            before[0] = rollout.prompt.length - 1
            columns.append(before)
            rows.append(torch.full((len(tokens),), row))
            start += len(tokens)
    return torch.cat(rows).to(device), torch.cat(columns).to(device)
