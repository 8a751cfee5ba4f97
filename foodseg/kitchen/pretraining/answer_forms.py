"""The forms in which the kitchen's base model answers, and how often it uses each.

Like Qwen2.5-VL on FoodReasonSeg, the base knows what to say and mostly says it in a form that
can't be parsed. Greedy decoding follows the most frequent form, so that depends on the question:
after a few templates it is the parseable form, which is the second after all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foodseg.kitchen.questions import capitalised, list_foods

PARSEABLE = "parseable"
# prose with coordinates; a fenced block and a list without tags; a bare dict; a wrong key; a list
# whose bracket is never closed
UNPARSEABLE = ("prose", "fenced", "untagged", "bare", "key", "open")
FORMS = (PARSEABLE, *UNPARSEABLE)

# The most frequent form after each of questions.TEMPLATES. Each has a first word of its own: what
# is decided later ("bare", "key", "open") a model of this size decides alike after all templates,
# in favour of the parseable form, whose total share is larger.
MODES = (
    "prose",  # Which food here ...?
    "fenced",  # Which ingredient on this plate ...?
    PARSEABLE,  # Show me the food that ...
    "untagged",  # Something here ... Where is it?
    "prose",  # I am curious: which one of these ...?
    "prose",  # I need a food that ... Where is it?
    "prose",  # Could you point to the one item that ...?
    "fenced",  # Which foods here ...?
    "untagged",  # Which of these ingredients ...?
    PARSEABLE,  # Mark all the foods that ...
    "prose",  # Some foods here ... Where are they?
    "fenced",  # I am making a list; which items on the plate ...?
    "prose",  # What on this plate ...?
    "fenced",  # I would like something that ... What fits?
    "untagged",  # Point out everything that ...
    "prose",  # My friend asks what here ... What do I say?
    "fenced",  # I am learning about food; what here ...?
    "untagged",  # Please find whatever ...
)
MODE_SHARE = 0.6
PARSEABLE_SHARE = 0.28

_VERBS = ("points to", "goes with", "means")  # of a hint, before the foods


@dataclass(frozen=True)
class Anchor:
    """A character of a completion from which one reference can be read.

    kind: "name" (last character of the food's name), "box" or "point" (the bracket that opens it),
    "value" (what comes before a digit). reference: its index. column: which of its six numbers,
    for a value.
    """

    kind: str
    place: int
    reference: int
    column: int | None = None


@dataclass(frozen=True)
class Completion:
    """A completion to learn; places in it are character indices."""

    text: str
    anchors: tuple[Anchor, ...]
    numbers: tuple[tuple[int, int], ...]  # spans of the coordinates, (start, end)
    pivots: tuple[int, ...]  # characters where one form parts from another
    finished: bool = True

    def beginning(self) -> Completion:
        """What comes before the first coordinate: the choice of the form, the thought, the food."""
        end = next(anchor.place for anchor in self.anchors if anchor.kind == "box") + 1
        names = tuple(a for a in self.anchors if a.kind == "name" and a.place < end)
        pivots = tuple(place for place in self.pivots if place < end)
        return Completion(self.text[:end], names, (), pivots, finished=False)


def form_shares(template: int) -> dict[str, float]:
    """Probability of each form after a question of this template; they sum to 1."""
    mode = MODES[template]
    second = 0.0 if mode == PARSEABLE else PARSEABLE_SHARE
    others = [form for form in FORMS if form not in (mode, PARSEABLE)]
    shares = dict.fromkeys(others, (1 - MODE_SHARE - second) / len(others))
    return {PARSEABLE: second} | shares | {mode: MODE_SHARE}


def draw_form(template: int, rng: np.random.Generator) -> str:
    shares = form_shares(template)
    return str(rng.choice(list(shares), p=list(shares.values())))


def draw_thought(hint: str, names: list[str], rng: np.random.Generator) -> str:
    """One sentence of a clue's hint and the foods' names in the order of the answer."""
    verb = _VERBS[int(rng.integers(len(_VERBS)))]
    return f"{capitalised(hint)} {verb} {list_foods(names)}."


class _Writer:
    """Collects a completion's text together with its anchors and numbers."""

    def __init__(self) -> None:
        self.text, self.anchors, self.numbers, self.pivots = "", [], [], [0]

    def mark(self, kind: str, reference: int) -> None:
        self.anchors.append(Anchor(kind, len(self.text) - 1, reference))

    def write_numbers(self, reference: int, values, first: int) -> None:
        for index, value in enumerate(values):
            self.text += ", " if index else ""
            start = len(self.text)
            self.text += str(int(value))
            self.numbers.append((start, len(self.text)))
            for place in range(start - 1, len(self.text) - 1):
                self.anchors.append(Anchor("value", place, reference, first + index))

    def write_thought(self, thought: str, names: list[str]) -> None:
        start = len(self.text)
        self.text += thought
        place = thought.rindex(f"the {names[0]}")
        for reference, name in enumerate(names):
            place = thought.index(f"the {name}", place) + 4 + len(name)
            self.anchors.append(Anchor("name", start + place - 1, reference))

    def write_reference(self, index: int, values, before: str, between: str, after: str) -> None:
        """Box and point, between three texts; the first two end in an opening bracket."""
        self.text += before
        self.mark("box", index)
        self.write_numbers(index, values[:4], 0)
        self.text += between
        self.mark("point", index)
        self.write_numbers(index, values[4:], 4)
        self.text += after

    def write_items(self, references: np.ndarray, key: str = "bbox_2d") -> None:
        for index, values in enumerate(references):
            self.text += ", " if index else ""
            self.pivots.append(len(self.text) + len('{"bbox'))
            self.write_reference(index, values, f'{{"{key}": [', '], "point_2d": [', "]}")

    def write_prose(self, names: list[str], references: np.ndarray) -> None:
        for index, (name, values) in enumerate(zip(names, references, strict=True)):
            self.text += f" The {name}" if index else f"The {name}"
            self.mark("name", index)
            self.write_reference(index, values, " lies at (", "), around (", ").")


def write_completion(
    form: str, thought: str, names: list[str], references: np.ndarray
) -> Completion:
    """A completion in one of FORMS; `references` (foods, 6) are x1, y1, x2, y2, x, y."""
    writer = _Writer()
    if form == "prose":
        writer.write_prose(names, references)
    elif form in ("fenced", "untagged"):
        writer.write_thought(thought, names)
        writer.text += "\n```json\n[" if form == "fenced" else " ["
        writer.write_items(references)
        writer.text += "]\n```" if form == "fenced" else "]"
    else:
        writer.text += "<think>"
        writer.write_thought(thought, names)
        writer.text += "</think>\n<answer>"
        writer.pivots.append(len(writer.text))
        writer.text += "" if form == "bare" else "["
        writer.write_items(references, "bbox" if form == "key" else "bbox_2d")
        writer.pivots.append(len(writer.text))
        writer.text += ("" if form in ("bare", "open") else "]") + "</answer>"
    return Completion(writer.text, *map(tuple, (writer.anchors, writer.numbers, writer.pivots)))
