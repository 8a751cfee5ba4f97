"""The clipped policy objectives: GRPO, DAPO, Dr. GRPO and what lies between them.

    token loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_weight * k3
    r = exp(log pi - log pi_old),   k3 = exp(log ref - log pi) - (log ref - log pi) - 1

They differ in the clip range, in the KL term and in the normalisation:
"sequence" (GRPO): the mean over completions of each one's mean over tokens;
"token" (DAPO): the mean over all tokens of the gradient step's mini-batch; "constant" (Dr. GRPO):
the sum over tokens divided by completions x maximum length.

k3 is not clamped, as in TRL; the parents' trainer clamps it at 10, so that one token's cannot be
the whole step's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Normalisation = Literal["sequence", "token", "constant"]


@dataclass(frozen=True)
class Objective:
    """What tells one objective from another; `kl_weight` 0 needs no reference model."""

    clip_low: float
    clip_high: float
    kl_weight: float
    normalisation: Normalisation


@dataclass(frozen=True)
class PolicyLoss:
    """The loss, a scalar with its gradient, and figures to log.

    All figures are means over the `tokens` unmasked tokens: `clip_low_fraction` of r below its
    bound where A < 0, `clip_high_fraction` of r above its bound where A > 0, `kl` (k3, 0 without
    a reference) and `ratio` (r). Weigh by `tokens` to join those of micro-batches.
    """

    loss: Tensor
    tokens: int
    clip_low_fraction: float
    clip_high_fraction: float
    kl: float
    ratio: float

    def figures(self) -> dict[str, float]:
        """All but the loss, by name."""
        return {name: value for name, value in vars(self).items() if name != "loss"}


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    objective: Objective,
    *,
    reference_log_probs: Tensor | None = None,
    normaliser: float | None = None,
) -> PolicyLoss:
    """The loss of B completions of at most T tokens.

    `log_probs`, `old_log_probs`, `reference_log_probs`: (B, T) float, of the sampled tokens under
    the policy being trained, the one that sampled (None: the same, r = 1) and the reference.
    `advantages`: (B,) or (B, T). `mask`: (B, T), true or 1 where a token counts; whatever stands
    elsewhere, NaN included, changes nothing.

    `normaliser`: the divisor, by default `loss_normaliser` of this mask. Give that of the whole
    batch with every micro-batch, and their losses and gradients add up to the whole batch's.

    Raises ValueError for a KL weight without reference, and for "constant" without `normaliser`.
    """
    if objective.kl_weight and reference_log_probs is None:
        raise ValueError("reference_log_probs: a kl_weight above 0 needs them; give them or use 0.")
    if normaliser is None:
        normaliser = loss_normaliser(objective.normalisation, mask)
    mask = mask.bool()
    old = log_probs.detach() if old_log_probs is None else old_log_probs
    advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    ratio = _masked_difference(log_probs, old, mask).exp()
    clipped = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    token_loss = -torch.min(ratio * advantages, clipped * advantages)
    kl = torch.zeros_like(ratio)
    if reference_log_probs is not None:
        kl = k3(_masked_difference(reference_log_probs, log_probs, mask))
    if objective.kl_weight:
        token_loss = token_loss + objective.kl_weight * kl
    return PolicyLoss(
        loss=_reduce(token_loss, mask, objective.normalisation) / normaliser,
        tokens=int(mask.sum()),
        clip_low_fraction=_mean((ratio < 1 - objective.clip_low) & (advantages < 0), mask),
        clip_high_fraction=_mean((ratio > 1 + objective.clip_high) & (advantages > 0), mask),
        kl=_mean(kl, mask),
        ratio=_mean(ratio, mask),
    )


def loss_normaliser(
    normalisation: Normalisation, mask: Tensor, max_length: int | None = None
) -> float:
    """What the loss of a whole batch with this (B, T) `mask` is divided by, at least 1.

    "sequence": B; "token": the number of unmasked tokens; "constant": B x `max_length`, the most
    tokens that a completion may have.
    """
    if normalisation == "token":
        return max(float(mask.sum()), 1.0)
    if normalisation == "sequence":
        return max(float(len(mask)), 1.0)
    if max_length is None:
        raise ValueError('max_length: "constant" needs it; give the most tokens of a completion.')
    return max(float(len(mask) * max_length), 1.0)


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's estimate of KL(pi || ref) from log ref - log pi of sampled tokens; never < 0."""
    return log_ratio.exp() - log_ratio - 1


def _masked_difference(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    # Filled before exp(), so that padding can't overflow into NaN gradients.
    return (a - b).masked_fill(~mask, 0.0)


def _reduce(token_loss: Tensor, mask: Tensor, normalisation: Normalisation) -> Tensor:
    """The sum over tokens, each weighed by 1 / its completion's length for "sequence"."""
    token_loss = token_loss.masked_fill(~mask, 0.0)
    if normalisation == "sequence":
        return (token_loss.sum(1) / mask.sum(1).clamp(min=1)).sum()
    return token_loss.sum()


def _mean(values: Tensor, mask: Tensor) -> float:
    return float((values.detach() * mask).sum() / mask.sum().clamp(min=1))
