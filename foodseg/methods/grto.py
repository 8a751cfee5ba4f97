"""GRTO and B-GRTO: SAM2's mask decoder, the tool, learns from the rollouts that teach the policy.

Of these methods we know the abstract and a note: the policy is trained by GRPO, the tool by a
differentiable objective of its own, in GRPO's form, on the same rollouts, with a stop gradient
between the two; its gradients complement the policy's rewards; B-GRTO first trains the tool alone,
for the policy as it will be after training, on a buffer of the reference policy's rollouts. Our
reading:

- Rewards and gradients can complement each other only if the policy is paid for the tool's masks:
  the recipes take SAM-R1's tiers of their IoU, of the decoder as it is at that step.
- A completion's references count alike; or, as another reading of "GRPO's form", by its reward over
  the group's mean (`by_reward`). An advantage below 0 would teach the tool to miss the truth.
- B-GRTO's policy after training is the best one for a KL penalty: p(o) exp(R(o) / temperature) / Z
  of the reference policy's p. So in stage 1 a completion counts by that factor (`post_trained`),
  Z over its group.
- The loss is BCE + Dice between the decoder's mask for a predicted reference and the true mask of
  the part that it means. Of SAM2's three masks it is the one of the highest predicted IoU, the one
  that `Segmenter.predict` hands to rewards and evaluation. The head that predicts the IoU is not
  trained, since the objective has no term for it; the tokens that it reads do move.
- Which part a reference means is what the reward's matching says. A pair that meets none of the
  three criteria was matched for want of a better one, and a reference beyond the number of parts
  has no true mask: neither teaches anything, or the decoder would learn to ignore its prompts.
- Masks are compared at the decoder's resolution, a quarter of the model image's: a cell's logit
  with the share of the cell that the true mask covers. For logits that are constant over a cell,
  this BCE is the mean over the photo's pixels.
- All that makes an image's embedding stays as it was: the image encoder, and the decoder's
  `conv_s0` and `conv_s1`, which SAM2 applies while it embeds. So does the prompt encoder.
- B-GRTO's first stage takes 40 steps on 8 rollouts of the base, which is 18% of the kitchen's
  budget of samples: the policy has 37 steps where the others have 45.
- The decoder takes one step for each step of the trainer, after the policy's gradient steps.

The gradient stops by itself: from policy to tool go numbers parsed from a text, and what comes
back are rewards, numbers as well. Nothing here draws a random number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foodseg.data.references import Reference
from foodseg.models.mask_loss import mask_losses
from foodseg.rl.evidence import to_original
from foodseg.rl.rewards import match_answer

if TYPE_CHECKING:
    from foodseg.rl.groups import Group


def alike(rewards: Sequence[float]) -> np.ndarray:
    """Weight 1 for each of a group's G completions."""
    return np.ones(len(rewards))


def by_reward(rewards: Sequence[float]) -> np.ndarray:
    """(G,) weights in proportion to the rewards, which are not negative; their mean is 1."""
    rewards = np.array(rewards)
    return rewards / rewards.mean() if rewards.any() else alike(rewards)


def post_trained(rewards: Sequence[float], *, temperature: float) -> np.ndarray:
    """(G,) weights in proportion to exp(reward / temperature); their mean is 1."""
    factors = np.exp((np.array(rewards) - max(rewards)) / temperature)
    return factors / factors.mean()


@dataclass(frozen=True)
class ToolTraining:
    """How the mask decoder is trained; frozen values, so that a recipe can hold it.

    The loss is `bce_weight` * BCE + `dice_weight` * Dice, LISA's weights by default; AdamW with a
    constant learning rate and no weight decay. weights: of a group's completions, from their
    rewards. B-GRTO's stage 1 takes `off_policy_steps` decoder steps (0: GRTO, no such stage), over
    a buffer of `off_policy_rounds` rounds of base rollouts, with the `off_policy_weights`.
    """

    learning_rate: float = 1e-4
    bce_weight: float = 2.0
    dice_weight: float = 0.5
    off_policy_steps: int = 0
    off_policy_rounds: int = 8
    weights: Callable[[Sequence[float]], np.ndarray] = alike
    off_policy_weights: Callable[[Sequence[float]], np.ndarray] = alike


def matched_references(
    group: Group, weights: Sequence[float]
) -> dict[tuple[Reference, int], list[float]]:
    """Each reference (original pixels) with the true part it was written for, and its writers'
    weights; weights: (G,), of the group's completions.

    Only pairs of the reward's matching that meet at least one of its criteria.
    """
    written: dict[tuple[Reference, int], list[float]] = {}
    for evidence, weight in zip(group.evidence, weights, strict=True):
        matching = match_answer(evidence.answer, evidence.references, evidence.thresholds)
        predicted = to_original(evidence.answer, evidence.sample, evidence.side)
        for (row, column), terms in zip(matching.pairs, matching.terms, strict=True):
            if predicted and terms.any():
                written.setdefault((predicted[row], int(column)), []).append(weight)
    return written


def tool_losses(logits: Tensor, coverage: Tensor, training: ToolTraining) -> Tensor:
    """BCE + Dice, (P,), of mask logits (P, h, w) against the covered shares (P, h, w) of cells."""
    bce, dice = mask_losses(logits, coverage)
    return training.bce_weight * bce + training.dice_weight * dice


def cell_iou(logits: Tensor, shares: Tensor) -> Tensor:
    """IoU, (P,), in cells: logits above 0 against shares above one half; 1 if both are empty."""
    mask, truth = logits > 0, shares > 0.5
    intersection, union = (mask & truth).sum((-2, -1)), (mask | truth).sum((-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def mask_coverage(mask: np.ndarray, side: int) -> Tensor:
    """Share in 0..1 of each of (side, side) cells that a boolean mask (H, W) covers."""
    return F.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), side)[0]
