"""What a policy answered once, drawn again: SAM2's mask of its text, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from foodseg.data.photos import read_photo
from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.demo.ask import judge_evidence
from foodseg.evaluation.any_form import read_any_form
from foodseg.models.segmenter import ImageEmbedding, Segmenter
from foodseg.presets import Preset
from foodseg.report.completions import why_unparsed
from foodseg.rl.evidence import gather_evidence, to_original
from foodseg.system import one_thread


@dataclass(frozen=True, eq=False)
class Answer:
    """A completion about a sample. References and mask, bool (H, W), are in the photo's pixels.

    fault: why it does not parse, "" if it does. meant: the references that stand in a completion
    which doesn't parse, read in any form; the reward and SAM2 get none of them.
    """

    text: str
    fault: str
    references: tuple[Reference, ...]
    meant: tuple[Reference, ...]
    mask: np.ndarray
    iou: float


class Judge:
    """Draws and measures answers; each photo is read and embedded once."""

    def __init__(
        self, preset: Preset, segmenter: Segmenter, labelled: bool = False, nothing: bool = False
    ) -> None:
        """labelled, nothing: see `rl.answers.parse_answer`."""
        self.preset, self.segmenter = preset, segmenter
        self.labelled, self.nothing = labelled, nothing
        self._photos: dict[str, tuple[Image.Image, ImageEmbedding]] = {}

    def photo(self, sample: Sample) -> Image.Image:
        """The sample's photo, upright."""
        return self._photo(sample)[0]

    def answer(self, sample: Sample, text: str) -> Answer:
        """The answer that a completion is, as a training judges it."""
        preset = self.preset
        with one_thread(preset.device):
            embedding = self._photo(sample)[1]
            (evidence,) = gather_evidence(
                sample,
                [text],
                preset.image_side,
                lambda _, references: self.segmenter.predict(embedding, references),
                preset.thresholds,
                self.labelled,
                self.nothing,
            )
            mask = evidence.masks().any(axis=0)
        references = to_original(evidence.answer, sample, preset.image_side)
        parsed = evidence.answer.parsed
        meant = () if parsed else to_original(read_any_form(text), sample, preset.image_side)
        fault = "" if parsed else why_unparsed(text, self.labelled)
        iou = judge_evidence(evidence, mask).iou
        return Answer(text, fault, references, meant, mask, iou)

    def _photo(self, sample: Sample) -> tuple[Image.Image, ImageEmbedding]:
        if sample.image not in self._photos:
            photo = read_photo(self.preset.dataset / sample.image, sample.image_sha256).image
            self._photos[sample.image] = photo, self.segmenter.embed_image(photo)
        return self._photos[sample.image]
