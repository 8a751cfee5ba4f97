"""Ours: pay for the right foods in the thinking's words, which no published reward reads.

The names come with the data: a mask's class is a food's name. No reasoning is given for it.
"""

from __future__ import annotations

import numpy as np

from foodseg.rl.advantages import group_advantages
from foodseg.rl.evidence import Evidence
from foodseg.rl.named_foods import food_names, named_in_conclusion

MOST = 3.0  # as much as R_acc


def foods_named(evidence: Evidence) -> float:
    """0 to 3: the foods that the thinking concludes with and those asked for, both over either."""
    names = food_names([evidence.sample])
    named = set(named_in_conclusion(evidence.answer, evidence.sample, names))
    asked = set(evidence.sample.foods)
    return MOST * len(named & asked) / max(len(named | asked), 1)


def decoupled(groups, tokenizer=None):
    """GDPO's rule (arXiv:2601.05242): each term standardised within its group, then their sum."""
    sums = []
    for group in groups:
        terms = [[points[name] for points in group.points] for name in group.points[0]]
        sums.append(sum(group_advantages(terms)))
    return group_advantages(sums)
