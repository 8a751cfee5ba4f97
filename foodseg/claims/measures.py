"""What claims are measured by: figures of test answers, and figures of a training's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
from scipy import stats

from foodseg.claims.rule import NO_DIFFERENCE, Difference
from foodseg.data.references import sample_ious
from foodseg.data.samples import Sample
from foodseg.evaluation.intervals import LEVEL, PlateSums, difference_interval, sum_by_plate
from foodseg.evaluation.predictions import Prediction
from foodseg.rl.habits import habits


@dataclass(frozen=True)
class OfAnswers:
    """A mean over test questions; values: (predictions, samples) -> (Q,), NaN where none counts.

    unit: of a difference, in a word or two.
    """

    name: str
    values: Callable[[Sequence[Prediction], Sequence[Sample]], np.ndarray]
    unit: str = "gIoU"


@dataclass(frozen=True)
class OfLog:
    """A figure of one run's log rows; NaN if the log has nothing to tell. unit: as above."""

    name: str
    unit: str
    value: Callable[[Sequence[dict]], float]


@dataclass(frozen=True)
class Dose:
    """How much the part that a claim is about acts: a field's mean over a row's steps and runs.

    says: a format of that number.
    """

    field: str
    says: str

    def text(self, logs: Sequence[Sequence[dict]]) -> str:
        """The sentence; "" without runs."""
        values = [row[self.field] for log in logs for row in log if row.get(self.field) is not None]
        return self.says.format(fmean(values)) if values else ""


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
    """Of the runs' figures less as many others', paired in their order; others None: less 0."""
    found = np.array([measure.value(log) for log in logs])
    if others is not None:
        found = found - np.array([measure.value(log) for log in others])
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
    """Values whose mean is gIoU of questions for three foods and more, less that for one.

    Centred within both, so that the interval is that of a difference of two ratios.
    """
    found = sample_ious([p.intersection for p in predictions], [p.union for p in predictions])
    counts = np.array([len(sample.foods) for sample in samples])
    many, one = counts >= 3, counts == 1
    means = [found[inside].mean() if inside.any() else np.nan for inside in (many, one)]
    off = [
        len(samples) * inside * (found - mean) / max(inside.sum(), 1)
        for inside, mean in zip((many, one), means, strict=True)
    ]
    return off[0] - off[1] + (means[0] - means[1])


def shown(
    predictions: Sequence[Prediction], samples: Sequence[Sample], *, habit: str
) -> np.ndarray:
    """1 where the answer shows a habit of `rl.habits`, else 0."""
    return np.array([float(habits(p.completion)[habit]) for p in predictions])


def foods_right(predictions: Sequence[Prediction], samples: Sequence[Sample]) -> np.ndarray:
    """1 where the thinking concludes with exactly the foods asked for, else 0."""
    return np.array([float(p.foods_right) for p in predictions])


GIOU = OfAnswers("gIoU", ious)
GIOU_ONE = OfAnswers("gIoU, one food asked for", partial(ious, most=1))
GIOU_TWO = OfAnswers("gIoU, two foods", partial(ious, least=2, most=2))
GIOU_MANY = OfAnswers("gIoU, three foods and more", partial(ious, least=3))
GIOU_SEVERAL = OfAnswers("gIoU, two foods and more", partial(ious, least=2))
MORE_FOR_MANY = OfAnswers("gIoU, three foods and more less one", more_for_many)
RIGHT = OfAnswers("answers whose thinking names the right foods", foods_right, "of answers")
LOOKS = OfAnswers("answers with a look", partial(shown, habit="look"), "of answers")
RAMBLES = OfAnswers("answers that ramble", partial(shown, habit="rambling"), "of answers")


# Of a log


def third(rows: Sequence[dict], name: str, number: int = 2) -> float:
    """A field's mean over a third of the steps, by default the last; NaN if it has no value."""
    size = -(-len(rows) // 3)
    return _mean(rows[number * size :][:size], name)


def growth(rows: Sequence[dict], name: str) -> float:
    """A field's mean in the last third of the steps less that in the first."""
    return third(rows, name) - third(rows, name, 0)


def at_steps(rows: Sequence[dict], name: str) -> float:
    """A field's mean over the policy's steps 9 to 24, which every run has."""
    return _mean(rows[8:24], name)


def _mean(rows: Sequence[dict], name: str) -> float:
    values = [row[name] for row in rows if row.get(name) is not None]
    return fmean(values) if values else float("nan")


def clipped_unlikely(rows: Sequence[dict]) -> float:
    """Share clipped above of the tokens of old probability below 0.5, less that of the others."""
    return _clipped(rows, ("p0_10", "p10_50")) - _clipped(rows, ("p50_90", "p90_100"))


def _clipped(rows: Sequence[dict], bins: Sequence[str]) -> float:
    pairs = [
        (row.get(f"gain_tokens_{one}"), row.get(f"clip_high_{one}")) for row in rows for one in bins
    ]
    counted = [(tokens, share) for tokens, share in pairs if tokens]
    total = sum(tokens for tokens, _ in counted)
    return sum(tokens * share for tokens, share in counted) / total if total else float("nan")


ENTROPY = OfLog("entropy in the last third", "nats", partial(third, name="entropy"))
NO_SIGNAL = OfLog(
    "groups without signal, last third less first",
    "of groups",
    partial(growth, name="zero_variance"),
)
LENGTH = OfLog("tokens of a completion in the last third", "tokens", partial(third, name="length"))
PASS = OfLog(
    "questions that one of 8 samples solves, last third",
    "of questions",
    partial(third, name="pass_at_g"),
)
DISTINCT = OfLog(
    "different foods of a group's answers, as sets, last third",
    "sets",
    partial(third, name="distinct_foods"),
)
MASK_AT_STEPS = OfLog(
    "mask reward in the policy's steps 9 to 24",
    "points",
    partial(at_steps, name="points_mask_tiers"),
)
TOOL_AT_STEPS = OfLog(
    "IoU of the decoder's masks in the policy's steps 9 to 24",
    "IoU",
    partial(at_steps, name="tool_iou"),
)
LATE_IOU = OfLog("box IoU reward in the last third", "points", partial(third, name="reward_iou"))
MORE_STEPS = OfLog(
    "samples that reason step by step, last third less first",
    "of samples",
    partial(growth, name="habit_step_by_step"),
)
LABELLED_POINTS = OfLog(
    "samples with labelled points in the last third",
    "of samples",
    partial(third, name="habit_labelled_points"),
)
CLIPPED_UNLIKELY = OfLog(
    "share clipped above of tokens less likely than 0.5, less that of the others",
    "of tokens",
    clipped_unlikely,
)

CLIPPED = Dose("clip_high_fraction", "{:.2%} of the tokens are clipped above")
VANISHED = Dose("zero_variance", "{:.1%} of the groups have no signal")
KL = Dose("kl", "the KL to the base is {:.3f} nats")
