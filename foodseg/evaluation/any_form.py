"""References read from a completion whatever its form: what a model knows, apart from the form.

Scores and rewards go by `rl.answers.parse_answer`, which repairs nothing. This reader is for one
row of the results table, "Base, read in any form", and for the split of what training gains.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from foodseg.rl.answers import (
    BOX_KEY,
    BOX_LENGTH,
    POINT_KEY,
    POINT_LENGTH,
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


def read_any_form(completion: str) -> Answer:
    """Read a completion's references in any form; never raises, in linear time.

    The paper's form first (`parse_answer`); else what follows `<answer>`; else the whole text. Of
    either: JSON objects wherever they stand, with `bbox_2d` or `bbox`, and `point_2d` or the
    first point of label 1 in `points`, [[x, y, label], ...]; else, as in prose, four numbers in
    brackets followed by two. Numbers are taken as written; objects that lack a box or a point are
    left out. `thinking` and `items` are those of `parse_answer`.
    """
    strict = parse_answer(completion)
    if strict.parsed:
        return strict
    for text in (completion.partition("<answer>")[2], completion):
        if objects := _read_objects(text) or _read_prose(text):
            return replace(strict, objects=objects)
    return strict


def _read_objects(text: str) -> tuple[PredictedReference, ...]:
    values = [parse_json(match) for match in _OBJECT.findall(text)]
    found = [read_reference(_renamed(value)) for value in values if isinstance(value, dict)]
    return tuple(reference for reference in found if reference)


def _renamed(item: dict) -> dict:
    """The item's box and point under the paper's keys."""
    box = item.get(BOX_KEY, item.get("bbox"))
    return {BOX_KEY: box, POINT_KEY: item.get(POINT_KEY, _first_inside(item.get("points")))}


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
