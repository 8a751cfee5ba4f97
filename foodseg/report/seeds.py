"""The runs (seeds) of one method, taken together: mean, spread, interval, difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from foodseg.data.references import sample_ious
from foodseg.evaluation.evaluate import Prediction, summarise
from foodseg.evaluation.metrics import measure

Run = Sequence[Prediction]


def summarise_seeds(runs: Sequence[Run]) -> dict:
    """Mean, standard deviation (Bessel's) and 95% interval over runs that answered all questions.

    A question's seeds are not independent: the bootstrap draws them together, as one question.
    """
    summaries = pd.DataFrame([summarise(run) for run in runs])
    intersections = np.sum([[p.intersection for p in run] for run in runs], axis=0)
    unions = np.sum([[p.union for p in run] for run in runs], axis=0)
    ious = _mean_ious(runs)
    intervals = {
        "giou": measure(ious, np.ones(len(ious))).giou_interval,
        "ciou": measure(intersections, unions).ciou_interval,
    }
    result = {"seeds": len(runs), "questions": len(ious)}
    for name, (low, high) in intervals.items():
        mean, deviation = summaries[name].agg(["mean", "std"])  # of one run NaN
        result |= {name: mean, f"{name}_sd": deviation, f"{name}_low": low, f"{name}_high": high}
    return result | summaries[["parse_rate", "foods_right"]].mean().to_dict()


def same_questions(runs: Sequence[Run]) -> bool:
    """Whether there are at least two runs and all answered the same questions, in one order."""
    asked = [[p.sample_id for p in run] for run in runs]
    return len(asked) > 1 and all(one == asked[0] for one in asked)


def paired_difference(runs: Sequence[Run], others: Sequence[Run]) -> tuple[float, float, float]:
    """gIoU of one method's runs less that of another's: mean, and its 95% interval.

    Question by question, each method's seeds averaged; both must have answered the same questions.
    """
    difference = _mean_ious(runs) - _mean_ious(others)
    measured = measure(difference, np.ones(len(difference)))
    return measured.giou, *measured.giou_interval


def _mean_ious(runs: Sequence[Run]) -> np.ndarray:
    """Each question's IoU, averaged over the runs."""
    ious = [sample_ious([p.intersection for p in run], [p.union for p in run]) for run in runs]
    return np.mean(ious, axis=0)
