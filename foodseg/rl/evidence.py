"""What a reward term may look at, and the paper's own terms.

A term is a plain function of one completion's `Evidence`: its sample, its parsed answer, the true
references, and SAM2's masks, computed only if a term reads them. A recipe's reward is the sum of
its terms' points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce
from operator import add
from typing import Literal

import numpy as np

from foodseg.data.references import Reference, scale_reference
from foodseg.data.samples import Sample
from foodseg.rl.answers import Answer, parse_answer
from foodseg.rl.rewards import Score, match_answer, score_answer
from foodseg.rl.thresholds import RewardThresholds

PAPER_THRESHOLDS = RewardThresholds()
# (sample, references in original pixels) -> bool (N, H, W)
Segment = Callable[[Sample, Sequence[Reference]], np.ndarray]


@dataclass(frozen=True, eq=False)
class Evidence:
    """One completion, and what it is judged by.

    references: the true ones, integer pixels of the square model image of `side` x `side` pixels;
    thresholds: in its pixels. masks: SAM2's for `answer.objects`, bool (N, H, W) in original
    pixels. The first call segments all completions of the group together.
    """

    sample: Sample
    answer: Answer
    references: tuple[Reference, ...]
    thresholds: RewardThresholds
    side: int
    masks: Callable[[], np.ndarray]

    @cached_property
    def score(self) -> Score:
        """The paper's reward, term by term: the yardstick in every recipe's log."""
        return score_answer(self.answer, self.references, self.thresholds)


Term = Callable[[Evidence], float]


def gather_evidence(
    sample: Sample,
    texts: Sequence[str],
    side: int,
    segment: Segment | None = None,
    thresholds: RewardThresholds = PAPER_THRESHOLDS,
    labelled: bool = False,
    nothing: bool = False,
) -> tuple[Evidence, ...]:
    """The evidence of each completion of one question, for a model image of `side` pixels.

    thresholds: in pixels of an 840 x 840 model image. labelled, nothing: see
    `rl.answers.parse_answer`. Without `segment`, to ask for masks is a ValueError.
    """
    answers = [parse_answer(text, labelled, nothing) for text in texts]
    references = tuple(scale_reference(r, sample.size, (side, side)) for r in sample.references)
    thresholds = thresholds.scaled(side)

    @lru_cache(maxsize=1)
    def masks() -> list[np.ndarray]:
        if segment is None:
            raise ValueError("segment: a term asks for masks; give the segmenter's predict.")
        found = [to_original(answer, sample, side) for answer in answers]
        together = segment(sample, [reference for one in found for reference in one])
        return np.split(together, np.cumsum([len(one) for one in found])[:-1])

    return tuple(
        Evidence(sample, answer, references, thresholds, side, lambda i=i: masks()[i])
        for i, answer in enumerate(answers)
    )


def to_original(answer: Answer, sample: Sample, image_side: int) -> tuple[Reference, ...]:
    """The answer's references in original-image pixels, clipped to the image."""

    def clip(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(min(max(v, 0), image_side - 1) for v in values)

    clipped = [
        Reference(
            clip(one.box), clip(one.point), tuple((*clip(p), label) for *p, label in one.more)
        )
        for one in answer.objects
    ]
    side = (image_side, image_side)
    return tuple(scale_reference(reference, side, sample.size) for reference in clipped)


def term_name(term: Term) -> str:
    """The function's name; of a `functools.partial`, that of its function."""
    return getattr(term, "func", term).__name__


def award(terms: Sequence[Term], evidence: Evidence) -> dict[str, float]:
    """One completion's points, by the terms' names.

    Raises ValueError naming the term if its points are not a finite number.
    """
    return {term_name(term): _points(term_name(term), term(evidence)) for term in terms}


def _points(name: str, value: object) -> float:
    number = isinstance(value, int | float | np.number | np.bool_)
    if not number or not np.isfinite(value):
        raise ValueError(f"{name}: it gave {value!r} points; let it return a finite number.")
    return float(value)


def total(points: dict[str, float]) -> float:
    """The reward. Added from left to right, for the same bits under every version of Python."""
    return reduce(add, points.values(), 0.0)


def thinking_format(evidence: Evidence) -> float:
    """0 or 1: the completion is one `<think>` and one `<answer>` block."""
    return evidence.score.thinking_format


def segmentation_format(evidence: Evidence) -> float:
    """0 to 2: its items have a box of four and a point of two."""
    return evidence.score.segmentation_format


def usable_format(evidence: Evidence) -> float:
    """0 or 2: SAM2 can segment the answer, every item of which has a box and a point of numbers."""
    return 2.0 * bool(evidence.answer.objects)


def accuracy(evidence: Evidence) -> float:
    """0 to 3: box IoU, box L1 and point L2 over a one-to-one assignment of objects."""
    return evidence.score.accuracy


def accuracy_without(evidence: Evidence, *, part: Literal["iou", "box_l1", "point_l2"]) -> float:
    """0 to 2: `accuracy` less one of its parts; the assignment is still the best for all three."""
    matching = match_answer(evidence.answer, evidence.references, evidence.thresholds)
    kept = [index for index, name in enumerate(("iou", "box_l1", "point_l2")) if name != part]
    return float(matching.terms[:, kept].sum() / max(matching.size, 1))


def accuracy_box_sum(evidence: Evidence) -> float:
    """0 to 3: `accuracy` with the box term as the paper prints it, a sum over four coordinates."""
    thresholds = replace(evidence.thresholds, box_l1=evidence.thresholds.box_l1 / 4)
    matching = match_answer(evidence.answer, evidence.references, thresholds)
    return float(matching.terms.sum() / max(matching.size, 1))


def non_repeat(evidence: Evidence) -> float:
    """0 or 1: no two sentences repeat earlier ones."""
    return evidence.score.non_repeat


# R = R_fmt + R_acc + R_rep, at most 3 + 3 + 1 points.
PAPER_REWARD: tuple[Term, ...] = (thinking_format, segmentation_format, accuracy, non_repeat)
