"""95% intervals of a score over plates and seeds, and of the difference of two methods' scores.

A score is a ratio of sums over plates (gIoU: of IoUs over questions; cIoU: of intersections over
unions), averaged over a method's seeds. Another test set would have other plates and another
training another seed, so both are resampled: plates with replacement, a plate's questions and all
seeds' answers to them together, and the seeds' scores with replacement, on their own. Drawn
crosswise (Owen 2007, "The pigeonhole bootstrap") the noise of single answers would count three
times; here it counts once, since what the seeds' scatter has of it is taken off.

A percentile interval is too narrow for few draws, by sqrt((n - 1) / n) and by a normal's quantile
in place of Student's t. Deviations are stretched by both (Hesterberg 2015, "What teachers should
know about the bootstrap"), t with the degrees of freedom of Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

Interval = tuple[float, float]
LEVEL = 0.95
RESAMPLES_AT_ONCE = 100
TAILS = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])


@dataclass(frozen=True)
class PlateSums:
    """A metric's sums; the score of a seed is sum(top) / sum(bottom).

    top, bottom: float (seeds, plates), bottom not negative; one seed for a method without any.
    """

    top: np.ndarray
    bottom: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """(seeds,) float; 0 where the bottom is empty."""
        return _ratio(self.top.sum(axis=1), self.bottom.sum(axis=1))

    @property
    def influence(self) -> np.ndarray:
        """(seeds, plates): what a plate adds to its seed's score, times the number of plates."""
        change = self.top - self.scores[:, None] * self.bottom
        return _ratio(change, self.bottom.mean(axis=1, keepdims=True))


def sum_by_plate(values: np.ndarray, plates: Sequence[str]) -> np.ndarray:
    """(seeds, questions) and the plate of each question -> (seeds, plates), plates sorted."""
    _, index = np.unique(plates, return_inverse=True)
    return np.stack([np.bincount(index, weights=row) for row in values])


def interval(row: PlateSums, *, seed: int = 0, resamples: int = 2000) -> Interval:
    """The interval of the row's mean score, within 0 and 1."""
    low, high = row.scores.mean() + _deviations([row], seed, resamples)
    return float(max(low, 0)), float(min(high, 1))


def difference_interval(
    row: PlateSums, other: PlateSums, *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """The interval of the row's mean score less the other's, within -1 and 1.

    Both have the same plates, which are drawn together. Seeds are drawn for each row on its own,
    also where both rows have seeds of one number.
    """
    difference = row.scores.mean() - other.scores.mean()
    if difference < 0:  # so that the other way round it is the same interval, turned
        low, high = difference_interval(other, row, seed=seed, resamples=resamples)
        return -high, -low
    low, high = difference + _deviations([row, other], seed, resamples)
    return float(max(low, -1)), float(min(high, 1))


def _deviations(rows: Sequence[PlateSums], seed: int, resamples: int) -> np.ndarray:
    """(2,): the interval's ends less the estimate, the first row's score less the second's."""
    generator = np.random.default_rng(seed)
    drawn = _drawn_scores(rows, generator, resamples)
    deviations = np.zeros(resamples)
    for sign, row, scores in zip((1, -1), rows, drawn, strict=False):
        count = len(row.scores)
        draws = generator.integers(count, size=(resamples, count))
        scatter = row.scores[draws].mean(axis=1) - row.scores.mean()
        of_plates = _stretch(row.top.shape[1]) * (scores - row.scores.mean())
        deviations += sign * (of_plates + _stretch(count) * _own_share(row) * scatter)
    return np.quantile(deviations, TAILS) * _student(rows)


def _drawn_scores(
    rows: Sequence[PlateSums], generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """(rows, resamples): the mean score over seeds, of plates drawn with replacement."""
    plates = rows[0].top.shape[1]
    scores = np.empty((len(rows), resamples))
    for start in range(0, resamples, RESAMPLES_AT_ONCE):  # bounds the memory
        part = scores[:, start : start + RESAMPLES_AT_ONCE]
        drawn = generator.multinomial(plates, np.full(plates, 1 / plates), size=part.shape[1])
        for row, values in zip(rows, part, strict=True):
            values[:] = _ratio(drawn @ row.top.T, drawn @ row.bottom.T).mean(axis=1)
    return scores


def _stretch(count: int) -> float:
    """Makes up for n draws of n values scattering too little, by sqrt((n - 1) / n)."""
    return np.sqrt(count / max(count - 1, 1))


def _own_share(row: PlateSums) -> float:
    """What is left of the seeds' standard deviation without the noise of single answers."""
    variance, noise = _seed_variances(row)
    return np.sqrt(max(variance - noise, 0) / variance) if variance else 0.0


def _seed_variances(row: PlateSums) -> tuple[float, float]:
    """Of the mean over seeds: its variance, and the part that is noise of single answers.

    The noise is what neither a seed nor a plate explains (two-way analysis of variance).
    """
    seeds, plates = row.top.shape
    if seeds == 1:
        return 0.0, 0.0
    rest = row.influence - row.influence.mean(axis=0)
    noise = (rest**2).sum() / max((seeds - 1) * (plates - 1), 1)
    return row.scores.var(ddof=1) / seeds, noise / (seeds * plates)


def _student(rows: Sequence[PlateSums]) -> float:
    """Student's t over the normal's quantile, by Satterthwaite's degrees of freedom."""
    means = [row.influence.mean(axis=0) for row in rows]
    plates = len(means[0])
    of_plates = means[0] if len(rows) == 1 else means[0] - means[1]
    parts = [(of_plates.var(ddof=1) / plates, 0.0, plates)] if plates > 1 else []
    parts += [(*_seed_variances(row), len(row.scores)) for row in rows]
    total = sum(max(variance - noise, 0) for variance, noise, _ in parts)
    if not total:
        return 1.0
    spread = sum(variance**2 / (count - 1) for variance, _, count in parts if count > 1)
    return float(special.stdtrit(total**2 / spread, TAILS[1]) / special.ndtri(TAILS[1]))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)
