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
_BETWEEN_WORDS = re.compile(r"[\s_/-]+")


_F_PLURAL = r"(?:ea|oa|l)ves$"  # leaves, loaves, halves; but olives, cloves


def spellings(name: str) -> set[str]:
    """The name and its singulars, and the plurals of them all, by the regular English endings."""
    if re.search(_F_PLURAL, name):  # "leave" is another word
        return {name, name[:-3] + "f"}
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
    if re.search(r"(?:ea|oa|l)f$", name):
        plurals.add(name[:-1] + "ves")
    return plurals


def index_spellings(names: Iterable[str]) -> dict[str, str]:
    """The name that each spelling means, as `plain` writes it; halves of compound labels too.

    A food's own name counts before another's plural or singular, and that before an alias.
    """
    names = tuple(names)
    aliases = {alias: name for alias, name in ALIASES.items() if name in names}
    index: dict[str, str] = {}
    for spelling, name in [*aliases.items(), *((name, name) for name in names)]:
        index |= dict.fromkeys(spellings(plain(spelling)), name)
    return index | {plain(name): name for name in names}


def index_names(categories: Mapping[int, str]) -> dict[str, int]:
    """Class id by every spelling that is accepted for a name, for `name_to_class`."""
    ids: dict[str, int] = {}
    for class_id, name in categories.items():
        ids.setdefault(plain(name), class_id)
    return {spelling: ids[name] for spelling, name in index_spellings(ids).items()}


def name_to_class(name: str, names: Mapping[str, int]) -> int | None:
    """The class id that an ingredient's name means, in any case and spelling; None if none."""
    return names.get(plain(name))


def plain(name: str) -> str:
    """The name in small letters, its words one space apart: "Spring_Onion" is "spring onion"."""
    return _BETWEEN_WORDS.sub(" ", name.casefold()).strip() or name


def spellings_pattern(spellings: Iterable[str]) -> re.Pattern[str]:
    r"""What finds spellings, as `plain` writes them, in a text in small letters.

    Whole words only, the longest first. A letter at a spelling's edge must not go on beyond it, but
    in scripts without spaces; `\b` would demand a letter after "c++" and "kimchi (spicy)".
    """
    # By first letter, so that most places in a text are passed by after one look.
    longest_first = sorted(spellings, key=lambda spelling: (spelling[0], -len(spelling)))
    parts = []
    for (start, end), group in groupby(longest_first, key=_edges):
        rests = (map(re.escape, spelling[1:].split(" ")) for spelling in group)
        parts.append(f"{start}(?:{'|'.join(map(_BETWEEN_WORDS.pattern.join, rests))}){end}")
    return re.compile("|".join(parts) or "(?!)")


def _edges(spelling: str) -> tuple[str, str]:
    """A spelling's first letter with what must not stand before it; what must not stand after."""
    start, end = re.escape(spelling[0]), ""
    if re.match(_SPACED_LETTER, spelling):
        start += f"(?<!{_SPACED_LETTER}{start})"
    if re.match(_SPACED_LETTER, spelling[-1]):
        end = f"(?!{_SPACED_LETTER})"
    return start, end
