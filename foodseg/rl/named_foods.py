"""Which foods an answer settles on, read from its words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from foodseg.data.categories import CATEGORIES
from foodseg.data.food_names import index_spellings, plain, spellings_pattern
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
    """The foods, out of `names`, that the answer settles on, the sample's own as it writes them.

    A word only taken up from the question ("so the fruit salad needs it") is no choice and makes no
    conclusion.
    """
    own = sample.foods
    asked = set().union(*_from_last(sample.question, names, own)) - set(own)
    sentences = _from_last(_thinking(answer.completion), names, own)
    chosen = (tuple(food for food in foods if food not in asked) for foods in sentences)
    return next(filter(None, chosen), ())


def named_foods(completion: str, names: Iterable[str]) -> tuple[str, ...]:
    """The foods that the thinking settles on: those in its last sentence that names any.

    Case is ignored, whole words only, singular or plural, the longest name first ("egg tart" is
    not also "egg"); half of a compound label stands for it ("duck" for "chicken duck"). Returns
    names as given in `names`, in the order of the sentence, each once. What stands in
    `<look>...</look>` (Dr. Seg's prompt asks for it) was seen, not settled on: it is read last.
    """
    return next(_from_last(_thinking(completion), tuple(names)), ())


def _from_last(
    text: str, names: tuple[str, ...], own: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The foods of each sentence that names any, the last sentence first.

    own: some of `names`; what can be one of them ("tomato" of "tomatoes") is no other food.
    """
    name_of, pattern = _index(names)
    name_of = name_of | index_spellings(own)
    # Prose lists foods and places, "The egg lies at (...). The corn lies at (...).": one sentence.
    for sentence in reversed(re.split(r"(?<!\))[.!?;\n。！？；]+", text.casefold())):
        if found := dict.fromkeys(pattern.findall(sentence)):
            yield tuple(dict.fromkeys(name_of[plain(spelling)] for spelling in found))


def _thinking(completion: str) -> str:
    """The thinking with the insides of its looks moved, a line each, before all the rest."""
    *closed, rest = thinking_of(completion).split("</look>")
    parts = [part.partition("<look>") for part in closed]
    return "\n".join([*(part[2] for part in parts), *(part[0] for part in parts), rest])


@lru_cache(maxsize=16)
def _index(names: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    name_of = index_spellings(names)
    return name_of, spellings_pattern(name_of)
