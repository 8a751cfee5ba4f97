"""SAM-R1's tiers by hand, edges included."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from foodseg.data.references import encode_mask
from foodseg.data.samples import Sample
from foodseg.methods.sam_r1 import mask_iou, mask_threshold, mask_tiers
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import Evidence, term_name
from foodseg.rl.rewards import RewardThresholds

SIZE = (10, 20)  # height, width


def strip(first: int, last: int) -> np.ndarray:
    """Columns of 10 pixels each, from the first up to the last."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, first:last] = True
    return mask


def evidence(masks: list[np.ndarray], truth: list[np.ndarray]) -> Evidence:
    sample = Sample(
        *("test-1-0", "1", "test", "1.png", SIZE[1], SIZE[0], "Which?", ""),
        foods=("rice",) * len(truth),
        references=(),
        reference_foods=("rice",) * len(truth),
        masks=tuple(encode_mask(mask) for mask in truth),
    )
    found = np.stack(masks) if masks else np.zeros((0, *SIZE), dtype=bool)
    return Evidence(sample, parse_answer(""), (), RewardThresholds(), 168, lambda: found)


@pytest.mark.parametrize(
    "columns, iou, points",
    [(10, 1.0, 4), (9, 0.9, 4), (8, 0.8, 3), (7, 0.7, 2), (6, 0.6, 2), (5, 0.5, 0), (0, 0.0, 0)],
)
def test_tiers_and_their_edges(columns, iou, points):
    one = evidence([strip(0, columns)], [strip(0, 10)])
    assert mask_iou(one) == iou
    assert mask_tiers(one) == points


def test_masks_are_united_on_both_sides_and_a_superfluous_one_costs():
    truth = [strip(0, 5), strip(10, 15)]
    halves = [strip(0, 3), strip(3, 5), strip(10, 15)]
    assert mask_tiers(evidence(halves, truth)) == 4
    assert mask_tiers(evidence(halves[:2], truth)) == 0
    assert mask_iou(evidence([*halves, strip(15, 18)], truth)) == pytest.approx(10 / 13)
    assert mask_tiers(evidence([*halves, strip(15, 18)], truth)) == 3


def test_an_answer_without_masks_earns_nothing():
    assert mask_tiers(evidence([], [strip(0, 5)])) == 0


@pytest.mark.parametrize("threshold, earned", [(0.5, 4.0), (0.7, 4.0), (0.8, 0.0)])
def test_a_single_threshold_pays_the_most_or_nothing(threshold, earned):
    term = partial(mask_threshold, threshold=threshold)
    assert term_name(term) == "mask_threshold"
    assert term(evidence([strip(0, 8)], [strip(0, 10)])) == earned
