"""Exact log-probabilities and gradients of groups, each prompt computed once.

One flat row holds several groups: all their prompts, then all their completions. A token looks at
its prompt and at its own completion's past (`models.fast.attention`), and every completion's
positions restart after the prompt, so each sees exactly what it would see in a row of its own. The
last prompt token's hidden state predicts every completion's first token. Gradients flow through
the shared prompt. G completions of length R after a prompt of length P cost P + G R tokens, not
G (P + R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from foodseg.models.fast.attention import RowLayout
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import Rollout


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
    log_probs, entropies = mllm.token_log_probabilities(
        predicting_states(mllm, rollouts), completion_tokens(rollouts), temperature
    )
    empty = log_probs.new_zeros(mask.shape)
    return TokenScores(
        empty.masked_scatter(mask, log_probs), empty.masked_scatter(mask, entropies), mask
    )


def predicting_states(mllm: Mllm, rollouts: Sequence[Rollout]) -> torch.Tensor:
    """(N, D): the last hidden state that predicts each completion token, in the row's order."""
    layout = _layout(rollouts, mllm.device)
    embeddings = _embeddings(mllm, rollouts)
    # The layout rounds the row's length up; the padding attends only itself and predicts nothing.
    padding = layout.causal.total - len(embeddings)
    hidden = mllm.hidden_states(
        pad(embeddings, (0, 0, 0, padding))[None],
        attention_mask=None,
        position_ids=pad(_positions(rollouts, mllm.device), (0, padding))[:, None],
        row_layout=layout,
    )
    return hidden[0, _predictors(rollouts).to(mllm.device)]


def completion_tokens(rollouts: Sequence[Rollout]) -> torch.Tensor:
    """All completion tokens (N,), in the row's order."""
    return torch.cat([tokens for rollout in rollouts for tokens in rollout.tokens])


def completion_mask(rollouts: Sequence[Rollout]) -> torch.Tensor:
    """(R, L) bool: True on the tokens of each completion."""
    lengths = torch.tensor([len(tokens) for rollout in rollouts for tokens in rollout.tokens])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    return mask.to(rollouts[0].tokens[0].device)


def pad_rows(rows: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Ragged rows, R tensors (L_i,), as one (R, L) tensor with 0 outside the mask."""
    flat = torch.cat(list(rows))
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


def _layout(rollouts: Sequence[Rollout], device: torch.device) -> RowLayout:
    completions = [[len(tokens) for tokens in rollout.tokens] for rollout in rollouts]
    return RowLayout.of([rollout.prompt.length for rollout in rollouts], completions, device)


def _embeddings(mllm: Mllm, rollouts: Sequence[Rollout]) -> torch.Tensor:
    """(T, D): the prompts' own, then those of the completion tokens."""
    prompts = [rollout.prompt.embeddings for rollout in rollouts]
    return torch.cat([*prompts, mllm.embed_tokens(completion_tokens(rollouts))])


def _positions(rollouts: Sequence[Rollout], device: torch.device) -> torch.Tensor:
    """(3, T): every completion starts where its prompt ends."""
    steps = [
        torch.arange(len(tokens)) + rollout.prompt.next_position
        for rollout in rollouts
        for tokens in rollout.tokens
    ]
    prompts = [rollout.prompt.position_ids for rollout in rollouts]
    return torch.cat([*prompts, torch.cat(steps).to(device).expand(3, -1)], 1)


def _predictors(rollouts: Sequence[Rollout]) -> torch.Tensor:
    """(N,): where in the row the hidden state is that predicts each completion token."""
    ends = torch.tensor([rollout.prompt.length for rollout in rollouts]).cumsum(0)
    start, places = int(ends[-1]), []
    for end, rollout in zip(ends, rollouts, strict=True):
        for tokens in rollout.tokens:
            # Each token is predicted by the one before it, the first by the prompt's last.
            places.append(torch.arange(start - 1, start - 1 + len(tokens)))
            places[-1][0] = end - 1
            start += len(tokens)
    return torch.cat(places)
