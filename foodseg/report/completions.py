"""Completions in tables: why one does not parse, and what each reward term gives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

import pandas as pd

from foodseg.data.references import Reference
from foodseg.rl.answers import (
    BOX_KEY,
    BOX_LENGTH,
    POINT_KEY,
    POINT_LENGTH,
    POINTS_KEY,
    labelled_points,
    parse_answer,
)
from foodseg.rl.rewards import score_completion
from foodseg.rl.thresholds import RewardThresholds


def why_unparsed(completion: str, labelled: bool = False) -> str:
    """Why `parse_answer` finds no references in a completion; "" if it finds some."""
    answer = parse_answer(completion, labelled)
    if answer.parsed:
        return ""
    if "<answer>" not in completion:
        return "no <answer>"
    if "</answer>" not in completion.partition("<answer>")[2]:
        return "<answer> is never closed"
    if answer.items is None:
        return "not JSON"
    if not isinstance(answer.items, list):
        return "JSON, but no list"
    if not answer.items:
        return "an empty list"
    return next((fault for item in answer.items if (fault := _item_fault(item, labelled))), "")


def _item_fault(item, labelled: bool) -> str:
    if not isinstance(item, dict):
        return "an item is no object"
    pointed = labelled and POINTS_KEY in item and POINT_KEY not in item
    for key, length in ((BOX_KEY, BOX_LENGTH), (POINT_KEY, POINT_LENGTH))[: 1 if pointed else 2]:
        if key not in item:
            return f"an item has no {key}"
        value = item[key]
        if not isinstance(value, list) or len(value) != length:
            return f"{key} is no list of {length}"
        if not all(type(v) in (int, float) for v in value):
            return f"{key} holds something that is no number"
    if pointed and not any(label for *_, label in labelled_points(item[POINTS_KEY])):
        return f"{POINTS_KEY} is no list of [x, y, label] with a positive one"
    return ""


def count_faults(completions: Sequence[str]) -> pd.DataFrame:
    """How many completions parse, and how many fail for which reason, most frequent first."""
    counts = Counter(why_unparsed(text) or "parsed" for text in completions).most_common()
    frame = pd.DataFrame(counts, columns=["outcome", "completions"]).set_index("outcome")
    return frame.assign(share=(frame["completions"] / len(completions)).map("{:.0%}".format))


def score_table(
    completions: Sequence[str], references: Sequence[Reference], thresholds: RewardThresholds
) -> pd.DataFrame:
    """Every reward term of each completion; the index is the completion."""
    columns = "thinking_format segmentation_format iou box_l1 point_l2 non_repeat total".split()
    scores = [score_completion(text, references, thresholds) for text in completions]
    index = pd.Index(completions, name="completion")
    return pd.DataFrame(map(attrgetter(*columns), scores), index, columns).round(3)
