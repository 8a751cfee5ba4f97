"""A step's log row, from which every curve is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from foodseg.common.processes import ALONE, Processes
from foodseg.rl.dynamic_sampling import has_signal
from foodseg.rl.groups import Group
from foodseg.rl.rewards import Score
from foodseg.training.sampler import Batch

TERMS = "total thinking_format segmentation_format accuracy iou box_l1 point_l2 non_repeat".split()


@dataclass(frozen=True)
class _Seen:
    """A group's loggable values, without tensors, to be gathered from all processes."""

    scores: tuple[Score, ...]
    parsed: tuple[bool, ...]
    ended: tuple[bool, ...]
    points: tuple[dict[str, float], ...]
    rewards: list[float]
    lengths: list[int]
    question: str
    completion: str

    @classmethod
    def of(cls, group: Group) -> _Seen:
        rollout = group.rollout
        lengths = [len(tokens) for tokens in rollout.tokens]
        own = (group.scores, group.parsed, rollout.ended, group.points, group.rewards, lengths)
        return cls(*own, group.sample.question, rollout.texts[0])


def step_row(batch: Batch, update: dict, processes: Processes = ALONE) -> dict:
    """A step's log row: what was sampled (all of it, kept or not) and what the updates did.

    reward_*: the paper's terms, in every recipe's log; points_*: the recipe's own, which it learns
    from. Means over all processes; seconds are this one's.
    """
    seen = processes.gather([_Seen.of(group) for group in batch.seen])
    scores = [score for group in seen for score in group.scores]
    return (
        {f"reward_{term}": fmean(getattr(score, term) for score in scores) for term in TERMS}
        | _mean_points(seen)
        | {
            "parse_rate": fmean(p for group in seen for p in group.parsed),
            "zero_variance": fmean(not has_signal(group.rewards) for group in seen),
            "rounds": batch.rounds,
            "length": fmean(length for group in seen for length in group.lengths),
            "ended": fmean(end for group in seen for end in group.ended),
        }
        | update
        | {f"seconds_{phase}": seconds for phase, seconds in batch.seconds.items()}
        | {"question": seen[0].question, "completion": seen[0].completion}
    )


def _mean_points(seen: Sequence[_Seen]) -> dict[str, float]:
    points = [one for group in seen for one in group.points]
    means = {f"points_{term}": fmean(one[term] for one in points) for term in points[0]}
    return {"points_total": fmean(r for group in seen for r in group.rewards)} | means
