"""Dynamic sampling (DAPO, section 3.2): only groups that can teach something enter a batch.

A group whose rewards are all equal has advantage 0 throughout. It is dropped before advantages
are computed, and more prompts are sampled until the batch is full (as in verl's DAPO recipe). verl
samples whole batches and throws the surplus away; asking only for what is `missing` leaves none.
DAPO defined this for rewards of 0 and 1; with graded rewards "all correct or all wrong" becomes
"all equal": of the same bits. verl asks for std > 0, which rounding passes more often; here sums
of the same parts in another order (2.0 and 1.9999999999999998) pass, with advantages near 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

Group = TypeVar("Group")


class NoSignalError(RuntimeError):
    """Too many rounds of sampling brought too few groups with unequal rewards."""


def has_signal(rewards: Sequence[float | None]) -> bool:
    """False if the group's rewards are all equal or one is missing (None, NaN), as in verl.

    A group of one counts as having signal: there is nothing to compare it with.
    """
    return len(rewards) == 1 or bool(np.ptp(np.asarray(rewards, dtype=float)) > 0)


class GroupCollector(Generic[Group]):
    """Fills one training batch from several rounds of sampling.

        collector = GroupCollector(size=16, max_groups=160)
        while not collector.full:
            groups = sample(next prompts, at least collector.missing)
            collector.add(groups, [rewards of each group])
        batch = collector.take()

    `size`: groups in a batch. `max_groups`: how many to sample for it at most; 0 sets no limit.
    `rounds`, `seen`, `kept`: rounds so far, groups offered, groups with signal.
    """

    def __init__(self, size: int, max_groups: int = 0) -> None:
        self.size, self.max_groups = size, max_groups
        self.rounds = self.seen = 0
        self._groups: list[Group] = []

    @property
    def kept(self) -> int:
        return len(self._groups)

    @property
    def full(self) -> bool:
        return self.kept >= self.size

    @property
    def missing(self) -> int:
        """Groups with signal that the batch still lacks."""
        return max(self.size - self.kept, 0)

    def add(self, groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> None:
        """Take one round: `rewards[i]` are those of the completions of `groups[i]`.

        Raises NoSignalError when no more groups are allowed and the batch is not full.
        """
        self.rounds += 1
        self.seen += len(groups)
        pairs = zip(groups, rewards, strict=True)
        self._groups += [group for group, values in pairs if has_signal(values)]
        if not self.full and 0 < self.max_groups <= self.seen:
            raise NoSignalError(
                f"dynamic sampling: {self.kept} of {self.size} groups have unequal rewards after "
                f"{self.seen} prompts; give easier or harder prompts, a larger group_size, or a "
                "larger max_rounds."
            )

    def take(self) -> list[Group]:
        """The batch as far as it is full, in the order sampled, without the surplus."""
        return self._groups[: self.size]
