"""Masks to segmentation references (a box and a point), references between image sizes, mask IoU.

The rules are those of the data preparation of Seg-Zero and VisionReasoner: the box spans the
mask's pixels, inclusive; the point is the centre of the largest inscribed circle, that is the
first arg max (row by row) of the Euclidean distance to the nearest background pixel, where the
image's border is not background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pycocotools import mask as coco
from scipy import ndimage

from foodseg.common.errors import DataError

Size = tuple[int, int]  # (width, height)
Per = Literal["ingredient", "component"]
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Reference:
    """The box and the points that prompt the segmenter, in integer pixels of one image.

    point: (x, y), on the part. more: further points, (x, y, 1) on it or (x, y, 0) off it; a true
    reference has none.
    """

    box: tuple[int, int, int, int]  # x1, y1, x2, y2, both corners inside
    point: tuple[int, int]
    more: tuple[tuple[int, int, int], ...] = ()


Part = tuple[Reference, dict]  # what stands for one part of a mask: its reference, run lengths


def mask_to_reference(mask: np.ndarray) -> Reference:
    """The box and the point of a boolean mask (H, W), in the mask's own pixels.

    The image's border is background only for a mask that fills it: the point is in the middle
    then. Raises DataError for an empty mask.
    """
    mask = _as_boolean(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise DataError("mask: it has no foreground pixel, so no box or point; leave it out.")
    box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    return Reference(box=box, point=_inscribed_centre(mask, box))


def _inscribed_centre(mask: np.ndarray, box: tuple[int, int, int, int]) -> tuple[int, int]:
    # One pixel around the box is enough: no background further out is nearer than what is between.
    left, top = max(box[0] - 1, 0), max(box[1] - 1, 0)
    crop = mask[top : box[3] + 2, left : box[2] + 2]
    if crop.all():
        crop, left, top = np.pad(crop, 1), left - 1, top - 1
    distance = ndimage.distance_transform_edt(crop)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x) + left, int(y) + top


def mask_to_parts(mask: np.ndarray, per: Per, min_area: int) -> list[np.ndarray]:
    """The parts of a mask that get a reference each, of `min_area` pixels or more, bool (H, W).

    per: "ingredient", the whole mask; "component", every connected component (pixels that touch
    by a side or a corner), ordered by its first pixel row by row.
    """
    mask = _as_boolean(mask)
    if per == "ingredient":
        return [mask] if np.count_nonzero(mask) >= max(min_area, 1) else []
    if per != "component":
        raise DataError(f"per: {per!r} is unknown; write 'ingredient' or 'component'.")
    labels, count = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == label for label in range(1, count + 1) if areas[label] >= min_area]


def referenced_parts(mask: np.ndarray, per: Per, min_area: int) -> tuple[Part, ...]:
    """The parts of `mask_to_parts`, each as its reference and its run-length encoding."""
    parts = mask_to_parts(mask, per, min_area)
    return tuple((mask_to_reference(part), encode_mask(part)) for part in parts)


def why_no_part(area: int) -> str:
    """The fault of a mask of so many pixels that has no part."""
    return "mask too small" if area else "empty mask"


def count_parts(mask: np.ndarray, per: Per) -> int:
    """How many parts a mask has before small ones are dropped."""
    mask = _as_boolean(mask)
    return int(mask.any()) if per == "ingredient" else ndimage.label(mask, _EIGHT_NEIGHBOURS)[1]


def scale_reference(reference: Reference, source: Size, target: Size) -> Reference:
    """A reference in `source`-sized pixels, in `target`-sized ones; sizes are (width, height).

    Each coordinate becomes int(v * target / source + 0.5), as in the parents' code, then is
    clipped to the target image (theirs can be 840 for an 840-pixel side). There and back moves it
    by at most max(r / 2 + 1 / 2, r - 1 / 2) pixels, where r = source / target of that side.
    """
    if min(*source, *target) < 1:
        raise DataError(f"size: {source} or {target} has an empty side; give (width, height).")

    def moved(values: Sequence[int]) -> tuple[int, ...]:
        sides = [(source[index % 2], target[index % 2]) for index in range(len(values))]
        pairs = zip(values, sides, strict=True)  # x and y take turns
        return tuple(min(max(int(v * new / old + 0.5), 0), new - 1) for v, (old, new) in pairs)

    more = tuple((*moved(point), label) for *point, label in reference.more)
    return Reference(moved(reference.box), moved(reference.point), more)


def encode_mask(mask: np.ndarray) -> dict:
    """COCO run-length encoding of a boolean mask (H, W): {"size": [H, W], "counts": str}."""
    rle = coco.encode(np.asfortranarray(_as_boolean(mask), dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict) -> np.ndarray:
    """The boolean mask (H, W) of a COCO run-length encoding."""
    return coco.decode(rle).astype(bool)


def mask_area(rle: dict) -> int:
    """Foreground pixels of a COCO run-length encoding, without decoding it."""
    return int(coco.area(rle))


def intersection_union(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """(I, U) in pixels of two boolean (H, W) masks at the original image's size."""
    if predicted.shape != truth.shape:
        shapes = f"its shape {predicted.shape} is not the ground truth's {truth.shape}"
        raise ValueError(f"predicted: {shapes}; resize it to the original image.")
    predicted, truth = predicted.astype(bool), truth.astype(bool)
    return int((predicted & truth).sum()), int((predicted | truth).sum())


def sample_ious(intersections: Sequence[int], unions: Sequence[int]) -> np.ndarray:
    """I/U of each sample, float64 (N,); 0 where U = 0."""
    i, u = np.asarray(intersections, dtype=float), np.asarray(unions, dtype=float)
    return np.divide(i, u, out=np.zeros_like(i), where=u > 0)


def _as_boolean(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise DataError(f"mask: its shape is {mask.shape}; give one channel, (H, W).")
    return mask.astype(bool)
