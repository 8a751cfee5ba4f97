"""Implicit questions about a plate, and multi-turn conversations in FoodReasonSeg's form.

A question is a template filled with a clue from kitchen_knowledge.py, so it never names its food.
A (template, clue) pair belongs to the test split if (template + clue) % 6 == 0, else to training:
a test question is a combination that training never sees, though it sees each template and each
clue in other combinations (a model of this size can't know words that it never saw).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from foodseg.data.foodseg103 import CATEGORIES
from foodseg.kitchen.knowledge import GROUPS, SPECIFIC

Split = Literal["train", "test"]
TEST_PERIOD = 6
MAX_ANSWERS = 3
_IDS = {name: class_id for class_id, name in CATEGORIES.items()}


@dataclass(frozen=True)
class Clue:
    """What a question says of the foods it asks for.

    text: a verb phrase in the singular; hint: a short noun phrase, so that "Vitamin C points to the
    orange." can be said; foods: class ids that fit; kind: "specific" (fits one kitchen food) or
    "group"; debatable: class ids about which people disagree (not asked when one is on the plate);
    avoid: whether it tells what somebody must not eat.
    """

    text: str
    hint: str
    foods: frozenset[int]
    kind: Literal["specific", "group"]
    debatable: frozenset[int] = frozenset()
    avoid: bool = False

    @property
    def plural(self) -> str:
        """The phrase for several foods: "grows on a tree" becomes "grow on a tree"."""
        verb, _, rest = self.text.partition(" ")
        return f"{_plural_verb(verb)} {rest}"

    def answers(self, foods: Collection[int]) -> tuple[int, ...]:
        """Class ids on a plate of `foods` that fit, ascending; () if one there is debatable."""
        if self.debatable.intersection(foods):
            return ()
        return tuple(sorted(self.foods.intersection(foods)))


@dataclass(frozen=True)
class Template:
    """A phrasing with a slot: {one} takes the singular phrase, {many} the plural one.

    number: the answers it can ask for, "one", "many" (two or three) or "any"; wish: whether it says
    that the food is wanted, which does not go with a clue of avoidance.
    """

    text: str
    number: Literal["one", "many", "any"]
    wish: bool = False

    def fits(self, clue: Clue, answers: int) -> bool:
        counted = {"one": answers == 1, "many": answers > 1, "any": answers > 0}[self.number]
        return counted and answers <= MAX_ANSWERS and not (self.wish and clue.avoid)

    def ask(self, clue: Clue) -> str:
        return self.text.format(one=clue.text, many=clue.plural)


TEMPLATES: tuple[Template, ...] = (
    Template("Which food here {one}?", "one"),
    Template("Which ingredient on this plate {one}?", "one"),
    Template("Show me the food that {one}.", "one"),
    Template("Something here {one}. Where is it?", "one"),
    Template("I am curious: which one of these {one}?", "one"),
    Template("I need a food that {one}. Where is it?", "one", wish=True),
    Template("Could you point to the one item that {one}?", "one"),
    Template("Which foods here {many}?", "many"),
    Template("Which of these ingredients {many}?", "many"),
    Template("Mark all the foods that {many}.", "many"),
    Template("Some foods here {many}. Where are they?", "many"),
    Template("I am making a list; which items on the plate {many}?", "many"),
    Template("What on this plate {one}?", "any"),
    Template("I would like something that {one}. What fits?", "any", wish=True),
    Template("Point out everything that {one}.", "any"),
    Template("My friend asks what here {one}. What do I say?", "any"),
    Template("I am learning about food; what here {one}?", "any"),
    Template("Please find whatever {one}.", "any"),
)


def _plural_verb(verb: str) -> str:
    irregular = {"is": "are", "was": "were", "has": "have", "goes": "go", "came": "came"}
    return irregular.get(verb, verb.removesuffix("s"))


def _parse_clue(line: str, food: str | None = None) -> Clue:
    fields = [field.strip() for field in line.split("|")]
    text, hint = fields[0].removeprefix("!"), fields[1]
    named = [[food]] if food else []
    named += [[name.strip() for name in field.split(",")] for field in fields[2:] if field]
    ids = [frozenset(_IDS[name] for name in names) for names in named]
    kind = "specific" if len(ids[0]) == 1 else "group"
    return Clue(text, hint, ids[0], kind, *ids[1:], avoid=fields[0].startswith("!"))


def _lines(block: str) -> list[str]:
    return [line for line in block.strip().splitlines() if line.strip()]


CLUES: tuple[Clue, ...] = tuple(
    [_parse_clue(line, food) for food, block in SPECIFIC.items() for line in _lines(block)]
    + [_parse_clue(line) for line in _lines(GROUPS)]
)


def split_of(template: int, clue: int) -> Split:
    """The split that may ask this pair of indices into TEMPLATES and CLUES."""
    return "test" if (template + clue) % TEST_PERIOD == 0 else "train"


@dataclass(frozen=True)
class Question:
    """A question that fits a plate; foods: the class ids that answer it, ascending."""

    text: str
    foods: tuple[int, ...]
    template: int  # index into TEMPLATES
    clue: int  # index into CLUES

    @property
    def hint(self) -> str:
        return CLUES[self.clue].hint


def questions_for(foods: Collection[int], split: Split) -> tuple[Question, ...]:
    """Every question of a split that a plate of these class ids answers with one to three foods."""
    return _questions_for(frozenset(foods), split)


@lru_cache(maxsize=256)
def _questions_for(foods: frozenset[int], split: Split) -> tuple[Question, ...]:
    return tuple(
        Question(template.ask(clue), answers, t, c)
        for c, clue in enumerate(CLUES)
        if (answers := clue.answers(foods))
        for t, template in enumerate(TEMPLATES)
        if template.fits(clue, len(answers)) and split_of(t, c) == split
    )


_ONE_ANSWERS = (
    "That is the {foods}.",
    "The {foods}; {hint} gives it away.",
    "You mean the {foods}.",
    "It must be the {foods}; think of {hint}.",
    "{Hint} points to the {foods}.",
    "The {foods} on this plate.",
    "Look at the {foods}.",
    "That would be the {foods}.",
)
_MANY_ANSWERS = (
    "The {foods}.",
    "I would point to the {foods}.",
    "You mean the {foods}.",
    "{Hint} points to the {foods}.",
    "On this plate, the {foods}.",
    "Those would be the {foods}.",
)
_SMALL_TALK = (
    ("Thanks! How would you serve it?", "Just as it is, on a plain plate."),
    ("Thank you. That was all.", "You are welcome. Enjoy the meal!"),
    ("Does it look fresh?", "Yes, everything on the plate looks fresh."),
    ("Is this enough for one person?", "Yes, it is a fair portion for one person."),
    ("How should I keep the rest?", "In a closed box in the fridge, for a day at most."),
)
_MANY_SHARE = 0.4  # of the turns that need a mask, where the plate has such a question
_TALK_SHARE = 0.35  # of the conversations
_PLURAL_SHARE = 0.2  # of the names
# No plural in use, or drawn one to a plate.
_ALWAYS_SINGULAR = {"rice", "bread", "corn", "fish", "shrimp", "broccoli", "french fries"} | {
    "egg",
    "eggplant",
    "steak",
}


def converse(
    foods: Collection[int], split: Split, rng: np.random.Generator
) -> list[dict[str, str]]:
    """A conversation about a plate: FoodReasonSeg's list of {"form", "value"}, in pairs.

    Two to four turns need masks, asked from `questions_for(foods, split)`, no clue twice; about one
    conversation in three has a turn more that needs none. Names are written "{name} [SEGn]", n
    from 1 in every answer, some in the plural.
    """
    turns: list[tuple[str, str]] = []
    used: set[int] = set()
    for _ in range(int(rng.integers(2, 5))):
        question = draw_question(foods, split, rng, used)
        used.add(question.clue)
        turns.append((question.text, _answer(question, rng)))
    if rng.random() < _TALK_SHARE:
        turns.append(_turn_without_mask(foods, rng))
    return [
        {"form": form, "value": value}
        for turn in turns
        for form, value in zip(("question", "answer"), turn, strict=True)
    ]


def draw_question(
    foods: Collection[int], split: Split, rng: np.random.Generator, used: Collection[int] = ()
) -> Question:
    """One of `questions_for(foods, split)` as a conversation draws it; `used`: clues left out.

    Where the plate allows, 40% have two or three answers; a clue comes first, then its phrasing
    (otherwise clues that fit more templates were asked more often).
    """
    fresh = [question for question in questions_for(foods, split) if question.clue not in used]
    many = [question for question in fresh if len(question.foods) > 1]
    one = [question for question in fresh if len(question.foods) == 1]
    pool = many if many and rng.random() < _MANY_SHARE else one
    clue = rng.choice(sorted({question.clue for question in pool}))
    phrasings = [question for question in pool if question.clue == clue]
    return phrasings[int(rng.integers(len(phrasings)))]


def _answer(question: Question, rng) -> str:
    names = [f"{{{_spell(food, rng)}}} [SEG{n}]" for n, food in enumerate(question.foods, 1)]
    sentences = _ONE_ANSWERS if len(names) == 1 else _MANY_ANSWERS
    listed = " and the ".join([", the ".join(names[:-1])] * (len(names) > 1) + names[-1:])
    sentence = sentences[int(rng.integers(len(sentences)))]
    hint = question.hint
    return sentence.format(foods=listed, hint=hint, Hint=hint[0].upper() + hint[1:])


def _spell(food: int, rng) -> str:
    """The canonical name, or now and then what people write: a plural, or cheese for its label."""
    name = CATEGORIES[food]
    if name in _ALWAYS_SINGULAR or rng.random() >= _PLURAL_SHARE:
        return name
    if name == "cheese butter":
        return "cheese"
    if name.endswith("y"):
        return name[:-1] + "ies"
    return name + ("es" if name.endswith("o") and name != "avocado" else "s")


def _turn_without_mask(foods: Collection[int], rng) -> tuple[str, str]:
    absent = sorted(_IDS[name] for name in SPECIFIC if _IDS[name] not in foods)
    choice = int(rng.integers(len(_SMALL_TALK) + 3))
    if choice < len(_SMALL_TALK):
        return _SMALL_TALK[choice]
    name = CATEGORIES[absent[int(rng.integers(len(absent)))]].replace(" butter", "")
    if name.endswith("fries"):
        return f"Are there any {name}?", "No, there are none on this plate."
    return f"Is there any {name}?", "No, there is none on this plate."
