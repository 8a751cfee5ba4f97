"""gIoU and cIoU against LISA's and VisionReasoner's evaluators."""

import json
from pathlib import Path

import numpy as np
import pytest

from foodseg.data.references import intersection_union, sample_ious
from foodseg.evaluation.metrics import ciou, giou, measure

VECTORS = Path(__file__).parent / "vectors"
CASES = json.loads((VECTORS / "lisa_metrics.json").read_text())["cases"]
MASK_CASES = [case for case in CASES if case["input"]["kind"] == "masks"]
PAIR_CASES = [case for case in CASES if case["input"]["kind"] == "pairs"]


def masks_of(case: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    masks = [mask for image in case["input"]["images"] for mask in image]
    return [tuple(np.array([list(row) for row in m[key]]) for key in ("pred", "gt")) for m in masks]


def lisa(pairs: list[tuple[int, int]]) -> tuple[float, float, float]:
    """LISA's convention: both empty is 1, small constants below the lines (methods.md, 4)."""
    i, u = np.array(pairs, dtype=float).T
    ious = i / (u + 1e-5) + (u == 0)
    return ious.mean(), ious.sum() / (len(ious) + 1e-5), i.sum() / (u.sum() + 1e-10)


@pytest.mark.parametrize("case", MASK_CASES, ids=lambda case: case["name"])
def test_counts_and_metrics_are_those_of_visionreasoner(case):
    want = case["output"]["visionreasoner"]  # 255 counts as foreground there
    pairs = [intersection_union(p == "1", g != "0") for p, g in masks_of(case)]
    assert [list(pair) for pair in pairs] == want["per_item"]
    got = measure(*zip(*pairs, strict=True), list(map(str, range(len(pairs)))))
    assert got.giou == pytest.approx(want["giou"], abs=1e-12)
    assert got.ciou == pytest.approx(want["ciou"], abs=1e-12)


@pytest.mark.parametrize("case", MASK_CASES, ids=lambda case: case["name"])
def test_from_the_same_counts_lisas_convention_gives_lisas_numbers(case):
    """And ours differs from it in empty samples only, but for LISA's small constants."""
    want = case["output"]["lisa"]
    pairs = [intersection_union((p == "1") & (g != "x"), g == "1") for p, g in masks_of(case)]
    counts = [mask for image in want["per_mask"] for mask in image]
    assert pairs == [(mask["intersection"], mask["union"]) for mask in counts]
    mean, reduced, cumulative = lisa(pairs)
    assert mean == pytest.approx(want["giou_before_all_reduce"], abs=1e-6)
    assert reduced == pytest.approx(want["giou"], abs=1e-6)
    assert cumulative == pytest.approx(want["ciou"], abs=1e-6)
    i, u = zip(*pairs, strict=True)
    assert giou(i, u) + np.mean(np.equal(u, 0)) == pytest.approx(mean, abs=1e-5)
    assert ciou(i, u) == pytest.approx(cumulative, abs=1e-9)


@pytest.mark.parametrize("case", PAIR_CASES, ids=lambda case: case["name"])
def test_metrics_of_pairs(case):
    want = case["output"]["visionreasoner"]
    i, u = zip(*case["input"]["items"], strict=True)
    assert giou(i, u) == pytest.approx(want["giou"], abs=1e-12)
    assert ciou(i, u) == pytest.approx(want["ciou"], abs=1e-12)


def test_an_empty_mask_counts_the_whole_ground_truth_and_two_empty_ones_score_0():
    truth = np.zeros((4, 5), dtype=bool)
    truth[1:3, 1:4] = True
    assert intersection_union(np.zeros_like(truth), truth) == (0, 6)
    assert ciou([6, 0], [6, 6]) == giou([6, 0], [6, 6]) == 0.5
    assert sample_ious([0, 5], [0, 10]).tolist() == [0, 0.5]
    assert (giou([0], [0]), ciou([0], [0])) == (0, 0)


def test_masks_of_different_shape_and_no_samples_are_refused():
    with pytest.raises(ValueError, match="shape"):
        intersection_union(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="at least one"):
        measure([], [], [])
    with pytest.raises(ValueError, match="2 values for 2 unions and 1 plates"):
        measure([1, 2], [3, 4], ["one.jpg"])
