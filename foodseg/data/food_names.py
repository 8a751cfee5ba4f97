"""Names of foods: their spellings, the aliases of compound labels, and how a text is searched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

# Names that stand for one half of a compound label. Chicken and duck are FoodLMM's own rule; the
# others are ours, by the same reasoning (the annotators' label covers both foods).
ALIASES = {
    "chicken": "chicken duck",
    "duck": "chicken duck",
    "cheese": "cheese butter",
    "butter": "cheese butter",
    "hanamaki": "hanamaki baozi",
    "baozi": "hanamaki baozi",
    "wonton": "wonton dumplings",
    "dumpling": "wonton dumplings",
    "cilantro": "cilantro mint",
    "mint": "cilantro mint",
}

# Scripts without spaces between words (Thai to Khmer, kana, Chinese), and Korean, whose particles
# follow a noun without one.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_SPACED_LETTER = rf"[^\W{_UNSPACED}]"


def spellings(name: str) -> set[str]:
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


def index_spellings(names: Iterable[str]) -> dict[str, str]:
    """The name that each lower-case spelling means, halves of compound labels included.

    A food's own name counts before another's plural or singular, and that before an alias.
    """
    names = tuple(names)
    aliases = {alias: name for alias, name in ALIASES.items() if name in names}
    index: dict[str, str] = {}
    for spelling, name in [*aliases.items(), *((name, name) for name in names)]:
        index |= dict.fromkeys(spellings(spelling.lower()), name)
    return index | {name.lower(): name for name in names}


def index_names(categories: Mapping[int, str]) -> dict[str, int]:
    """Class id by every spelling that is accepted for a name, for `name_to_class`."""
    ids: dict[str, int] = {}
    for class_id, name in categories.items():
        ids.setdefault(_plain(name), class_id)
    return {spelling: ids[name] for spelling, name in index_spellings(ids).items()}


def name_to_class(name: str, names: Mapping[str, int]) -> int | None:
    """The class id that an ingredient's name means, in any case and spelling; None if none."""
    return names.get(_plain(name))


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_/-]+", name.casefold().strip()))


def spellings_pattern(spellings: Iterable[str]) -> re.Pattern[str]:
    r"""What finds the spellings in a lower-case text: whole words only, the longest first.

    A letter at a spelling's edge must not go on beyond it, but in scripts without spaces; `\b`
    would demand a letter after "c++" and "kimchi (spicy)".
    """
    longest_first = sorted(spellings, key=len, reverse=True)
    parts = []
    for (before, after), group in groupby(longest_first, key=_edges):
        words = "|".join(r"\s+".join(map(re.escape, spelling.split())) for spelling in group)
        parts.append(f"{before}(?:{words}){after}")
    return re.compile("|".join(parts) or "(?!)")


def _edges(spelling: str) -> tuple[str, str]:
    """What must not stand before and after a spelling, as regular expressions."""
    before = f"(?<!{_SPACED_LETTER})" if re.match(_SPACED_LETTER, spelling) else ""
    after = f"(?!{_SPACED_LETTER})" if re.match(_SPACED_LETTER, spelling[-1:]) else ""
    return before, after
