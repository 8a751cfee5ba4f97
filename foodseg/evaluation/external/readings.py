"""How another model's completions are meant: stated once for a whole file, never guessed.

Strict is the paper's form, in pixels of the model image (`rl.answers.parse_answer`). Lenient takes
any form (`evaluation.any_form`), with the coordinates and the answer that the reading names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foodseg.common.errors import DataError
from foodseg.data.references import Reference, Size, scale_reference
from foodseg.data.samples import Sample
from foodseg.evaluation.any_form import Which, read_any_form
from foodseg.rl.answers import Answer, PredictedReference
from foodseg.rl.evidence import to_original

MODEL, ORIGINAL, UNIT, THOUSAND = "model-pixels", "original-pixels", "unit", "thousand"
SCALES = (MODEL, ORIGINAL, UNIT, THOUSAND)
WHICH = ("first", "last")
STATE_IT = f"state how its numbers are meant, READING={'|'.join(SCALES)}"


@dataclass(frozen=True)
class Reading:
    """A lenient reading of a whole file.

    scale: one of SCALES, of x and of y: pixels of the square model image or of the upright photo,
    shares of the photo's sides (0 to 1), or thousandths of them (0 to 1000). which: of several
    `<answer>` blocks the one that counts.
    """

    scale: str
    which: Which = "first"

    def __str__(self) -> str:
        return self.scale if self.which == "first" else f"{self.scale}, {self.which} answer"

    def read(self, completion: str, nothing: bool = False) -> Answer:
        """The completion's references as it wrote them; nothing: see `read_any_form`."""
        return read_any_form(completion, self.which, nothing)

    def to_original(self, answer: Answer, sample: Sample, side: int) -> tuple[Reference, ...]:
        """The answer's references in original-image pixels, clipped to the photo.

        side: of the model image, in pixels.
        """
        if self.scale == MODEL:
            return to_original(answer, sample, side)
        extent = {ORIGINAL: sample.size, UNIT: (1, 1), THOUSAND: (1000, 1000)}[self.scale]
        clipped = [_clip(one, extent) for one in answer.objects]
        return tuple(scale_reference(one, extent, sample.size) for one in clipped)


def parse_reading(text: str) -> Reading:
    """The reading of READING=scale or READING=scale,last. Raises DataError."""
    scale, comma, which = text.partition(",")
    which = which if comma else "first"
    if scale not in SCALES or which not in WHICH:
        fix = f"{STATE_IT}; with ,last behind it the last <answer> counts, not the first"
        raise DataError(f"reading: {text!r} is none; {fix}.")
    return Reading(scale, which)


def _clip(one: PredictedReference, extent: Size) -> Reference:
    def clip(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(min(max(v, 0), extent[i % 2]) for i, v in enumerate(values))  # x, y in turns

    more = tuple((*clip(point), label) for *point, label in one.more)
    return Reference(clip(one.box), clip(one.point), more)
