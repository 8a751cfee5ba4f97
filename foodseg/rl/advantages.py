"""Group-relative advantages: how much better a completion scored than the others of its prompt.

A_i = (R_i - mean R) / (std R + EPSILON) over the G completions of one prompt, std with Bessel's
correction (GRPO, section 4.1; as coded in verl and TRL). Computed in float64 with NumPy: in
float32 the mean of equal rewards can be off by an ulp, and that ulp over EPSILON is an advantage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from foodseg.rl.groups import Group

EPSILON = 1e-6  # verl's, and so that of the paper's parents; TRL's is 1e-4


def group_advantages(groups: Sequence[Sequence[float | None]]) -> list[np.ndarray]:
    """One float64 array of advantages for each group of rewards; groups may differ in size.

    Equal rewards give exactly 0, and so does a group of one. None or NaN (no reward could be
    computed) takes no part and gets 0. Raises ValueError for an infinite reward.
    """
    rewards = [np.array(group, dtype=float) for group in groups]
    if any(np.isinf(group).any() for group in rewards):
        raise ValueError("rewards: one is infinite, so no mean exists; give None where none is.")
    return [_deviations(group) / (_std(group) + EPSILON) for group in rewards]


def whole_completion(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase | None = None
) -> list[np.ndarray]:
    """GRPO's rule as a recipe's `advantages`: one number for a whole completion.

    A rule gets the groups to learn from, and the tokenizer to find places in their completions. It
    gives each group a list over its completions, of one number each, or of float64 (L_i,) with one
    for each token.
    """
    return group_advantages([group.rewards for group in groups])


def _deviations(group: np.ndarray) -> np.ndarray:
    valid = ~np.isnan(group)
    deviations = np.zeros_like(group)
    # the mean of equal numbers is not always that number, so equality is asked for first
    if valid.any() and np.ptp(group[valid]) > 0:
        deviations[valid] = group[valid] - group[valid].mean()
    return deviations


def _std(rewards: np.ndarray) -> float:
    valid = rewards[~np.isnan(rewards)]
    return float(valid.std(ddof=1)) if valid.size > 1 else 0.0
