"""Ours: pay for the right foods in the thinking's words, which no published reward reads.

The names come with the data: a mask's class is a food's name. No reasoning is given for it.
"""

from __future__ import annotations

from foodseg.rl.evidence import Evidence
from foodseg.rl.named_foods import food_names, named_in_conclusion

MOST = 3.0  # as much as R_acc


def foods_named(evidence: Evidence) -> float:
    """0 to 3: the foods that the thinking concludes with and those asked for, both over either."""
    names = food_names([evidence.sample])
    named = set(named_in_conclusion(evidence.answer, evidence.sample, names))
    asked = set(evidence.sample.foods)
    return MOST * len(named & asked) / max(len(named | asked), 1)
