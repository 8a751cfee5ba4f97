"""Which foods an answer settles on, read from its words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from foodseg.data.food_names import index_spellings, spellings_pattern
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

    A word only taken up from the question ("a fruit salad needs the orange") is no choice.
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
    name_of, pattern = _index(tuple(names))
    thinking = _looks_first(thinking_of(completion).lower())
    # Prose lists foods and places, "The egg lies at (...). The corn lies at (...).": one sentence.
    for sentence in reversed(re.split(r"(?<!\))[.!?;\n。！？；]", thinking)):
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
def _index(names: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    name_of = index_spellings(names)
    return name_of, spellings_pattern(name_of)
