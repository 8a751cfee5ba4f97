"""The runs (seeds) of one method, taken together: mean, spread, interval, difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from foodseg.data.references import sample_ious
from foodseg.data.samples import Sample
from foodseg.evaluation.intervals import interval
from foodseg.evaluation.metrics import ciou_sums, giou_sums
from foodseg.evaluation.predictions import Run, counts, scores
from foodseg.recipes import Recipe
from foodseg.supervised.targets import Baseline


def seed_rows(method: Recipe | Baseline, seeds: Sequence[int]) -> list[str]:
    """The names of a method's rows of predictions, one for each seed."""
    return [f"{method.name}-seed{seed}" for seed in seeds]


# gRefCOCO's accuracies of “nothing here”, and their columns' titles.
NOTHING_SAID = {"n_acc": "N-acc", "t_acc": "T-acc"}


def summarise_seeds(runs: Sequence[Run]) -> dict:
    """Mean, standard deviation (Bessel's) and 95% interval over runs that answered all questions.

    The interval is over plates and seeds; of a single run over plates alone.
    """
    summaries = pd.DataFrame([scores(run) for run in runs])
    result = {"seeds": len(runs), "questions": len(runs[0])}
    for name, sums in (("giou", giou_sums), ("ciou", ciou_sums)):
        mean, deviation = summaries[name].agg(["mean", "std"])  # of one run NaN
        low, high = interval(sums(*counts(runs)))
        result |= {name: mean, f"{name}_sd": deviation, f"{name}_low": low, f"{name}_high": high}
    # The last two only where some questions have no target.
    shares = [name for name in ("parse_rate", "foods_right", *NOTHING_SAID) if name in summaries]
    return result | summaries[shares].mean().to_dict()


def giou_by_foods(runs: Sequence[Run], samples: Sequence[Sample]) -> dict[str, float]:
    """The mean gIoU over runs of the questions for one food, and for several; NaN without any."""
    several = np.array([len(sample.foods) > 1 for sample in samples])
    ious = sample_ious(*counts(runs)[:2])
    parts = {"giou_one": ious[:, ~several], "giou_several": ious[:, several]}
    return {name: float(part.mean()) if part.size else float("nan") for name, part in parts.items()}


def same_questions(runs: Sequence[Run]) -> bool:
    """Whether there are at least two runs and all answered the same questions, in one order."""
    asked = [[p.sample_id for p in run] for run in runs]
    return len(asked) > 1 and all(one == asked[0] for one in asked)


def is_difference(low: float, high: float) -> bool:
    """Whether a difference may be called one: its interval excludes 0. False for NaN."""
    return low > 0 or high < 0
