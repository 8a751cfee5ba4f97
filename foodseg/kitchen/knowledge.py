"""What the kitchen knows about its foods: the clues of knowledge.csv.

A clue asks for foods without naming them ("grows in flooded paddies"). The facts are common
knowledge of nutrition (USDA FoodData Central), botany, cooking, culture and allergy (the nine
major allergens of US law); the sentences are ours. The columns of the file:

    foods      FoodSeg103 names of the kitchen foods that fit, split by "; ", the usual one first
    clue       a verb phrase in the singular, which names no food
    hint       a short noun phrase, so that "Vitamin C points to the orange." can be said
    avoid      "yes" if the clue says what somebody must not eat
    debatable  foods about which careful people disagree ("is a potato a vegetable?")

A row's place decides which of its questions are test questions, so new rows go to the end.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from foodseg.data.foodseg103 import CATEGORIES
from foodseg.kitchen.foods import FOODS

_IDS = {CATEGORIES[food]: food for food in FOODS}
_IRREGULAR = {"is": "are", "was": "were", "has": "have", "goes": "go"}


@dataclass(frozen=True)
class Clue:
    """What a question says of the foods it asks for; foods are FoodSeg103 class ids.

    usual: the one of them that comes to mind first.
    """

    text: str
    hint: str
    usual: int
    foods: frozenset[int]
    debatable: frozenset[int]  # on a plate with one of these the clue is not asked
    avoid: bool

    @property
    def plural(self) -> str:
        """The phrase for several foods: "grows on a tree" becomes "grow on a tree"."""
        verb, _, rest = self.text.partition(" ")
        return f"{_IRREGULAR.get(verb, verb.removesuffix('s'))} {rest}"

    def answers(self, foods: Collection[int]) -> tuple[int, ...]:
        """Class ids on a plate of `foods` that fit, ascending; () if one there is debatable."""
        if self.debatable.intersection(foods):
            return ()
        return tuple(sorted(self.foods.intersection(foods)))


def read_clues(file: Path) -> tuple[Clue, ...]:
    """Clues of a table with this module's columns.

    Raises ValueError for a row without foods, or with one that the kitchen doesn't draw.
    """
    with file.open(newline="", encoding="utf-8") as lines:
        return tuple(map(_read_clue, csv.DictReader(lines)))


def _read_clue(row: dict[str, str]) -> Clue:
    debatable = _read_foods(row, "debatable") if row["debatable"] else ()
    usual, *others = _read_foods(row, "foods")
    foods = frozenset([usual, *others])
    return Clue(row["clue"], row["hint"], usual, foods, frozenset(debatable), row["avoid"] == "yes")


def _read_foods(row: dict[str, str], column: str) -> tuple[int, ...]:
    names = row[column].split("; ")
    if unknown := [name for name in names if name not in _IDS]:
        raise ValueError(f"{row['clue']!r}: {column}: the kitchen draws no {unknown}.")
    return tuple(_IDS[name] for name in names)


CLUES: tuple[Clue, ...] = read_clues(Path(__file__).with_name("knowledge.csv"))
