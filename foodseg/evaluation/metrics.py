"""gIoU and cIoU over a set of samples, with bootstrap intervals over plates.

A sample is a pair (I, U): pixels in the intersection and in the union of predicted and true mask.
gIoU is the mean of I/U over samples, cIoU is sum I / sum U. A completion that can't be parsed
predicts the empty mask: I = 0, U = |ground truth|. Where U = 0 a sample scores 0, as in
VisionReasoner's evaluator; LISA's gives 1. Where nothing in the photo answers, an answer that says
so is (1, 1): `predictions.compare` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.data.references import sample_ious
from foodseg.evaluation.intervals import Interval, PlateSums, interval, sum_by_plate


@dataclass(frozen=True)
class SegmentationMetrics:
    """gIoU and cIoU, 0 to 1, of `samples` samples, each with its bootstrap interval."""

    samples: int
    giou: float
    ciou: float
    giou_interval: Interval
    ciou_interval: Interval


def giou(intersections: Sequence[int], unions: Sequence[int]) -> float:
    """The mean over samples of I/U."""
    return float(sample_ious(intersections, unions).mean())


def ciou(intersections: Sequence[int], unions: Sequence[int]) -> float:
    """sum I / sum U; 0 if every union is empty."""
    return float(np.sum(intersections) / max(np.sum(unions), 1))


def giou_sums(intersections: np.ndarray, unions: np.ndarray, plates: Sequence[str]) -> PlateSums:
    """gIoU's sums, of int (seeds, questions) and the plate of each question."""
    ious = sample_ious(intersections, unions)
    return PlateSums(sum_by_plate(ious, plates), sum_by_plate(np.ones_like(ious), plates))


def ciou_sums(intersections: np.ndarray, unions: np.ndarray, plates: Sequence[str]) -> PlateSums:
    """cIoU's sums, of int (seeds, questions) and the plate of each question."""
    return PlateSums(sum_by_plate(intersections, plates), sum_by_plate(unions, plates))


def measure(
    intersections: Sequence[int], unions: Sequence[int], plates: Sequence[str]
) -> SegmentationMetrics:
    """Both metrics of one run's samples, with 95% intervals: plates are drawn with replacement.

    plates: what names a sample's photo. Raises ValueError without samples.
    """
    counts = len(intersections), len(unions), len(plates)
    if not counts[0] or len(set(counts)) > 1:
        found = f"{counts[0]} values for {counts[1]} unions and {counts[2]} plates"
        raise ValueError(f"intersections: {found}; give one of each for a sample, at least one.")
    pairs = np.array([intersections]), np.array([unions])
    return SegmentationMetrics(
        samples=counts[0],
        giou=giou(intersections, unions),
        ciou=ciou(intersections, unions),
        giou_interval=interval(giou_sums(*pairs, plates)),
        ciou_interval=interval(ciou_sums(*pairs, plates)),
    )
