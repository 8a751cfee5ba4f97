"""A group: the G completions of one question, and how each is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foodseg.data.samples import Sample
from foodseg.models.rollouts import Rollout
from foodseg.rl.evidence import (
    PAPER_REWARD,
    PAPER_THRESHOLDS,
    Evidence,
    Segment,
    Term,
    award,
    gather_evidence,
    total,
)
from foodseg.rl.thresholds import RewardThresholds


@dataclass(frozen=True, eq=False)
class Group:
    """A question, its G completions, what they were judged by, and their points by term."""

    sample: Sample
    rollout: Rollout
    evidence: tuple[Evidence, ...]
    points: tuple[dict[str, float], ...]

    @property
    def rewards(self) -> list[float]:
        """What the recipe's terms add up to; what the policy learns from."""
        return [total(points) for points in self.points]


def score_group(
    sample: Sample,
    rollout: Rollout,
    image_side: int,
    reward: Sequence[Term] = PAPER_REWARD,
    segment: Segment | None = None,
    thresholds: RewardThresholds = PAPER_THRESHOLDS,
    labelled: bool = False,
    nothing: bool = False,
) -> Group:
    """Judge each completion by the terms, against the sample's references in model-image pixels.

    thresholds: in pixels of an 840 x 840 model image. labelled, nothing: see
    `rl.answers.parse_answer`. segment: called once, and only if a term asks for masks, which
    without it is a ValueError.
    """
    read = image_side, segment, thresholds, labelled, nothing
    evidence = gather_evidence(sample, rollout.texts, *read)
    return Group(sample, rollout, evidence, tuple(award(reward, one) for one in evidence))
