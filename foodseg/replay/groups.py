"""A step's groups as GRPO and as DAPO learn from them, by the kit's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foodseg.recipes import DAPO, GRPO, Recipe
from foodseg.rl.advantages import group_advantages
from foodseg.rl.dynamic_sampling import has_signal
from foodseg.rl.evidence import total

METHODS = (GRPO, DAPO)  # between which the page switches


@dataclass(frozen=True)
class SeenGroup:
    """A question's rewards and, by the name of a method, its advantages; None where it is dropped.

    signal: whether its rewards differ.
    """

    rewards: list[float]
    signal: bool
    advantages: dict[str, list[float] | None]


@dataclass(frozen=True)
class Try:
    """One completion of the group that was logged.

    learnt: the advantage that the run itself learnt from. ratio: the lowest and highest of its
    tokens', None if the group was in no gradient step. clipped: by the name of a method, whether
    its clip range stops one of them.
    """

    text: str
    points: dict[str, float]
    learnt: float
    ratio: list[float] | None
    clipped: dict[str, bool]


@dataclass(frozen=True)
class StepGroups:
    """What a step sampled: all groups, and the tries of the one at `place`."""

    groups: list[SeenGroup]
    place: int
    sample_id: str
    tries: list[Try]


def step_groups(row: dict) -> StepGroups:
    """Of a log's row that has a group."""
    group, rewards = row["group"], list(row["group_rewards"])
    place = group["place"]
    # With a true answer among its completions, if one joined it.
    rewards[place] = [total(points) for points in group["points"]]
    ratios = row["group_ratios"] or [None] * len(group["texts"])
    groups = [_seen(one) for one in rewards]
    tries = [
        Try(text, points, learnt, ratio, _clipped(groups[place], index, ratio))
        for index, (text, points, learnt, ratio) in enumerate(
            zip(group["texts"], group["points"], group["advantages"], ratios, strict=True)
        )
    ]
    return StepGroups(groups, place, group["sample_id"], tries)


def clip_range(recipe: Recipe) -> tuple[float, float]:
    """The lowest and the highest ratio that a recipe's objective still pays for."""
    return 1 - recipe.objective.clip_low, 1 + recipe.objective.clip_high


def _seen(rewards: Sequence[float]) -> SeenGroup:
    signal, (advantages,) = has_signal(rewards), group_advantages([rewards])
    kept = {method.name: signal or not method.dynamic_sampling for method in METHODS}
    by_method = {name: advantages.tolist() if kept[name] else None for name in kept}
    return SeenGroup(list(rewards), signal, by_method)


def _clipped(group: SeenGroup, index: int, ratio: list[float] | None) -> dict[str, bool]:
    """As `rl.objectives.PolicyLoss` counts: above the range where A > 0, below where A < 0."""
    clipped = {}
    for method in METHODS:
        low, high = clip_range(method)
        advantages = group.advantages[method.name]
        advantage = advantages[index] if advantages else 0.0
        above = advantage > 0 and ratio is not None and ratio[1] > high
        below = advantage < 0 and ratio is not None and ratio[0] < low
        clipped[method.name] = above or below
    return clipped
