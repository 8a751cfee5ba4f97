"""A completion, read once: its thinking and the segmentation references that it answers with.

The form is VisionReasoner's (Seg-Zero repository, `vision_reasoner.py`):
`<think>...</think> <answer>[{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y]}, ...]</answer>`,
coordinates in model-image pixels. SAM-R1's form has `"points": [[x, y, label], ...]` in place of
`point_2d`, label 1 on the object and 0 off it. Nothing is repaired: what is not JSON earns nothing.
A policy under training writes whatever pays, so every step here takes linear time and raises
nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foodseg.data.references import Reference, scale_reference

if TYPE_CHECKING:
    from foodseg.data.samples import Sample

BOX_KEY, BOX_LENGTH = "bbox_2d", 4
POINT_KEY, POINT_LENGTH = "point_2d", 2
POINTS_KEY, MAX_POINTS = "points", 20

# Python's json stops at the interpreter's recursion limit and at 4300 digits (integers only).
# Limits of our own give the same score on every interpreter and from every call depth.
MAX_NESTING = 200
MAX_NUMBER_LENGTH = 4300


@dataclass(frozen=True)
class PredictedReference:
    """One predicted object, in model-image pixels, as the model wrote it (neither sorted nor cut).

    `box` is XYXY, inclusive; `point` is (x, y), on the object; `more` are further points, (x, y, 1)
    on it or (x, y, 0) off it. All numbers are finite.
    """

    box: tuple[float, float, float, float]
    point: tuple[float, float]
    more: tuple[tuple[float, float, int], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a completion says.

    `thinking`: the words before the answer, without tags.
    `objects`: the references to hand to SAM2; empty unless every item of the answer is usable.
    `nothing`: whether it says `[]`, that nothing fits, and was read as one that may.
    `items`: the answer's JSON value as parsed, None when it is not JSON. The reward terms that
    give partial credit read this one, so that a completion is parsed once.
    """

    completion: str
    thinking: str
    objects: tuple[PredictedReference, ...]
    items: Any = field(compare=False, repr=False)
    nothing: bool = False

    @property
    def parsed(self) -> bool:
        """True if it is a JSON list of complete items, or says that nothing fits."""
        return bool(self.objects) or self.nothing


def parse_answer(completion: str, labelled: bool = False, nothing: bool = False) -> Answer:
    """Read a completion; never raises, whatever the text.

    The answer is the first `<answer>...</answer>`. `objects` needs a JSON list of objects that
    each have `bbox_2d` of four and `point_2d` of two finite numbers (a bool is not a number).
    labelled: an object without `point_2d` may have `points` instead, at most 20, at least one of
    label 1. nothing: an empty list is an answer too, of no objects.
    """
    body = _between(completion, "<answer>", "</answer>")
    items = None if body is None else parse_json(body.strip())
    said = completion, thinking_of(completion), _objects(items, labelled), items
    return Answer(*said, nothing=nothing and items == [])


def write_items(references: Sequence[Reference]) -> str:
    """References in pixels of the model image as the JSON list of an answer."""
    return json.dumps([{BOX_KEY: list(r.box), POINT_KEY: list(r.point)} for r in references])


def write_truth(sample: Sample, side: int) -> str:
    """The same of a sample's true references, in a `side` x `side` model image."""
    return write_items([scale_reference(r, sample.size, (side, side)) for r in sample.references])


def parse_json(text: str) -> Any:
    """The JSON value of `text`, or None when it has none (or is `null`).

    Stricter than Python's parser: NaN and Infinity are not JSON (RFC 8259), and neither a number
    too large for a double, one of more than 4300 characters, nor nesting beyond 200 is taken.
    """
    if _nesting(text) > MAX_NESTING:
        return None
    try:
        return json.loads(
            text, parse_constant=_refuse, parse_float=_finite_float, parse_int=_finite_int
        )
    except ValueError:
        return None


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _finite_float(text: str) -> float:
    if len(text) > MAX_NUMBER_LENGTH or not math.isfinite(value := float(text)):
        raise ValueError("a number that no double can hold")
    return value


def _finite_int(text: str) -> int:
    _finite_float(text)
    return int(text)


def _nesting(text: str) -> int:
    """How deep brackets nest outside strings; counted only where it could pass the limit."""
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return 0
    depth = deepest = 0
    # a string may lack its closing quote, or the search would start anew at every quote in it
    for token in re.findall(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', text, re.DOTALL):
        depth += (token in "[{") - (token in "]}")
        deepest = max(deepest, depth)
    return deepest


def _between(text: str, opening: str, closing: str) -> str | None:
    """The text from the first `opening` to the first `closing` after it, None without either."""
    start = text.find(opening)
    end = text.find(closing, start + len(opening)) if start >= 0 else -1
    return text[start + len(opening) : end] if end >= 0 else None


def thinking_of(completion: str) -> str:
    """Inside `<think>`, or, where the tags are missing, all that comes before the answer."""
    inside = _between(completion, "<think>", "</think>")
    if inside is None:
        inside = completion.partition("<answer>")[0]
    return inside.replace("<think>", "").replace("</think>", "").strip()


def read_reference(item: Any, labelled: bool = False) -> PredictedReference | None:
    """The box and the points of one item of an answer; None unless it has both, whole.

    labelled: see `parse_answer`.
    """
    if not isinstance(item, dict) or not (box := _numbers(item.get(BOX_KEY), BOX_LENGTH)):
        return None
    if labelled and POINT_KEY not in item:
        points = labelled_points(item.get(POINTS_KEY))
        first = next((point for point in points if point[2]), None)
        more = tuple(point for point in points if point is not first)
        return PredictedReference(box, first[:2], more) if first else None
    point = _numbers(item.get(POINT_KEY), POINT_LENGTH)
    return PredictedReference(box, point) if point else None


def labelled_points(value: Any) -> tuple[tuple[float, float, int], ...]:
    """The points of `[[x, y, label], ...]`, labels 0 or 1; none if any is not whole."""
    if not isinstance(value, list) or len(value) > MAX_POINTS:
        return ()
    points = [_numbers(point, POINT_LENGTH + 1) for point in value]
    if not all(point and point[2] in (0, 1) for point in points):
        return ()
    return tuple((x, y, int(label)) for x, y, label in points)


def _objects(items: Any, labelled: bool) -> tuple[PredictedReference, ...]:
    found = [read_reference(item, labelled) for item in items] if isinstance(items, list) else []
    return () if None in found else tuple(found)


def _numbers(value: Any, length: int) -> tuple[float, ...] | None:
    # type() rather than isinstance(): a bool is an int
    if not isinstance(value, list) or len(value) != length:
        return None
    return tuple(map(float, value)) if all(type(v) in (int, float) for v in value) else None
