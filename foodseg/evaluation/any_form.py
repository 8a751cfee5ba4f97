"""References read from a completion whatever its form: what a model knows, apart from the form.

Scores and rewards go by `rl.answers.parse_answer`, which repairs nothing. This reader is for one
row of the results table, "Base, read in any form", for the split of what training gains, and for
the lenient reading of other systems' completions (`make score`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

from foodseg.rl.answers import (
    BOX_KEY,
    BOX_LENGTH,
    POINT_KEY,
    POINT_LENGTH,
    POINTS_KEY,
    Answer,
    PredictedReference,
    parse_answer,
    parse_json,
    read_reference,
)

# An innermost pair of braces, or of brackets around numbers. Each search ends at the next opening
# one, so that all of them together take linear time.
_OBJECT = re.compile(r"\{[^{}]*\}")
_NUMBERS = re.compile(r"[(\[]([-+.,\deE\s]*)[)\]]")
_EMPTY = re.compile(r"(?:```(?:json)?\s*)?\[\s*\](?:\s*```)?")
_RETHINK = re.compile(r"</?rethink>")

Which = Literal["first", "last"]


def read_any_form(completion: str, which: Which = "first", nothing: bool = False) -> Answer:
    """Read a completion's references in any form; never raises, in linear time.

    From what follows the last `<rethink>`, else from the whole text: what stands in `<answer>`, the
    first or the last one; else what follows `</think>`; else all of it. Of each of these the
    paper's form first (`parse_answer`); else JSON objects wherever they stand, with `bbox_2d` or
    `bbox`, and `point_2d`, the first point of label 1 in `points`, [[x, y, label], ...], or
    `points_1` and `points_2`; else, as in prose, four numbers in brackets followed by two. Numbers
    are taken as written; objects that lack a box or a point are left out. `thinking` and `items`
    are those of `parse_answer`. nothing: an empty list there, in a fence or not, is an answer too.
    """
    strict = parse_answer(completion)
    for scope in dict.fromkeys((_RETHINK.split(completion)[-1], completion)):
        for text in dict.fromkeys((_answer(scope, which), scope.rpartition("</think>")[2], scope)):
            written = parse_answer(f"<answer>{text}</answer>").objects
            if objects := written or _read_objects(text) or _read_prose(text):
                return replace(strict, objects=objects)
            if nothing and _EMPTY.fullmatch(text.strip()):
                return replace(strict, nothing=True)
    return strict


def _answer(text: str, which: Which) -> str:
    """What stands in the first or the last `<answer>`, whether it is closed or not; "" without."""
    answers = text.split("<answer>")[1:] or [""]
    return answers[0 if which == "first" else -1].partition("</answer>")[0]


def _read_objects(text: str) -> tuple[PredictedReference, ...]:
    values = [parse_json(match) for match in _OBJECT.findall(text)]
    items = [_renamed(value) for value in values if isinstance(value, dict)]
    found = [read_reference(item, labelled=True) for item in items]
    return tuple(reference for reference in found if reference)


def _renamed(item: dict) -> dict:
    """The item's box and points under the paper's keys; Seg-Zero's two points are both inside."""
    box = item.get(BOX_KEY, item.get("bbox"))
    pair = [item[key] for key in ("points_1", "points_2") if isinstance(item.get(key), list)]
    if pair and POINT_KEY not in item:
        return {BOX_KEY: box, POINTS_KEY: [[*point, 1] for point in pair]}
    return {BOX_KEY: box, POINT_KEY: item.get(POINT_KEY, _first_inside(item.get(POINTS_KEY)))}


def _first_inside(points: Any) -> list | None:
    """The first labelled point, [x, y, 1], without its label."""
    points = points if isinstance(points, list) else []
    inside = (p[:2] for p in points if isinstance(p, list) and len(p) == 3 and p[2] == 1)
    return next(inside, None)


def _read_prose(text: str) -> tuple[PredictedReference, ...]:
    """A reference for each four bracketed numbers that two follow, whatever stands between."""
    found, box = [], None
    for numbers in _NUMBERS.findall(text):
        values = parse_json(f"[{numbers}]") or []
        if len(values) == BOX_LENGTH:
            box = values
        elif len(values) == POINT_LENGTH and box:
            found.append(read_reference({BOX_KEY: box, POINT_KEY: values}))
            box = None
    return tuple(found)
