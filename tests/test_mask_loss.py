"""BCE and Dice by hand, and LISA's smoothing."""

from __future__ import annotations

import math

import pytest
import torch

from foodseg.models.mask_loss import mask_losses


def test_two_undecided_cells_of_which_one_is_food():
    logits, truth = torch.zeros(3, 1, 2), torch.tensor([[[1.0, 0.0]]]).expand(3, 1, 2)
    bce, dice = mask_losses(logits, truth)
    assert bce.tolist() == pytest.approx([math.log(2)] * 3)
    assert dice.tolist() == pytest.approx([1 - (2 * 0.5 + 1) / (1 + 1 + 1)] * 3)
    _, lisas = mask_losses(logits, truth, smooth=1e-6, scale=1000)
    assert lisas.tolist() == pytest.approx([1 - (1 + 1e-3) / (2 + 1e-3)] * 3)


def test_a_certain_mask_loses_nothing_and_its_opposite_everything():
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right, wrong = (mask_losses(sign * 40 * (truth - 0.5), truth) for sign in (1, -1))
    assert right[0] < 1e-8 and right[1] == pytest.approx(0, abs=1e-6)
    assert wrong[0] == pytest.approx(20) and wrong[1] == pytest.approx(1 - 1 / 5)
