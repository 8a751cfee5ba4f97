"""Which foods an answer settles on, read from its words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from foodseg.data.food_names import ALIASES
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.data.samples import Sample
from foodseg.rl.answers import Answer, thinking_of

FOOD_NAMES = tuple(name for number, name in CATEGORIES.items() if number)


def food_names(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The names that are looked for: FoodSeg103's, and whatever else the samples ask for."""
    asked_for = (food for sample in samples for food in sample.foods)
    return tuple(dict.fromkeys((*FOOD_NAMES, *asked_for)))


def named_in_conclusion(
    answer: Answer, sample: Sample, names: tuple[str, ...] = FOOD_NAMES
) -> tuple[str, ...]:
    """The foods, out of `names`, that the answer settles on.

    A word that is only taken up from the question ("a fruit salad needs the orange") is no choice
    of food.
    """
    asked = set(named_foods(sample.question, names)) - set(sample.foods)
    return tuple(f for f in named_foods(answer.completion, names) if f not in asked)


def named_foods(completion: str, names: Iterable[str]) -> tuple[str, ...]:
    """The foods that the thinking settles on: those in its last sentence that names any.

    Case is ignored, whole words only, singular or plural, the longest name first ("egg tart" is
    not also "egg"); half of a compound label stands for it ("duck" for "chicken duck"). Returns
    names as given in `names`, in the order of the sentence, each once. What stands in
    `<look>...</look>` (Dr. Seg's prompt asks for it) was seen, not settled on: it is read last.
    """
    name_of, pattern = _name_pattern(tuple(names))
    thinking = _looks_first(thinking_of(completion).lower())
    for sentence in reversed(re.split(r"[.!?;\n]", thinking)):
        found = [" ".join(match.split()) for match in pattern.findall(sentence)]
        if found:
            return tuple(dict.fromkeys(name_of[spelling] for spelling in found))
    return ()


def _looks_first(thinking: str) -> str:
    """The same text with the insides of its looks moved, a line each, before all the rest."""
    *closed, rest = thinking.split("</look>")
    parts = [part.partition("<look>") for part in closed]
    return "\n".join([*(part[2] for part in parts), *(part[0] for part in parts), rest])


@lru_cache(maxsize=16)
def _name_pattern(names: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    name_of: dict[str, str] = {}
    aliases = {alias: name for alias, name in ALIASES.items() if name in names}
    # last wins: a food's own name beats a plural or singular, and that beats an alias
    for spelling, name in [*aliases.items(), *((name, name) for name in names)]:
        name_of |= dict.fromkeys(_spellings(spelling.lower()), name)
    name_of |= {name.lower(): name for name in names}
    longest_first = sorted(name_of, key=len, reverse=True)
    words = "|".join(r"\s+".join(map(re.escape, spelling.split())) for spelling in longest_first)
    return name_of, re.compile(rf"\b(?:{words or '(?!)'})\b")


def _spellings(name: str) -> set[str]:
    """The name and its singulars, and the plurals of them all, by the regular English endings."""
    singulars = {name}
    if name.endswith("ies"):
        singulars.add(name[:-3] + "y")
    if re.search(r"(?:o|s|x|z|ch|sh)es$", name):
        singulars.add(name[:-2])
    if re.search(r"[^su]s$", name):
        singulars.add(name[:-1])
    return singulars.union(*map(_plurals, singulars))


def _plurals(name: str) -> set[str]:
    plurals = {name + "s"}
    if re.search(r"(?:o|s|x|z|ch|sh)$", name):
        plurals.add(name + "es")
    if re.search(r"[^aeiou]y$", name):
        plurals.add(name[:-1] + "ies")
    return plurals
