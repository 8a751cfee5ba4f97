"""How good a kitchen SAM2 is on plates, given true references and three kinds of wrong ones."""

from __future__ import annotations

import numpy as np

from foodseg.data.references import Reference, Size, intersection_union
from foodseg.kitchen.plates import draw_plate
from foodseg.kitchen.pretraining.segmenter_scenes import plate_references
from foodseg.models.segmenter import Segmenter

WIDENED = 0.08  # of the picture's side, on every side of the box
INSET = 4  # pixels of a plate, from the box's corner to the point


def validate(segmenter: Segmenter, first_seed: int, count: int) -> dict[str, float]:
    """Mean IoU over all foods of `count` plates, at their own size, by kind of reference."""
    ious: dict[str, list[float]] = {kind: [] for kind in REFERENCES}
    for seed in range(first_seed, first_seed + count):
        plate = draw_plate(seed)
        embedding = segmenter.embed_image(plate.image)
        truth = [plate.mask == food for food in plate.foods]
        for kind, change in REFERENCES.items():
            references = [change(r, embedding.size) for r in plate_references(plate)]
            masks = segmenter.predict(embedding, references)
            for pair in zip(masks, truth, strict=True):
                intersection, union = intersection_union(*pair)
                ious[kind].append(intersection / union)
    return {kind: float(np.mean(values)) for kind, values in ious.items()}


def _true(reference: Reference, size: Size) -> Reference:
    return reference


def _wide(reference: Reference, size: Size) -> Reference:
    x1, y1, x2, y2 = reference.box
    right, down = (int(WIDENED * side + 0.5) for side in size)
    last_x, last_y = size[0] - 1, size[1] - 1
    box = max(x1 - right, 0), max(y1 - down, 0), min(x2 + right, last_x), min(y2 + down, last_y)
    return Reference(box, reference.point)


def _wide_and_corner(reference: Reference, size: Size) -> Reference:
    box = _wide(reference, size).box
    return Reference(box, (box[0] + INSET, box[1] + INSET))


def _half(reference: Reference, size: Size) -> Reference:
    """The left or right half of the box: the one that holds the point."""
    x1, y1, x2, y2 = reference.box
    middle = (x1 + x2) // 2
    left, right = (x1, middle) if reference.point[0] <= middle else (middle, x2)
    return Reference((left, y1, right, y2), reference.point)


REFERENCES = {
    "true": _true,
    "wide box": _wide,
    "wide box, point in its corner": _wide_and_corner,
    "half of the box": _half,
}
