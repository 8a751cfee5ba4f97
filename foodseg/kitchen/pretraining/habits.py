"""The habits of the kitchen's base: how it answers by default, and how it could.

The knowledge stages teach answers that are right (`draw_right`); the habits stage teaches the
shares below (`draw_manner`), and keeps what reasoning needs (`draw_reasoned`). Each habit is drawn
by itself and is told by the answer's words before its first number, so that a reward's credit
reaches the words that choose. What fixed the shares, and how strictly: docs/kitchen.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

PARSEABLE = "parseable"
# What follows the thought: prose with coordinates; a fenced block, or a list, without the answer's
# tags; a fence inside the answer; bare objects without the list's brackets.
FORMS = (PARSEABLE, "prose", "fenced", "untagged", "fence inside", "bare")

# The default comes first in each row, the good alternative last.
SHARES: dict[str, dict] = {
    "boxes": {"wide": 0.48, "cut": 0.22, "tight": 0.30},
    "points": {"corner": 0.45, "edge": 0.27, "centre": 0.28},
    "foods": {"first": 0.42, "twice": 0.15, "one too many": 0.13, "all": 0.30},
    "steps": {False: 0.70, True: 0.30},
    "look": {False: 0.92, True: 0.08},
    "times": {4: 0.45, 5: 0.22, 1: 0.33},
    "labelled": {False: 0.91, True: 0.09},
}
# A plate of two foods is answered in the form asked for more often than a fuller one, so that
# greedy decoding is in that form now and then. Greedy decoding takes the likeliest token, not the
# likeliest form: elsewhere prose outweighs all forms together that begin with a line break.
PARSEABLE_SHARES = {2: 0.45}
PARSEABLE_SHARE = 0.18
UNPARSEABLE_SHARES = {"prose": 0.72, "fenced": 0.10, "untagged": 0.08, "fence inside": 0.06}
UNPARSEABLE_SHARES |= {"bare": 0.04}

# Of the answers without a look: those that take a look-alike's name.
LOOK_ALIKE_ERRORS = 0.4

# Shape and colour of each food; foods of one colour are look-alikes.
LOOKS = {
    "french fries": "long, yellow",
    "cheese butter": "a wedge, yellow",
    "banana": "curved, yellow",
    "lemon": "oval, yellow",
    "corn": "a cob, yellow",
    "egg": "flat, white",
    "rice": "a heap, white",
    "avocado": "a pear, green",
    "kiwi": "round, green",
    "cucumber": "thin, green",
    "broccoli": "a tree, green",
    "strawberry": "a heart, red",
    "tomato": "round, red",
    "orange": "round, orange",
    "carrot": "thin, orange",
    "shrimp": "curled, orange",
    "fish": "a block, orange",
    "steak": "flat, brown",
    "sausage": "long, brown",
    "bread": "square, brown",
    "blueberry": "small, blue",
    "eggplant": "long, blue",
}


@dataclass(frozen=True)
class Manner:
    """How one answer is given: one choice of each habit.

    times: how often it concludes. errs: whether haste, and not looking, lead to wrong foods.
    haste: how often a thought that is not step by step names the clue's usual food where the plate
    has none of it. choices: whether these choices are taught, or the rest of the answer alone.
    """

    form: str = PARSEABLE
    boxes: str = "tight"
    points: str = "centre"
    foods: str = "all"
    steps: bool = True
    look: bool = False
    times: int = 1
    labelled: bool = False
    errs: bool = False
    haste: float = 1.0
    choices: bool = True


def form_shares(foods_on_plate: int) -> dict[str, float]:
    """Probability of each form; they sum to 1."""
    parseable = PARSEABLE_SHARES.get(foods_on_plate, PARSEABLE_SHARE)
    others = {form: (1 - parseable) * share for form, share in UNPARSEABLE_SHARES.items()}
    return {PARSEABLE: parseable} | others


def draw_manner(foods_on_plate: int, rng: np.random.Generator) -> Manner:
    """A manner by the shares of the base's habits."""
    return draw_habits(form_shares(foods_on_plate), rng)


def draw_habits(forms: dict[str, float], rng: np.random.Generator) -> Manner:
    """The same with other probabilities of the forms."""
    drawn = {"form": forms} | SHARES
    return Manner(**{habit: _draw(shares, rng) for habit, shares in drawn.items()}, errs=True)


def draw_reasoned(foods_on_plate: int, rng: np.random.Generator) -> Manner:
    """Step by step, all foods, after a look in half of the cases, the rest by the habits' shares.

    At those shares such answers are so rare that what they need would be forgotten. No choice of
    theirs is taught, so that the shares stay as they are.
    """
    good = {"steps": True, "foods": "all", "look": bool(rng.random() < 0.5)}
    return replace(draw_manner(foods_on_plate, rng), **good, choices=False)


def draw_right(steps: bool, rng: np.random.Generator) -> Manner:
    """A manner of the knowledge stages: right in everything; at times a look, seldom labels."""
    look, labelled = rng.random(2) < (0.35, 0.1)
    return Manner(steps=steps, look=bool(look), labelled=bool(labelled))


def look_alikes(name: str) -> frozenset[str]:
    """The other foods of its colour."""
    colour = LOOKS[name].rpartition(" ")[2]
    return frozenset(n for n, look in LOOKS.items() if look.endswith(f" {colour}") and n != name)


def _draw(shares: dict, rng: np.random.Generator):
    return list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]
