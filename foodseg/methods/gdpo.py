"""GDPO: every term of the reward is compared by itself, so that none drowns another.

Published (arXiv:2601.05242): a reward of several terms is standardised term by term within the
group, the z-scores are added up, and the sums are normalised over the batch (in its code, too).
Where the sum is standardised instead, as in GRPO, the term with the largest spread decides, and
unlike completions earn the same advantage.

Ours is the last step: the sums are standardised within their group once more, so that an advantage
does not depend on the other questions of the batch, nor on how many processes share it. So a group
in which the terms agree weighs no more than one in which they differ; and where they cancel each
other in all completions, what rounding and the 1e-6 beside the std leave is scaled up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from foodseg.rl.advantages import group_advantages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from foodseg.rl.groups import Group


def decoupled(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase | None = None
) -> list[np.ndarray]:
    """GDPO's rule as a recipe's `advantages`: float64 (G,) for each group, all finite.

    A term that all completions of a group earn alike takes no part.
    """
    return group_advantages([term_advantages(group.points).sum(axis=0) for group in groups])


def term_advantages(points: Sequence[dict[str, float]]) -> np.ndarray:
    """A group's points by term -> (terms, G) float64, each term's z-scores."""
    return np.stack(group_advantages([[one[term] for one in points] for term in points[0]]))
