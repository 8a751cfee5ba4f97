"""Binary cross-entropy and Dice loss of predicted masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mask_losses(
    logits: Tensor, truth: Tensor, smooth: float = 1.0, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """BCE, a mean over cells, and Dice loss of each mask, (...,) each.

    logits, truth: (..., H, W), truth in 0..1. With p the logits' sigmoid and q the truth, summed
    over a mask's cells, Dice is 1 - (2 sum(pq) / scale + smooth) / (sum(p + q) / scale + smooth);
    the defaults smooth it by one cell.
    """
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((-2, -1))
    chance = logits.sigmoid()
    overlap = (chance * truth).sum((-2, -1)) / scale
    total = (chance.sum((-2, -1)) + truth.sum((-2, -1))) / scale
    return bce, 1 - (2 * overlap + smooth) / (total + smooth)
