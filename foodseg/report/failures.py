"""What goes wrong, by kind: every prediction has exactly one outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from foodseg.data.samples import Sample
from foodseg.evaluation.predictions import Prediction

FOUND_IOU = 0.5
UNPARSED = "no answer that parses"
NO_FOOD = "parses, names no food"
OTHER_FOOD = "none of its foods is asked for"
SOME_FOODS = "foods partly right"
ELSEWHERE = f"right foods, IoU below {FOUND_IOU}"
FOUND = f"right foods, IoU {FOUND_IOU} or more"
OUTCOMES = (UNPARSED, NO_FOOD, OTHER_FOOD, SOME_FOODS, ELSEWHERE, FOUND)


def outcome(sample: Sample, prediction: Prediction) -> str:
    """Which of OUTCOMES a prediction is: the first fault, in their order."""
    if not prediction.parsed:
        return UNPARSED
    if sample.no_target:
        return FOUND if prediction.marks_nothing else OTHER_FOOD
    if not prediction.foods_named:
        return NO_FOOD
    if not set(prediction.foods_named) & set(sample.foods):
        return OTHER_FOOD
    if not prediction.foods_right:
        return SOME_FOODS
    return FOUND if iou(prediction) >= FOUND_IOU else ELSEWHERE


def iou(prediction: Prediction) -> float:
    """IoU of predicted and true mask; 0 if both are empty."""
    return prediction.intersection / max(prediction.union, 1)


def outcome_table(
    samples: Sequence[Sample], methods: Mapping[str, Sequence[Prediction]]
) -> pd.DataFrame:
    """How many questions of each method have each outcome; every column adds up to all."""
    columns = {
        title: pd.Series([outcome(s, p) for s, p in zip(samples, run, strict=True)]).value_counts()
        for title, run in methods.items()
    }
    frame = pd.DataFrame(columns).reindex(OUTCOMES).fillna(0).astype(int)
    return frame.rename_axis("outcome")


def first_of_each(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, int]:
    """The index of the first question, in the dataset's order, that fails in each way."""
    first: dict[str, int] = {}
    for i, (sample, prediction) in enumerate(zip(samples, predictions, strict=True)):
        first.setdefault(outcome(sample, prediction), i)
    return {kind: first[kind] for kind in OUTCOMES if kind != FOUND and kind in first}
