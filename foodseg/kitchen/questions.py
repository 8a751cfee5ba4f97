"""Implicit questions about a plate, and multi-turn conversations in FoodReasonSeg's form.

A question is a template filled with one of knowledge.py's clues, so it never names its food.
A (template, clue) pair belongs to the test split if (template + clue) % 6 == 0, else to training,
which so sees each template and each clue: a model of this size can't know words it never saw.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from foodseg.data.foodseg103 import CATEGORIES
from foodseg.kitchen.foods import FOODS
from foodseg.kitchen.knowledge import CLUES, Clue

Split = Literal["train", "test"]
TEST_PERIOD = 6
MAX_ANSWERS = 5
MANY_SHARE = 0.4  # of the questions on plates that have one with several answers
# Of the questions for one food on plates that have one whose clue fits other foods too: there the
# clue's usual food is often not the answer.
SHARED_SHARE = 0.5


@dataclass(frozen=True)
class Template:
    """A phrasing with a slot: {one} takes the singular phrase, {many} the plural one."""

    text: str
    number: Literal["one", "many", "any"]  # the answers it can ask for; many: two to five
    wish: bool = False  # it wants the food, which does not go with a clue of avoidance

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


def split_of(template: int, clue: int) -> Split:
    """The split that may ask this pair of indices into TEMPLATES and CLUES."""
    return "test" if (template + clue) % TEST_PERIOD == 0 else "train"


@dataclass(frozen=True)
class Question:
    """A question that fits a plate; foods: the class ids that answer it, ascending; () if none."""

    text: str
    foods: tuple[int, ...]
    template: int  # index into TEMPLATES
    clue: int  # index into CLUES

    @property
    def hint(self) -> str:
        return CLUES[self.clue].hint


def questions_for(foods: Collection[int], split: Split) -> tuple[Question, ...]:
    """Every question of a split that a plate of these class ids answers with one to five foods."""
    return _questions_for(frozenset(foods), split)


def absent_questions(foods: Collection[int], split: Split) -> tuple[Question, ...]:
    """Every question of a split that none of these class ids answers, as other plates are asked.

    A clue that is debatable on this plate is not asked; phrasings for several foods need a clue
    that fits several somewhere.
    """
    return tuple(
        Question(template.ask(clue), (), t, c)
        for c, clue in enumerate(CLUES)
        if not (clue.foods | clue.debatable).intersection(foods)
        for t, template in enumerate(TEMPLATES)
        if any(template.fits(clue, count) for count in (1, len(clue.foods)))
        and split_of(t, c) == split
    )


@lru_cache(maxsize=256)
def _questions_for(foods: frozenset[int], split: Split) -> tuple[Question, ...]:
    return tuple(
        Question(template.ask(clue), answers, t, c)
        for c, clue in enumerate(CLUES)
        if (answers := clue.answers(foods))
        for t, template in enumerate(TEMPLATES)
        if template.fits(clue, len(answers)) and split_of(t, c) == split
    )


# Capitalised once they are filled in.
_ONE_ANSWERS = (
    "that is {foods}.",
    "{foods}; {hint} gives it away.",
    "you mean {foods}.",
    "it must be {foods}; think of {hint}.",
    "{hint} points to {foods}.",
    "{foods} on this plate.",
    "look at {foods}.",
    "that would be {foods}.",
)
_MANY_ANSWERS = (
    "{foods}.",
    "I would point to {foods}.",
    "you mean {foods}.",
    "{hint} points to {foods}.",
    "on this plate, {foods}.",
    "those would be {foods}.",
)
_SMALL_TALK = (
    ("Thanks! How would you serve it?", "Just as it is, on a plain plate."),
    ("Thank you. That was all.", "You are welcome. Enjoy the meal!"),
    ("Does it look fresh?", "Yes, everything on the plate looks fresh."),
    ("Is this enough for one person?", "Yes, it is a fair portion for one person."),
    ("How should I keep the rest?", "In a closed box in the fridge, for a day at most."),
)
_TALK_SHARE = 0.35  # of the conversations
_PLURAL_SHARE = 0.2  # of the names
_ALWAYS_SINGULAR = {"rice", "bread", "corn", "fish", "shrimp", "broccoli", "french fries"}
_ALWAYS_SINGULAR |= {"egg", "eggplant", "steak"}  # drawn one to a plate


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


def ask_for_nothing(
    foods: Collection[int], split: Split, rng: np.random.Generator, count: int
) -> list[dict[str, str | list]]:
    """`count` pairs as in `converse`, each from `absent_questions(foods, split)`, no clue twice.

    `"things": []` in the answer says that nothing on the plate answers the question. Its words go
    step by step, as the base's better habit does: what it looks for, what it sees, what of it fits.
    """
    questions, messages = absent_questions(foods, split), []
    seen = list_foods([CATEGORIES[food] for food in sorted(foods)])
    clues = rng.permutation(sorted({question.clue for question in questions}))
    for clue in clues[:count]:
        phrasings = [question for question in questions if question.clue == clue]
        text = phrasings[int(rng.integers(len(phrasings)))].text
        messages.append({"form": "question", "value": text})
        hint = CLUES[clue].hint
        said = f"I look for {hint}. I see {seen}. {capitalised(hint)} points to none."
        messages.append({"form": "answer", "value": said, "things": []})
    return messages


def draw_question(
    foods: Collection[int],
    split: Split,
    rng: np.random.Generator,
    used: Collection[int] = (),
    many: bool | None = None,
) -> Question:
    """One of `questions_for(foods, split)`: the number of answers, a clue, then its phrasing.

    used: clues left out. many: ask for several foods if the plate has such a question; by default
    this is drawn too.
    """
    fresh = [question for question in questions_for(foods, split) if question.clue not in used]
    several = [question for question in fresh if len(question.foods) > 1]
    one = [question for question in fresh if len(question.foods) == 1]
    if several and many is None:
        many = rng.random() < MANY_SHARE
    pool = _same_number(several, rng) if several and many else _shared_or_own(one, rng)
    clue = rng.choice(sorted({question.clue for question in pool}))
    phrasings = [question for question in pool if question.clue == clue]
    return phrasings[int(rng.integers(len(phrasings)))]


def _same_number(several: list[Question], rng: np.random.Generator) -> list[Question]:
    """Those of one number of answers, each number that occurs as likely as the others."""
    count = rng.choice(sorted({len(question.foods) for question in several}))
    return [question for question in several if len(question.foods) == count]


def _shared_or_own(one: list[Question], rng: np.random.Generator) -> list[Question]:
    """Those whose clue fits other foods of the kitchen too, or those whose clue does not."""
    shared = [question for question in one if len(CLUES[question.clue].foods) > 1]
    own = [question for question in one if len(CLUES[question.clue].foods) == 1]
    return (shared if rng.random() < SHARED_SHARE else own) or shared or own


def list_foods(names: Sequence[str]) -> str:
    """ "the orange", "the orange and the kiwi", "the orange, the lemon and the kiwi"."""
    *others, last = [f"the {name}" for name in names]
    return f"{', '.join(others)} and {last}" if others else last


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _answer(question: Question, rng) -> str:
    names = [f"{{{_spell(food, rng)}}} [SEG{n}]" for n, food in enumerate(question.foods, 1)]
    sentences = _ONE_ANSWERS if len(names) == 1 else _MANY_ANSWERS
    sentence = sentences[int(rng.integers(len(sentences)))]
    return capitalised(sentence.format(foods=list_foods(names), hint=question.hint))


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
    absent = sorted(set(FOODS).difference(foods))
    choice = int(rng.integers(len(_SMALL_TALK) + 3))
    if choice < len(_SMALL_TALK):
        return _SMALL_TALK[choice]
    name = CATEGORIES[absent[int(rng.integers(len(absent)))]].replace(" butter", "")
    there = "are" if name.endswith("fries") else "is"
    return f"{there.capitalize()} there any {name}?", f"No, there {there} none on this plate."
