"""FoodReasonSeg-Single as ReasonSeg, for LISA's own code.

    <root>/reason_seg/FoodReasonSeg-Single/<split>/<sample_id>.{jpg,json}
    <root>/chat_prompts_<split>.txt      what chat.py asks for: a prompt, a photo, a prompt, ...

As its reader has it (`utils/data_processing.py`, `utils/dataset.py`): `text` holds one instruction,
`is_sentence` has it asked as it stands, `shapes` are polygons in pixels, all of label target; there
are none where nothing in the photo answers the question.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
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


def write_lisa(root: Path, dataset: Path, split: str, samples: Sequence[Sample]) -> dict:
    """Writes one split's samples; dataset: the folder that their `image` is relative to.

    Returns counts for the report; round_trip: the IoU of each mask with what its polygons draw.
    Raises DataError for a photo that isn't its sample's, or an id that LISA's code would cut short.
    """
    folder = root / "reason_seg" / NAME / split
    folder.mkdir(parents=True)
    photos, prompts, polygons, ious = Counter(), [], 0, []
    for sample in tqdm(samples, f"lisa {split}"):
        if "." in sample.sample_id:
            why = f"chat.py cuts a file's name at its first dot, and {sample.sample_id!r} has one"
            fix = "rename the photo or the id, and build the data again"
            raise DataError(f"{sample.image}: {why}; {fix}.")
        photo = folder / f"{sample.sample_id}.jpg"
        photos[place_photo(dataset / sample.image, photo, sample)] += 1
        count, iou = _write_annotation(photo.with_suffix(".json"), sample)
        polygons += count
        ious.append(iou)
        prompts.append(f"{instruction(sample)} {REQUEST}\n{photo.relative_to(root).as_posix()}\n")
    (root / f"chat_prompts_{split}.txt").write_text("".join(prompts), encoding="utf-8")
    round_trip = {
        "lowest_iou": min(ious, default=1.0),
        "mean_iou": float(np.mean(ious)) if ious else 1.0,
        "not_exact": sum(iou < 1 for iou in ious),
    }
    counts = {"samples": len(samples), "photos": dict(photos), "polygons": polygons}
    return counts | {"round_trip": round_trip}


def instruction(sample: Sample) -> str:
    """The question in one line, without the request that LISA's readers put after it."""
    question = " ".join(sample.question.split())
    return question.removesuffix(REQUEST).strip() or question


def _write_annotation(path: Path, sample: Sample) -> tuple[int, float]:
    """(number of polygons, IoU of what they draw with the sample's mask)."""
    truth = sample.union_mask()
    polygons = mask_to_polygons(truth)
    shape = {"label": "target", "shape_type": "polygon"}
    shapes = [shape | {"points": polygon} for polygon in polygons]
    content = {"text": [instruction(sample)], "is_sentence": True, "shapes": shapes}
    # ASCII, because their reader opens it with whatever encoding the machine has.
    path.write_text(json.dumps(content), encoding="ascii")
    intersection, union = intersection_union(polygons_to_mask(polygons, sample.size), truth)
    return len(polygons), intersection / union if union else 1.0
