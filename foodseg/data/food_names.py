"""Names of foods: aliases of compound labels, spellings, plurals."""

from __future__ import annotations

import re
from collections.abc import Mapping

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

_PLURALS = (("s", ""), ("es", ""), ("ies", "y"))


def index_names(categories: Mapping[int, str]) -> dict[str, int]:
    """Class id by every spelling that is accepted for a name (lower case, singular or plural)."""
    index: dict[str, int] = {}
    for class_id, name in categories.items():
        for form in _forms(name):
            index.setdefault(form, class_id)
    for alias, name in ALIASES.items():
        if name in index:
            index.setdefault(alias, index[name])
    return index


def name_to_class(name: str, names: Mapping[str, int]) -> int | None:
    """The class id that an ingredient's written name means, None if it means none.

    Case, hyphens, underscores and slashes don't matter; the last word's plural ending is stripped.
    """
    return next((names[form] for form in _forms(name) if form in names), None)


def _forms(name: str) -> list[str]:
    base = " ".join(re.split(r"[\s_/-]+", name.casefold().strip()))
    stripped = [base[: -len(end)] + new for end, new in _PLURALS if base.endswith(end)]
    return [base] + [form for form in stripped if len(form) > 2]
