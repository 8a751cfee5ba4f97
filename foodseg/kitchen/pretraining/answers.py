"""What the kitchen's base answers to a question about a plate, in a given manner."""

from __future__ import annotations

import numpy as np

from foodseg.data.foodseg103 import CATEGORIES
from foodseg.kitchen.knowledge import CLUES
from foodseg.kitchen.plates import FOOD_NUMBERS, KITCHEN_FOODS
from foodseg.kitchen.pretraining.answer_forms import (
    Completion,
    Food,
    Item,
    Thought,
    write_completion,
    write_listing,
)
from foodseg.kitchen.pretraining.habits import (
    LOOK_ALIKE_ERRORS,
    LOOKS,
    Manner,
    look_alikes,
)
from foodseg.kitchen.pretraining.mllm import SIDE
from foodseg.kitchen.questions import Question

FOOD_NAMES = tuple(CATEGORIES[food] for food in KITCHEN_FOODS)
VERBS = ("points to", "goes with")
INSET = 2  # pixels from a box's upper left corner or left edge to the point there
WIDE = 28  # pixels by which a wide box is too wide on every side
CUT = 0.45  # share of a box that a cut one keeps


def write_answer(
    question: Question,
    foods: np.ndarray,
    references: np.ndarray,
    manner: Manner,
    rng: np.random.Generator,
) -> Completion:
    """The completion; foods (6,) and references (6, 6) are a row of `Pictures`."""
    count = int((foods > 0).sum())
    seen = [Food(FOOD_NAMES[number - 1], row) for row, number in enumerate(foods[:count])]
    answers = set(FOOD_NUMBERS[list(question.foods)])
    fits = [number in answers for number in foods[:count]]
    settled = settle(question, seen, fits, manner, rng)
    thought = Thought(
        hint=question.hint,
        verb=str(rng.choice(VERBS)),
        seen=tuple(seen) if manner.steps else (),
        looks=tuple((food, LOOKS[food.name]) for food in settled) if manner.look else (),
        settled=tuple(settled),
    )
    items = [place(food, references[:count], manner) for food in settled]
    return write_completion(manner, thought, items)


def write_foods(rows: np.ndarray, foods: np.ndarray, references: np.ndarray) -> Completion:
    """A listing of the plate's foods in those rows, with their true places."""
    named = [Food(FOOD_NAMES[foods[row] - 1], int(row)) for row in rows]
    return write_listing([_exact(food, references[food.row]) for food in named])


def settle(
    question: Question,
    seen: list[Food],
    fits: list[bool],
    manner: Manner,
    rng: np.random.Generator,
) -> list[Food]:
    """The foods that an answer names: the right ones, less what the manner gets wrong."""
    right = [food for food, fit in zip(seen, fits, strict=True) if fit]
    wrong = [food for food, fit in zip(seen, fits, strict=True) if not fit]
    settled = list(right)
    usual = FOOD_NAMES[FOOD_NUMBERS[CLUES[question.clue].usual] - 1]
    if manner.errs and not manner.steps and usual not in {food.name for food in seen}:
        if rng.random() < manner.haste:
            where = wrong[int(rng.integers(len(wrong)))] if wrong else right[0]
            settled[0] = Food(usual, where.row)
    alike = [food for food in wrong if food.name in look_alikes(settled[0].name)]
    if manner.errs and alike and not manner.look and rng.random() < LOOK_ALIKE_ERRORS:
        settled[0] = alike[0]
    if len(right) == 1 or manner.foods == "all":
        return settled
    if manner.foods == "one too many":
        rows = {food.row for food in settled}
        return settled + [food for food in wrong if food.row not in rows][:1]
    return settled[:1] * (2 if manner.foods == "twice" else 1)


def place(food: Food, references: np.ndarray, manner: Manner) -> Item:
    """The box and the points that are given for a food; references (foods, 6)."""
    reference = references[food.row]
    box = {"tight": _tight, "wide": _wide, "cut": _cut}[manner.boxes](reference[:4])
    at_border = {"corner": box[:2] + INSET, "edge": [box[0] + INSET, (box[1] + box[3]) // 2]}
    point = at_border.get(manner.points, reference[4:])
    outside = _nearest_other(food.row, references) if manner.labelled else None
    return Item(food, *(tuple(int(v) for v in values) for values in (box, point)), outside)


def _exact(food: Food, reference: np.ndarray) -> Item:
    values = [int(value) for value in reference]
    return Item(food, values[:4], values[4:])


def _tight(box: np.ndarray) -> np.ndarray:
    return box


def _wide(box: np.ndarray) -> np.ndarray:
    return (box + WIDE * np.array([-1, -1, 1, 1])).clip(0, SIDE - 1)


def _cut(box: np.ndarray) -> np.ndarray:
    """The box's left part."""
    return np.array([*box[:2], box[0] + CUT * (box[2] - box[0]), box[3]])


def _nearest_other(row: int, references: np.ndarray) -> tuple[int, int]:
    """The point of the plate's food that lies nearest to this one's."""
    distance = np.linalg.norm(references[:, 4:] - references[row, 4:], axis=1)
    distance[row] = np.inf
    return tuple(int(value) for value in references[distance.argmin(), 4:])
