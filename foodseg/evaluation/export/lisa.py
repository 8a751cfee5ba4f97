"""FoodReasonSeg-Single as ReasonSeg, for LISA's own code.

    <root>/reason_seg/FoodReasonSeg-Single/<split>/<sample_id>.{jpg,json}
    <root>/chat_prompts_<split>.txt      what chat.py asks for: a prompt, a photo, a prompt, ...

As its reader has it (`utils/data_processing.py`, `utils/dataset.py`): `text` holds one instruction,
`is_sentence` has it asked as it stands, `shapes` are polygons in pixels, all of label target. No
region is to be ignored, as in our metrics.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm
from foodseg.data.references import intersection_union
from foodseg.data.samples import Sample
from foodseg.evaluation.export.photos import place_photo
from foodseg.evaluation.export.polygons import mask_to_polygons, polygons_to_mask

NAME = "FoodReasonSeg-Single"
# Its readers put this after a sentence. FoodReasonSeg's questions may end so themselves.
REQUEST = "Please output segmentation mask."


@dataclass(frozen=True)
class LisaSample:
    """What became of one sample: its photo, its polygons, and the IoU of their drawing with it."""

    photo: str
    polygons: int
    iou: float


def write_lisa(
    root: Path, dataset: Path, split: str, samples: Sequence[Sample], copy: bool
) -> dict:
    """Writes one split's samples; dataset: the folder that their `image` is relative to.

    Returns counts for the report, with the IoU of every mask and what its polygons draw. Raises
    DataError for a photo that isn't its sample's, or an id that LISA's code would cut short.
    """
    folder = root / "reason_seg" / NAME / split
    folder.mkdir(parents=True)
    written, prompts = [], []
    for sample in tqdm(samples, f"lisa {split}"):
        _check_name(sample)
        written.append(_write_sample(folder, dataset / sample.image, sample, copy))
        photo = (folder / f"{sample.sample_id}.jpg").relative_to(root).as_posix()
        prompts.append(f"{instruction(sample)} {REQUEST}\n{photo}\n")
    (root / f"chat_prompts_{split}.txt").write_text("".join(prompts), encoding="utf-8")
    return _report(written)


def instruction(sample: Sample) -> str:
    """The question in one line, without the request that LISA's readers put after it."""
    question = " ".join(sample.question.split())
    return question.removesuffix(REQUEST).strip() or question


def annotation(sample: Sample) -> dict:
    """The sample's JSON file: `text`, `is_sentence`, and `shapes` in pixels of the photo."""
    polygons = mask_to_polygons(sample.union_mask())
    return {
        "text": [instruction(sample)],
        "is_sentence": True,
        "shapes": [
            {"label": "target", "shape_type": "polygon", "points": [list(p) for p in polygon]}
            for polygon in polygons
        ],
    }


def _write_sample(folder: Path, photo: Path, sample: Sample, copy: bool) -> LisaSample:
    placed = place_photo(photo, folder / f"{sample.sample_id}.jpg", sample.size, copy)
    # ASCII, because their reader opens it with whatever encoding the machine has.
    text = json.dumps(annotation(sample))
    (folder / f"{sample.sample_id}.json").write_text(text, encoding="ascii")
    polygons = [shape["points"] for shape in json.loads(text)["shapes"]]
    drawn, truth = polygons_to_mask(polygons, sample.size), sample.union_mask()
    intersection, union = intersection_union(drawn, truth)
    return LisaSample(placed, len(polygons), intersection / union if union else 1.0)


def _check_name(sample: Sample) -> None:
    if "." in sample.sample_id:
        raise DataError(
            f"{sample.image}: chat.py cuts a file's name at its first dot, and that of sample "
            f"{sample.sample_id!r} has one; rename the photo or the id, and build the data again."
        )


def _report(written: list[LisaSample]) -> dict:
    ious = np.array([sample.iou for sample in written])
    return {
        "samples": len(written),
        "photos": dict(Counter(sample.photo for sample in written)),
        "polygons": sum(sample.polygons for sample in written),
        "round_trip": {
            "lowest_iou": float(ious.min(initial=1)),
            "mean_iou": float(ious.mean()) if written else 1.0,
            "not_exact": int((ious < 1).sum()),
        },
    }
