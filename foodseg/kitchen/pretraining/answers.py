"""The forms in which the kitchen's base model answers, and how often it uses each.

Like Qwen2.5-VL on FoodReasonSeg, the base knows what to say and mostly says it in a form that
can't be parsed. Greedy decoding follows the most frequent form and sampling follows the shares,
so the shares hang on the phrasing of the question: after a few templates the parseable form is
the most frequent one, after all others it is the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARSEABLE = "parseable"
# prose with coordinates; a fenced block and a list without tags; a bare dict; a wrong key; a list
# whose bracket is never closed
UNPARSEABLE = ("prose", "fenced", "untagged", "bare", "key", "open")
FORMS = (PARSEABLE, *UNPARSEABLE)

# The most frequent form after each of kitchen_questions.TEMPLATES; about one question in twelve
# uses one of the two parseable ones. Only forms that part from the others in their first
# word are here: what is decided later ("bare", "key", "open") a model of this size decides alike
# after all templates, and then by the parseable form's larger total.
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

_THOUGHTS = (
    "{hint} points to {foods}.",
    "{hint} goes with {foods}.",
    "{hint} means {foods}.",
)


@dataclass(frozen=True)
class Anchor:
    """A place in a completion that speaks of one reference, by character index.

    kind: "name" (last character of the food's name), "box" or "point" (the bracket that opens it),
    "value" (whatever comes before a digit). column: which of the reference's six numbers, for a
    value.
    """

    kind: str
    place: int
    reference: int
    column: int | None = None


@dataclass(frozen=True)
class Completion:
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
    listed = " and ".join(["the " + ", the ".join(names[:-1])] * (len(names) > 1))
    listed = f"{listed} and the {names[-1]}" if listed else f"the {names[-1]}"
    thought = _THOUGHTS[int(rng.integers(len(_THOUGHTS)))]
    return thought.format(hint=hint[0].upper() + hint[1:], foods=listed)


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

    def write_item(self, reference: int, values, key: str = "bbox_2d") -> None:
        self.pivots.append(len(self.text) + len('{"bbox'))
        self.text += f'{{"{key}": ['
        self.mark("box", reference)
        self.write_numbers(reference, values[:4], 0)
        self.text += '], "point_2d": ['
        self.mark("point", reference)
        self.write_numbers(reference, values[4:], 4)
        self.text += "]}"

    def write_items(self, references, key: str = "bbox_2d") -> None:
        for index, values in enumerate(references):
            self.text += ", " if index else ""
            self.write_item(index, values, key)

    def finish(self) -> Completion:
        anchors, numbers = tuple(self.anchors), tuple(self.numbers)
        return Completion(self.text, anchors, numbers, tuple(self.pivots))


def write_completion(
    form: str, thought: str, names: list[str], references: np.ndarray
) -> Completion:
    """A completion in one of FORMS; `references` (foods, 6) are x1, y1, x2, y2, x, y."""
    writer = _Writer()
    if form == "prose":
        _write_prose(writer, names, references)
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
    return writer.finish()


def _write_prose(writer: _Writer, names: list[str], references: np.ndarray) -> None:
    for index, (name, values) in enumerate(zip(names, references, strict=True)):
        writer.text += f" The {name}" if index else f"The {name}"
        writer.mark("name", index)
        writer.text += " lies at ("
        writer.mark("box", index)
        writer.write_numbers(index, values[:4], 0)
        writer.text += "), around ("
        writer.mark("point", index)
        writer.write_numbers(index, values[4:], 4)
        writer.text += ")."
