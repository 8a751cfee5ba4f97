"""Ours: pay for naming the right foods, which no published reward reads.

The names come with the data: a mask's class is a food. R_acc and SAM2's mask pay for a food only
once its box is right as well, so that whether the thinking chose the right one is the smaller part
of what they tell. No reasoning is given, and how the thinking gets to the foods is not judged.
"""

from __future__ import annotations

from foodseg.rl.evidence import Evidence
from foodseg.rl.named_foods import food_names, named_in_conclusion

MOST = 3.0  # as much as R_acc


def foods_named(evidence: Evidence) -> float:
    """0 to 3: of the foods that the thinking concludes with or that are asked for, those in both.

    The thinking's conclusion is its last sentence that names a food, as "food right" reads it.
    Where nothing is asked for, naming nothing earns all of it.
    """
    sample = evidence.sample
    named = set(named_in_conclusion(evidence.answer, sample, food_names([sample])))
    either = named | set(sample.foods)
    return MOST * len(named & set(sample.foods)) / len(either) if either else MOST
