"""A validation split, taken off the training plates, to choose between methods.

The test plates are for the table alone: the best of thirty rows by test score would look better
than it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from foodseg.common.errors import DataError
from foodseg.common.files import sha256
from foodseg.data.samples import Sample

VALIDATION_SHARE = 0.2


def validation_split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """(to learn from, to choose by), in the given order: a fifth of the plates is to choose by.

    A hash of a plate's photo decides, so plates that share a photo stay together. Raises DataError
    for samples that are not of the training split, and for fewer than two plates.
    """
    strange = {sample.split for sample in samples} - {"train"}
    if strange:
        raise DataError(f"validation split: it is taken off the training plates, not {strange}.")
    plates = sorted({_plate(sample) for sample in samples}, key=_shuffled)
    if len(plates) < 2:
        raise DataError(f"validation split: {len(plates)} plates can't be divided; draw more.")
    chosen = set(plates[: max(1, round(VALIDATION_SHARE * len(plates)))])
    learning = [sample for sample in samples if _plate(sample) not in chosen]
    return learning, [sample for sample in samples if _plate(sample) in chosen]


def _plate(sample: Sample) -> str:
    return sample.image_sha256 or sample.image


def _shuffled(plate: str) -> str:
    return sha256(f"validation {plate}".encode())
