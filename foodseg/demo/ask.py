"""One question, several systems side by side: words, masks and, where it is known, the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foodseg.common.errors import DataError
from foodseg.data.photos import Photo
from foodseg.data.samples import Sample
from foodseg.demo.systems import Systems
from foodseg.methods.sam_r1 import mask_iou
from foodseg.presets import Preset
from foodseg.rl.evidence import Evidence, gather_evidence
from foodseg.segment.answer import Segmentation, check_question, segment
from foodseg.segment.written import as_json

# The paper's reward: the fields of `rl.rewards.Score`, as the page names them, and their most.
TERMS = {
    "thinking_format": ("thinking format", 1),
    "segmentation_format": ("segmentation format", 2),
    "iou": ("box IoU", 1),
    "box_l1": ("box L1", 1),
    "point_l2": ("point L2", 1),
    "non_repeat": ("non-repeat", 1),
}
MOST = sum(most for _, most in TERMS.values())


@dataclass(frozen=True)
class Judgement:
    """What an answer is worth: its mask's IoU, 0 to 1, and its points by the names of TERMS."""

    iou: float
    points: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.points.values())


@dataclass(frozen=True, eq=False)
class Reply:
    """What one system said. written: all of it as JSON values; judgement: None without a truth."""

    name: str
    answer: Segmentation
    judgement: Judgement | None
    written: dict


@dataclass(frozen=True)
class Refusal:
    """Why one system could not be asked."""

    name: str
    why: str


def ask(
    systems: Systems, names: Sequence[str], photo: Photo, question: str, sample: Sample | None
) -> Iterator[Reply | Refusal]:
    """Ask each system the question; what it said comes as soon as it is said.

    sample: the question's, if its truth is known. A system that can't be loaded gives a Refusal.
    Raises DataError for a question that can't be asked.
    """
    question = check_question(question)
    for name in names:
        try:
            with systems.use(name) as system:
                answer = segment(system, photo, question)
                written = as_json(answer, system)
        except DataError as error:
            yield Refusal(name, str(error))
            continue
        judgement = judge(systems.preset, sample, answer) if sample else None
        if judgement:
            points = judgement.points | {"total": judgement.total}
            written["judgement"] = {"iou": judgement.iou, "points": points}
        yield Reply(name, answer, judgement, written)


def judge(preset: Preset, sample: Sample, answer: Segmentation) -> Judgement:
    """The answer's IoU and its points by the paper's reward, against the sample's truth."""
    known = {"thresholds": preset.thresholds, "nothing": sample.no_target}
    (evidence,) = gather_evidence(sample, [answer.text], preset.image_side, **known)
    return judge_evidence(evidence, answer.mask)


def judge_evidence(evidence: Evidence, mask: np.ndarray) -> Judgement:
    """The same of a completion's evidence and its mask, bool (H, W)."""
    points = {name: getattr(evidence.score, name) for name in TERMS}
    return Judgement(mask_iou(replace(evidence, masks=lambda: mask[None])), points)


def all_as_json(replies: Sequence[Reply | Refusal], sample: Sample | None) -> dict:
    """What all systems said, by their names, and the sample's id and foods if it is known."""
    truth = {"sample_id": sample.sample_id, "foods": list(sample.foods)} if sample else None
    said = {r.name: r.written if isinstance(r, Reply) else {"refused": r.why} for r in replies}
    return {"truth": truth, "systems": said}
