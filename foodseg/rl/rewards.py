"""The paper's reward, R = R_fmt + R_acc + R_rep: at most 3 + 3 + 1 = 7 points.

Term for term it is VisionReasoner's (Seg-Zero repository, `vision_reasoner.py`), with the paper's
point threshold of 50 px. R_fmt = thinking format (0 or 1) + segmentation format (0 to 2; the paper
says 0 or 1, the parent's code pays up to 2); R_acc = R_IoU + R_L1 + R_L2, by Hungarian matching;
R_rep = 0 for a completion that repeats itself. All pixels are those of the model image.

Where we differ from the parent: a line break after `</answer>` costs nothing; NaN, Infinity and
numbers beyond a double are not JSON and earn nothing; huge integers do not overflow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from foodseg.data.references import Reference
from foodseg.rl.answers import BOX_KEY, BOX_LENGTH, POINT_KEY, POINT_LENGTH, Answer, parse_answer
from foodseg.rl.thresholds import RewardThresholds

MAX_OBJECTS = 120  # a side; bounds the matching's time


@dataclass(frozen=True)
class Score:
    """The reward of one completion. `iou`, `box_l1`, `point_l2` are the parts of `accuracy`."""

    thinking_format: float
    segmentation_format: float
    accuracy: float
    non_repeat: float
    iou: float
    box_l1: float
    point_l2: float

    @property
    def format(self) -> float:
        return self.thinking_format + self.segmentation_format

    @property
    def total(self) -> float:
        return self.format + self.accuracy + self.non_repeat


@dataclass(frozen=True)
class Matching:
    """A one-to-one assignment of predictions to references that maximises the summed terms.

    `pairs` (P, 2) int: index of the prediction, of its reference; P = min(#pred, #references).
    `terms` (P, 3) float64: the pair's IoU, L1 and L2 term, each 0 or 1.
    `size`: max(#pred, #references), what the sums are divided by.
    Of a right “nothing here” `pairs` is empty, `terms` one row of ones, `size` 1.
    """

    pairs: np.ndarray
    terms: np.ndarray
    size: int


def score_completion(
    completion: str,
    references: Sequence[Reference],
    thresholds: RewardThresholds,
) -> Score:
    """R of one completion; `references` and `thresholds` in pixels of the model image."""
    return score_answer(parse_answer(completion), references, thresholds)


def score_answer(
    answer: Answer,
    references: Sequence[Reference],
    thresholds: RewardThresholds,
) -> Score:
    """As `score_completion`, for a completion that is parsed already."""
    matching = match_answer(answer, references, thresholds)
    iou, box_l1, point_l2 = (matching.terms.sum(0) / max(matching.size, 1)).tolist()
    return Score(
        thinking_format=thinking_format(answer.completion),
        segmentation_format=segmentation_format(answer),
        accuracy=float(matching.terms.sum() / max(matching.size, 1)),
        non_repeat=non_repeat(answer.completion),
        iou=iou,
        box_l1=box_l1,
        point_l2=point_l2,
    )


def thinking_format(completion: str) -> float:
    """1 if the whole completion is `<think>...</think>`, white space, `<answer>...</answer>`.

    Line breaks after `</answer>` are allowed. Both bodies may be anything, even empty.
    """
    text = completion.rstrip("\r\n")
    tagged = text.startswith("<think>") and text.endswith("</answer>")
    inside = text[len("<think>") : -len("</answer>")]
    return float(tagged and re.search(r"</think>\s*<answer>", inside) is not None)


def segmentation_format(answer: Answer) -> float:
    """0 to 2: the mean over items of [`bbox_2d` is a list of 4] + [`point_2d` is a list of 2].

    As in the parent, the values in the lists are not looked at, and an item that has no keys at
    all (a number, say) ends the count: the items before it keep their points.
    """
    items = answer.items
    if not isinstance(items, list) or not items:
        return 0.0
    earned = 0
    for item in items:
        if isinstance(item, dict):
            earned += _is_list(item.get(BOX_KEY), BOX_LENGTH)
            earned += _is_list(item.get(POINT_KEY), POINT_LENGTH)
        elif not isinstance(item, str | list) or BOX_KEY in item or POINT_KEY in item:
            break
    return earned / len(items)


def non_repeat(completion: str) -> float:
    """1, or 0 once two sentences had been seen before; sentences end at any "." (decimals too)."""
    sentences = [sentence.strip() for sentence in completion.split(".")]
    sentences = [sentence for sentence in sentences if sentence]
    return float(len(sentences) - len(set(sentences)) < 2)


def match_answer(
    answer: Answer, references: Sequence[Reference], thresholds: RewardThresholds
) -> Matching:
    """The best assignment of the answer's objects to `references`, at most 120 of each.

    An answer in which any item lacks a key, or one of the first 120 has other than 4 + 2 numbers,
    matches nothing: its `pairs` are empty. So do an empty answer and empty references, but for an
    answer that says so where nothing is asked for: it is right.
    """
    if answer.nothing and not references:
        return Matching(np.zeros((0, 2), dtype=int), np.ones((1, 3)), 1)
    boxes = _coordinates(answer.items, BOX_KEY, BOX_LENGTH)
    points = _coordinates(answer.items, POINT_KEY, POINT_LENGTH)
    if boxes is None or points is None or not references:
        return Matching(np.zeros((0, 2), dtype=int), np.zeros((0, 3)), 0)
    references = references[:MAX_OBJECTS]
    terms = pairwise_terms(boxes, points, references, thresholds)
    rows, columns = linear_sum_assignment(terms.sum(2), maximize=True)
    size = max(len(boxes), len(references))
    return Matching(np.stack([rows, columns], axis=1), terms[rows, columns], size)


def pairwise_terms(
    boxes: np.ndarray,
    points: np.ndarray,
    references: Sequence[Reference],
    thresholds: RewardThresholds,
) -> np.ndarray:
    """(M, N, 3) float64 of 0 and 1: does prediction m meet each criterion for reference n?

    `boxes` (M, 4) and `points` (M, 2) float64. The point has to lie in its own predicted box too.
    """
    true_boxes = np.array([reference.box for reference in references], dtype=float)
    true_points = np.array([reference.point for reference in references], dtype=float)
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 is a coordinate like any other
        box_l1 = np.abs(boxes[:, None] - true_boxes).mean(2)
        point_l2 = np.sqrt(((points[:, None] - true_points) ** 2).sum(2))
        iou = box_iou(boxes, true_boxes)
    inside = ((boxes[:, :2] <= points) & (points <= boxes[:, 2:])).all(1)
    close = (point_l2 < thresholds.point_l2) & inside[:, None]
    return np.stack([iou > thresholds.iou, box_l1 < thresholds.box_l1, close], axis=2).astype(float)


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(M, 4), (N, 4) XYXY -> (M, N) IoU in pixels, both corners inclusive.

    A box with swapped corners overlaps nothing.
    """
    left_top = np.maximum(boxes[:, None, :2], others[:, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], others[:, 2:])
    intersection = (right_bottom - left_top + 1).clip(min=0).prod(2)
    areas, other_areas = ((b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, others))
    union = areas[:, None] + other_areas - intersection
    # an intersection makes both boxes proper and the union positive; without one, no division
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _coordinates(items: Any, key: str, length: int) -> np.ndarray | None:
    """(M, length) float64 of the first 120 items, None unless they are all there and numbers.

    A bool counts as 0 or 1, as in the parent's NumPy arrays.
    """
    if not isinstance(items, list) or not items:
        return None
    if not all(isinstance(item, dict) and key in item for item in items):
        return None
    rows = [item[key] for item in items[:MAX_OBJECTS]]
    if not all(_is_list(row, length) for row in rows):
        return None
    if not all(isinstance(value, int | float) for row in rows for value in row):
        return None
    return np.array(rows, dtype=float)
