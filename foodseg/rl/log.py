"""A step's log row, from which every curve is drawn."""

from __future__ import annotations

from statistics import fmean

from foodseg.rl.dynamic_sampling import has_signal
from foodseg.rl.groups import Batch


def step_row(batch: Batch, update: dict) -> dict:
    """A step's log row: what was sampled (all of it, kept or not) and what the updates did.

    reward_*: the paper's terms, in every recipe's log; points_*: the recipe's own, which it learns
    from.
    """
    scores = [score for group in batch.seen for score in group.scores]
    lengths = [len(tokens) for group in batch.seen for tokens in group.rollout.tokens]
    terms = (
        "total thinking_format segmentation_format accuracy iou box_l1 point_l2 non_repeat"
    ).split()
    example = batch.seen[0]
    return (
        {f"reward_{term}": fmean(getattr(score, term) for score in scores) for term in terms}
        | _mean_points(batch)
        | {
            "parse_rate": fmean(p for group in batch.seen for p in group.parsed),
            "zero_variance": fmean(not has_signal(group.rewards) for group in batch.seen),
            "rounds": batch.rounds,
            "length": fmean(lengths),
            "ended": fmean(end for group in batch.seen for end in group.rollout.ended),
        }
        | update
        | {f"seconds_{phase}": seconds for phase, seconds in batch.seconds.items()}
        | {"question": example.sample.question, "completion": example.rollout.texts[0]}
    )


def _mean_points(batch: Batch) -> dict[str, float]:
    points = [one for group in batch.seen for one in group.points]
    means = {f"points_{term}": fmean(one[term] for one in points) for term in points[0]}
    return {"points_total": fmean(r for group in batch.seen for r in group.rewards)} | means
