"""Seg-Zero's strict reward for one object, 0 to 5: kept to compare the paper's reward with.

Seg-Zero repository, `seg_restrict.py`: thinking format + segmentation format + IoU + point L1 +
box L1, each 0 or 1. The answer is one JSON object with `bbox` and two points, taken from the first
brace group anywhere in the completion. Its numbers come from 840 x 840 model images.

Where we differ from the code: what `answers.parse_json` refuses (NaN, Infinity, numbers beyond a
double) earns nothing, and a line break after `</answer>` costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import dist
from typing import Any

from foodseg.rl.answers import parse_json
from foodseg.rl.rewards import thinking_format

POINT_KEYS = ("points_1", "points_2")

Box = Sequence[float]  # x1, y1, x2, y2
Point = Sequence[float]  # x, y


@dataclass(frozen=True)
class SegZeroScore:
    """Seg-Zero's terms, each 0 or 1."""

    thinking_format: float
    segmentation_format: float
    iou: float
    point_l1: float
    box_l1: float

    @property
    def total(self) -> float:
        """Their sum, 0 to 5."""
        terms = (self.thinking_format, self.segmentation_format, self.iou)
        return sum(terms) + self.point_l1 + self.box_l1


def score_seg_zero(
    completion: str, box: Box | None, points: tuple[Point, Point] | None
) -> SegZeroScore:
    """Score a completion against one box and two points in pixels of the 840 x 840 model image.

    A missing `box` or `points` scores 0 in the terms that need it.
    """
    group = _first_brace_group(completion)
    data = parse_json(group) if group else None
    data = data if isinstance(data, dict) else {}
    predicted = _four_numbers(data.get("bbox"))
    has_box = predicted is not None and box is not None
    return SegZeroScore(
        thinking_format=thinking_format(completion),
        segmentation_format=float(_is_complete(data)),
        iou=float(has_box and _iou(predicted, box) > 0.5),
        point_l1=float(points is not None and _points_close(data, predicted, points)),
        box_l1=float(has_box and sum(abs(predicted[i] - box[i]) for i in range(4)) / 4 < 10),
    )


def _first_brace_group(text: str) -> str | None:
    """The first `{...}` that holds at least one character and no `}`."""
    start = text.find("{")
    while start >= 0 and (end := text.find("}", start)) >= 0:
        if end > start + 1:
            return text[start : end + 1]
        start = text.find("{", end)
    return None


def _is_complete(data: dict[str, Any]) -> bool:
    lengths = {"bbox": 4} | dict.fromkeys(POINT_KEYS, 2)
    values = {key: data.get(key) for key in lengths}
    return all(isinstance(v, list) and len(v) == lengths[k] for k, v in values.items())


def _four_numbers(value: Any) -> list[float] | None:
    usable = isinstance(value, list) and len(value) == 4
    return value if usable and all(isinstance(v, int | float) for v in value) else None


def _iou(box: Box, other: Box) -> float:
    """Inclusive areas, but an overlap only one pixel wide or high counts as none."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    intersection = (width + 1) * (height + 1) if width > 0 and height > 0 else 0
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
    return intersection / (sum(areas) - intersection) if intersection else 0.0


def _points_close(data: dict, box: Box | None, points: tuple[Point, Point]) -> bool:
    """Both points inside the predicted box, and on average within 100 px in the better pairing."""
    try:
        first, second = ([int(v) for v in data[key]] for key in POINT_KEYS)
    except (KeyError, TypeError, ValueError):
        return False  # the code takes whatever int() takes, "130" too
    if box is None or len(first) != 2 or len(second) != 2:
        return False
    if not all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in (first, second)):
        return False
    a, b = points
    return min(dist(first, a) + dist(second, b), dist(first, b) + dist(second, a)) / 2 < 100
