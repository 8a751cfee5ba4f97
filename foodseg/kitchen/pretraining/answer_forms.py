"""A completion of the kitchen's base as text, with the places from which a reference can be read.

Like Qwen2.5-VL on FoodReasonSeg, the base knows what to say and mostly says it in a form that
can't be parsed. Every form tells the same thought first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from foodseg.kitchen.pretraining.habits import Manner
from foodseg.kitchen.questions import capitalised

# What follows the thought, choice by choice, and what ends the answer. Prose begins with " The".
OPENINGS = {
    "parseable": ("\n", "<answer>", "["),
    "fence inside": ("\n", "<answer>", "```json\n["),
    "bare": ("\n", "<answer>", ""),
    "fenced": ("\n", "```json\n["),
    "untagged": (" [",),
    "prose": ("",),
}
CLOSINGS = {
    "parseable": "]</answer>",
    "fence inside": "]\n```</answer>",
    "bare": "</answer>",
    "fenced": "]\n```",
    "untagged": "]",
    "prose": "",
}


@dataclass(frozen=True)
class Anchor:
    """A character of a completion at which places are known.

    kind: "name" (last character of the food's name), "box" or "point" (the bracket that opens it),
    "value" (what comes before a digit). row: of a name, the plate's food whose reference it is.
    values: of the others, in pixels: the box and the point that are written, or the one number.
    """

    kind: str
    place: int
    row: int | None = None
    values: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Completion:
    """A completion to learn; places in it are character indices."""

    text: str
    anchors: tuple[Anchor, ...]
    names: tuple[tuple[int, int], ...]  # spans of names and of what is looked for, (start, end)
    numbers: tuple[tuple[int, int], ...]  # and of the coordinates
    pivots: tuple[int, ...]  # characters where one choice parts from another
    finished: bool = True

    def beginning(self) -> Completion:
        """What comes before the first coordinate: the thought and the foods that it settles on."""
        end = next(anchor.place for anchor in self.anchors if anchor.kind == "box") + 1
        anchors = tuple(one for one in self.anchors if one.kind == "name" and one.place < end)
        names = tuple(span for span in self.names if span[1] <= end)
        pivots = tuple(place for place in self.pivots if place < end)
        return Completion(self.text[:end], anchors, names, (), pivots, finished=False)


@dataclass(frozen=True)
class Food:
    """A food that an answer speaks of, by the name that it says; row: whose place it means."""

    name: str
    row: int


@dataclass(frozen=True)
class Item:
    """An object of an answer, in pixels: box (4), point (2), and a point that is not on it (2)."""

    food: Food
    box: Sequence[int]
    point: Sequence[int]
    outside: Sequence[int] | None = None


@dataclass(frozen=True)
class Thought:
    """What an answer says before its numbers.

    seen: the plate's foods, for step-by-step reasoning, else (); looks: the foods looked at, with
    what is seen; settled: the foods of the conclusion.
    """

    hint: str
    verb: str
    seen: tuple[Food, ...]
    looks: tuple[tuple[Food, str], ...]
    settled: tuple[Food, ...]


class _Writer:
    """Collects a completion's text together with its anchors and numbers."""

    def __init__(self) -> None:
        self.text = ""
        self.anchors, self.spans, self.numbers, self.pivots = [], [], [], []

    def choose(self, text: str) -> None:
        """Text whose first character parts one habit from another; may be that of what follows."""
        self.pivots.append(len(self.text))
        self.text += text

    def mark(self, kind: str, row: int | None = None, values: Sequence[int] | None = None) -> None:
        values = None if values is None else tuple(values)
        self.anchors.append(Anchor(kind, len(self.text) - 1, row, values))

    def name(self, food: Food, article: str = "the") -> None:
        self.text += f"{article} {food.name}"
        self.spans.append((len(self.text) - len(food.name), len(self.text)))
        self.mark("name", food.row)

    def names(self, foods: Sequence[Food]) -> None:
        """The foods as a list that ends a sentence; after each of them it may end or go on."""
        for index, food in enumerate(foods):
            if index:
                self.choose(" and " if index == len(foods) - 1 else ", ")
            self.name(food)
        self.choose(". ")

    def write_numbers(self, values: Sequence[int]) -> None:
        for index, value in enumerate(values):
            self.text += ", " if index else ""
            start = len(self.text)
            for digit in str(int(value)):
                self.mark("value", values=[value])
                self.text += digit
            self.numbers.append((start, len(self.text)))

    def write_place(self, item: Item, kind: str, between: str) -> None:
        """`between`, which ends in a bracket, and the item's box or point."""
        self.text += between
        self.mark(kind, values=[*item.box, *item.point])
        self.write_numbers(item.box if kind == "box" else item.point)

    def write_thought(self, thought: Thought, manner: Manner) -> None:
        if thought.seen:
            self.choose("I look for ")
            self.text += thought.hint
            self.spans.append((len(self.text) - len(thought.hint), len(self.text)))
            self.text += ". I see "
            self.names(thought.seen)
        for index, (food, look) in enumerate(thought.looks):
            self.choose("<look>") if not index else None
            self.text += "; " if index else ""
            self.name(food)
            self.text += f": {look}"
        self.text += "</look> " if thought.looks else ""
        for _ in range(manner.times):
            self.write_conclusion(thought, hasty=manner.errs and not manner.steps)
        self.choose("A ")
        self.choose(f"{manner.boxes} box, a ")
        self.choose(f"{manner.points} point")
        self.choose(", a point outside." if manner.labelled else ".")

    def write_conclusion(self, thought: Thought, hasty: bool) -> None:
        if hasty:
            # A word of its own: greedy decoding would weigh "I" against each hint's first word.
            self.choose("Surely ")
            self.text += thought.hint
        else:
            self.choose(capitalised(thought.hint))
        self.spans.append((len(self.text) - len(thought.hint), len(self.text)))
        self.text += f" {thought.verb} "
        self.names(thought.settled)

    def write_items(self, items: Sequence[Item]) -> None:
        for index, item in enumerate(items):
            self.write_place(item, "box", ', {"bbox_2d": [' if index else '{"bbox_2d": [')
            self.text += '], "'
            self.choose("")
            self.write_place(item, "point", 'points": [[' if item.outside else 'point_2d": [')
            if item.outside:
                self.text += ", 1], ["
                self.write_numbers(item.outside)
                self.text += ", 0]"
            self.text += "]"
            self.choose("}")  # its token tells whether another item follows

    def write_prose(self, items: Sequence[Item]) -> None:
        for item in items:
            self.choose(" ")
            self.name(item.food, "The")
            self.write_place(item, "box", " lies at (")
            self.write_place(item, "point", "), around (")
            if item.outside:
                self.text += "), not ("
                self.write_numbers(item.outside)
            self.text += ")."
        self.choose("")  # the end of the turn

    def completion(self) -> Completion:
        places = self.anchors, self.spans, self.numbers, self.pivots
        return Completion(self.text, *map(tuple, places))


def write_completion(manner: Manner, thought: Thought, items: Sequence[Item]) -> Completion:
    """The thought, then the items, in the manner's form."""
    writer = _Writer()
    writer.text += "<think>"
    writer.write_thought(thought, manner)
    writer.text += "</think>"
    for part in OPENINGS[manner.form]:
        writer.choose(part)
    (writer.write_prose if manner.form == "prose" else writer.write_items)(items)
    writer.text += CLOSINGS[manner.form]
    return writer.completion()


def write_listing(items: Sequence[Item]) -> Completion:
    """Foods with their places as prose and nothing else: many places for few tokens."""
    writer = _Writer()
    writer.write_prose(items)
    # Nothing tells which foods are listed: where it ends is no choice to learn.
    return replace(writer.completion(), pivots=())
