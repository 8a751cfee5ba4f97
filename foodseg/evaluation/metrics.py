"""gIoU and cIoU over a set of samples, with bootstrap intervals.

A sample is a pair (I, U): pixels in the intersection and in the union of predicted and true mask.
gIoU is the mean of I/U over samples, cIoU is sum I / sum U. A completion that can't be parsed
predicts the empty mask: I = 0, U = |ground truth|. Where U = 0 a sample scores 0, as in
VisionReasoner's evaluator; LISA's gives 1. Our data has no empty ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.data.references import sample_ious

Interval = tuple[float, float]
RESAMPLES_AT_ONCE = 100
LEVEL = 0.95


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


def measure(
    intersections: Sequence[int], unions: Sequence[int], *, seed: int = 0, resamples: int = 2000
) -> SegmentationMetrics:
    """Both metrics with 95% percentile bootstrap intervals, of samples drawn with replacement.

    The same draws serve both metrics. Raises ValueError without samples.
    """
    if len(intersections) == 0 or len(intersections) != len(unions):
        found = f"{len(intersections)} values for {len(unions)} unions"
        fix = "give one pair for each sample, and at least one"
        raise ValueError(f"intersections: {found}; {fix}.")
    columns = np.stack([sample_ious(intersections, unions), intersections, unions], axis=1)
    ious, i, u = _resampled_means(columns, seed, resamples).T
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    return SegmentationMetrics(
        samples=len(columns),
        giou=giou(intersections, unions),
        ciou=ciou(intersections, unions),
        giou_interval=tuple(np.percentile(ious, tails).tolist()),
        ciou_interval=tuple(np.percentile(sample_ious(i, u), tails).tolist()),
    )


def _resampled_means(columns: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """(N, C) samples -> (resamples, C) means of N samples drawn with replacement."""
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, columns.shape[1]))
    for start in range(0, resamples, RESAMPLES_AT_ONCE):  # bounds the memory
        part = means[start : start + RESAMPLES_AT_ONCE]
        draws = generator.integers(len(columns), size=(len(part), len(columns)))
        part[:] = columns[draws].mean(axis=1)
    return means
