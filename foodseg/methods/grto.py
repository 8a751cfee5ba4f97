"""GRTO and B-GRTO: SAM2's mask decoder, the tool, learns from the rollouts that teach the policy.

Of these methods we know the abstract alone: the policy is trained by GRPO, the tool by a
differentiable objective of its own on the same rollouts, with a stop gradient between the two;
B-GRTO first trains the tool alone, on a buffer of the reference policy's rollouts. Our reading:

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
- The decoder takes one step for each step of the trainer, after the policy's gradient steps.

The gradient stops by itself: from policy to tool go numbers parsed from a text, and what comes
back are rewards, numbers as well. Nothing here draws a random number.
"""

from __future__ import annotations

from collections import Counter
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


@dataclass(frozen=True)
class ToolTraining:
    """How the mask decoder is trained; frozen values, so that a recipe can hold it.

    The loss is `bce_weight` * BCE + `dice_weight` * Dice, LISA's weights by default; AdamW with a
    constant learning rate and no weight decay. B-GRTO's stage 1 takes `off_policy_steps` decoder
    steps (0: GRTO, no such stage), over a buffer of `off_policy_rounds` rounds of base rollouts.
    """

    learning_rate: float = 1e-4
    bce_weight: float = 2.0
    dice_weight: float = 0.5
    off_policy_steps: int = 0
    off_policy_rounds: int = 8


def matched_references(group: Group) -> Counter[tuple[Reference, int]]:
    """How many of the group's completions wrote a reference (original pixels) for a true part.

    Only pairs of the reward's matching that meet at least one of its criteria.
    """
    counted: Counter[tuple[Reference, int]] = Counter()
    for evidence in group.evidence:
        matching = match_answer(evidence.answer, evidence.references, evidence.thresholds)
        predicted = to_original(evidence.answer, evidence.sample, evidence.side)
        for (row, column), terms in zip(matching.pairs, matching.terms, strict=True):
            if predicted and terms.any():
                counted[predicted[row], int(column)] += 1
    return counted


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
