"""What a rollout's gradient steps did, as log fields; `training.log` says what each means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from foodseg.models.rollouts import Rollout

# Of a token's probability when it was sampled, in percent.
BINS = ("p0_10", "p10_50", "p50_90", "p90_100")
EDGES = (0.1, 0.5, 0.9)
TOKEN_MEANS = ("clip_low_fraction", "clip_high_fraction", "kl", "ratio")


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """The completions of one gradient step that learn, one a row.

    advantages: (R, 1), or (R, L) where a completion's tokens differ; sampler_log_probs: (R, L), as
    sampled; log_probs: (R, L), before this step, filled in by its forwards. All are 0 beyond a
    completion's end. normaliser: the loss's, of the whole mini-batch.
    """

    rollouts: list[Rollout]
    mask: torch.Tensor
    advantages: torch.Tensor
    sampler_log_probs: torch.Tensor
    log_probs: torch.Tensor
    normaliser: float


@dataclass(frozen=True, eq=False)
class GradientStep:
    """One that was taken: the figures of every forward in all processes, and its gradient's norm.

    mini_batch: this process's share; None if all of it is with others.
    """

    forwards: list[dict]
    gradient_norm: float
    mini_batch: MiniBatch | None


def step_figures(steps: Sequence[GradientStep]) -> dict:
    """Of one rollout's gradient steps; None where there was none."""
    forwards = [one for step in steps for one in step.forwards]
    norms = [step.gradient_norm for step in steps]
    return {name: token_mean(forwards, name) for name in TOKEN_MEANS} | {
        "loss": mean([sum(one["loss"] for one in step.forwards) for step in steps]),
        "entropy": token_mean(steps[0].forwards if steps else [], "entropy"),
        "gradient_steps": len(steps),
        "gradient_norm": mean(norms),
        "gradient_norm_max": max(norms, default=None),
    }


def sampler_gaps(mini_batch: MiniBatch) -> list[float]:
    """Of each token: how far the sampler's log-prob is from the forward's."""
    difference = mini_batch.sampler_log_probs - mini_batch.log_probs
    return difference[mini_batch.mask].abs().tolist()


def gain_sums(mini_batch: MiniBatch, clip_high: float) -> torch.Tensor:
    """(4, 3) float64, a row for each of BINS, of the tokens with a positive advantage.

    Columns: how many there are, the sum of ratio - 1, and those beyond the upper clip bound.
    """
    better = mini_batch.mask & (mini_batch.advantages > 0)
    old = mini_batch.sampler_log_probs[better].double().cpu()
    gain = (mini_batch.log_probs[better].double().cpu() - old).exp() - 1
    place = torch.bucketize(old.exp(), torch.tensor(EDGES, dtype=old.dtype), right=True)
    values = torch.stack([torch.ones_like(gain), gain, (gain > clip_high).double()], 1)
    return torch.zeros(len(BINS), 3, dtype=old.dtype).index_add_(0, place, values)


def gain_figures(sums: Sequence[torch.Tensor]) -> dict:
    """Log fields from the `gain_sums` of several mini-batches; None where a bin has no token."""
    row = {}
    totals = sum(sums, torch.zeros(len(BINS), 3, dtype=torch.float64)).tolist()
    for name, (tokens, gain, clipped) in zip(BINS, totals, strict=True):
        row[f"gain_{name}"] = gain / tokens if tokens else None
        row[f"clip_high_{name}"] = clipped / tokens if tokens else None
        row[f"gain_tokens_{name}"] = int(tokens)
    return row


def ratio_ranges(steps: Sequence[GradientStep], rollout: Rollout) -> list[list[float]] | None:
    """Of each of the rollout's completions the lowest and the highest token's ratio in its step.

    To four digits; None if it was in no gradient step.
    """
    for step in steps:
        batch, first = step.mini_batch, 0
        for one in batch.rollouts if batch else ():
            rows = range(first, first + len(one.tokens))
            if one is rollout:
                return [_ratio_range(batch, row) for row in rows]
            first = rows.stop
    return None


def _ratio_range(batch: MiniBatch, row: int) -> list[float]:
    difference = (batch.log_probs[row] - batch.sampler_log_probs[row])[batch.mask[row]]
    ratios = difference.exp()
    return [round(ratios.min().item(), 4), round(ratios.max().item(), 4)]


def token_mean(forwards: Sequence[dict], name: str) -> float | None:
    """A figure's mean over the tokens of all forwards; None without any."""
    tokens = sum(one["tokens"] for one in forwards)
    return sum(one[name] * one["tokens"] for one in forwards) / tokens if forwards else None


def mean(values: Sequence[float]) -> float | None:
    """None of nothing: in a log's JSON, and NaN in a data frame."""
    return fmean(values) if values else None
