"""What claims are measured by: figures of test answers, and figures of a training's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
from scipy import stats

from foodseg.claims.rule import LEVEL, NO_DIFFERENCE, Difference
from foodseg.data.references import sample_ious
from foodseg.data.samples import Sample
from foodseg.evaluation.evaluate import Prediction
from foodseg.evaluation.intervals import PlateSums, difference_interval, sum_by_plate
from foodseg.rl.answers import parse_answer
from foodseg.rl.habits import habits

MANY = 4  # foods asked for, and more


@dataclass(frozen=True)
class OfAnswers:
    """A mean over test questions; values: (predictions, samples) -> (Q,), NaN where none counts."""

    name: str
    values: Callable[[Sequence[Prediction], Sequence[Sample]], np.ndarray]


@dataclass(frozen=True)
class OfLog:
    """A figure of one run's log rows; NaN if the log has nothing to tell."""

    name: str
    value: Callable[[Sequence[dict]], float]


def answers_difference(
    measure: OfAnswers,
    runs: Sequence[Sequence[Prediction]],
    others: Sequence[Sequence[Prediction]],
    samples: Sequence[Sample],
) -> Difference:
    """Of the runs' answers less the others', over plates and seeds."""
    if not runs or not others:
        return NO_DIFFERENCE
    row, other = (_plate_sums(measure, each, samples) for each in (runs, others))
    if not (row.bottom.sum(1).all() and other.bottom.sum(1).all()):
        return NO_DIFFERENCE  # a run has no answer that counts
    low, high = difference_interval(row, other)
    mean = float(row.scores.mean() - other.scores.mean())
    return Difference(mean, low, high, min(len(runs), len(others)))


def log_difference(
    measure: OfLog, logs: Sequence[Sequence[dict]], others: Sequence[Sequence[dict]] | None
) -> Difference:
    """Of the runs' figures less the others', paired in their order; others None: less 0."""
    found = np.array([measure.value(log) for log in logs])
    if others is not None:
        count = min(len(logs), len(others))
        found = found[:count] - np.array([measure.value(log) for log in others[:count]])
    if len(found) < 2 or np.isnan(found).any():
        return NO_DIFFERENCE
    reach = stats.t.ppf((1 + LEVEL) / 2, len(found) - 1) * stats.sem(found)
    mean = float(found.mean())
    return Difference(mean, mean - float(reach), mean + float(reach), len(found))


def _plate_sums(
    measure: OfAnswers, runs: Sequence[Sequence[Prediction]], samples: Sequence[Sample]
) -> PlateSums:
    values = np.stack([measure.values(run, samples) for run in runs])
    plates = [sample.image for sample in samples]
    counted = ~np.isnan(values)
    return PlateSums(
        sum_by_plate(np.where(counted, values, 0.0), plates),
        sum_by_plate(counted.astype(float), plates),
    )


# Of test answers


def ious(
    predictions: Sequence[Prediction],
    samples: Sequence[Sample],
    least: int = 1,
    most: int | None = None,
) -> np.ndarray:
    """IoU of each question's mask; NaN where fewer or more foods are asked for."""
    found = sample_ious([p.intersection for p in predictions], [p.union for p in predictions])
    counts = np.array([len(sample.foods) for sample in samples])
    inside = (counts >= least) & (counts <= (most or counts.max()))
    return np.where(inside, found, np.nan)


def more_for_many(predictions: Sequence[Prediction], samples: Sequence[Sample]) -> np.ndarray:
    """Values whose mean is gIoU of questions for three foods and more, less that for one."""
    found = sample_ious([p.intersection for p in predictions], [p.union for p in predictions])
    counts = np.array([len(sample.foods) for sample in samples])
    many, one = counts >= 3, counts == 1
    return len(samples) * found * (many / max(many.sum(), 1) - one / max(one.sum(), 1))


def shown(
    predictions: Sequence[Prediction], samples: Sequence[Sample], *, habit: str
) -> np.ndarray:
    """1 where the answer shows a habit of `rl.habits`, else 0."""
    return np.array([float(habits(p.completion)[habit]) for p in predictions])


def negatives_outside(predictions: Sequence[Prediction], samples: Sequence[Sample]) -> np.ndarray:
    """Share of an answer's points of label 0 that lie outside their own box; NaN without any."""
    shares = []
    for prediction in predictions:
        objects = parse_answer(prediction.completion, labelled=True).objects
        out = [
            not (one.box[0] <= x <= one.box[2] and one.box[1] <= y <= one.box[3])
            for one in objects
            for x, y, label in one.more
            if not label
        ]
        shares.append(fmean(out) if out else np.nan)
    return np.array(shares)


GIOU = OfAnswers("gIoU", ious)
GIOU_ONE = OfAnswers("gIoU, one food asked for", partial(ious, most=1))
GIOU_TWO = OfAnswers("gIoU, two foods", partial(ious, least=2, most=2))
GIOU_THREE = OfAnswers("gIoU, three foods", partial(ious, least=3, most=3))
GIOU_MANY = OfAnswers("gIoU, four foods and more", partial(ious, least=MANY))
GIOU_SEVERAL = OfAnswers("gIoU, two foods and more", partial(ious, least=2))
MORE_FOR_MANY = OfAnswers("gIoU, three foods and more less one", more_for_many)
STEPS = OfAnswers("answers that reason step by step", partial(shown, habit="step by step"))
LOOKS = OfAnswers("answers with a look", partial(shown, habit="look"))
RAMBLES = OfAnswers("answers that ramble", partial(shown, habit="rambling"))
NEGATIVES = OfAnswers("negative points outside their box", negatives_outside)


# Of a log


def third(rows: Sequence[dict], name: str, number: int = 2) -> float:
    """A field's mean over a third of the steps, by default the last; NaN if it has no value."""
    size = -(-len(rows) // 3)
    values = [row[name] for row in rows[number * size :][:size] if row.get(name) is not None]
    return fmean(values) if values else float("nan")


def growth(rows: Sequence[dict], name: str) -> float:
    """A field's mean in the last third of the steps less that in the first."""
    return third(rows, name) - third(rows, name, 0)


def unlikely_gain(rows: Sequence[dict]) -> float:
    """How much likelier a step's earlier updates made better tokens that had less than 10%.

    In percent, the mean over all such tokens of the run.
    """
    known = [row for row in rows if row.get("gain_p0_10") is not None]
    tokens = sum(row["gain_tokens_p0_10"] for row in known)
    gained = sum(row["gain_p0_10"] * row["gain_tokens_p0_10"] for row in known)
    return 100 * gained / tokens if tokens else float("nan")


UNLIKELY_GAIN = OfLog("gain of better tokens below 10%, in percent", unlikely_gain)
ENTROPY = OfLog("entropy in the last third (nats)", partial(third, name="entropy"))
NO_SIGNAL = OfLog(
    "groups without signal, last third less first", partial(growth, name="zero_variance")
)
LENGTH = OfLog("tokens of a completion in the last third", partial(third, name="length"))
PASS = OfLog("questions that one of 8 samples solves, last third", partial(third, name="pass_at_g"))
DISTINCT = OfLog("foods in a group's answers, last third", partial(third, name="distinct_foods"))
MIDDLE_MASK = OfLog(
    "mask reward in the middle third", partial(third, name="points_mask_tiers", number=1)
)
LATE_MASK = OfLog("mask reward in the last third", partial(third, name="points_mask_tiers"))
