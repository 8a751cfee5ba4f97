"""Masks to boxes and points against the parents' own code, and references between image sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from foodseg.common.errors import DataError
from foodseg.data.references import (
    Reference,
    count_parts,
    decode_mask,
    encode_mask,
    mask_area,
    mask_to_parts,
    mask_to_reference,
    scale_reference,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "mask_references.json").read_text())
CASES = {case["name"]: case for case in VECTORS["cases"]}
MODEL = (840, 840)

# Where ours differs from the recorded output, and why; each has its own test below.
EMPTY = {"edge/empty"}  # no pixel, no reference: ours raises instead of returning null
NO_BACKGROUND = {"edge/full_no_background"}  # scipy's distances are undefined without a 0 pixel
# Pixels that several polygons cover: the recorded box ignores them, the recorded point doesn't. A
# class-id mask gives each pixel one class, so overlap can't occur and has no meaning here.
OVERLAP = {
    name
    for name, case in CASES.items()
    if case["input"]["kind"] == "mask"
    and any(set(row) - set("01") for row in case["input"]["mask"])
}
KINDS = {name: case["input"]["kind"] for name, case in CASES.items()}
NAMED = EMPTY | NO_BACKGROUND | OVERLAP
MASKS = sorted(name for name, kind in KINDS.items() if kind == "mask" and name not in NAMED)
SCALES = sorted(name for name, kind in KINDS.items() if kind == "scale")


def read_mask(name: str) -> np.ndarray:
    return np.array([[int(digit) for digit in row] for row in CASES[name]["input"]["mask"]])


def test_every_case_is_either_reproduced_or_named():
    assert set(MASKS) | set(SCALES) | EMPTY | NO_BACKGROUND | OVERLAP == set(CASES)
    assert len(MASKS) >= 40 and len(SCALES) >= 10 and len(OVERLAP) == 5
    (clipped,) = [n for n in SCALES if 840 in CASES[n]["output"]["bbox_840"]]
    assert clipped == "scale/last_pixel_maps_to_840_when_width_ge_1680"


@pytest.mark.parametrize("name", MASKS)
def test_box_and_point_equal_the_parents(name):
    mask, expected = read_mask(name) == 1, CASES[name]["output"]
    reference = mask_to_reference(mask)
    assert list(reference.box) == expected["bbox"]
    assert list(reference.point) == expected["p1"]
    scaled = scale_reference(reference, mask.shape[::-1], MODEL)
    assert list(scaled.box) == expected["bbox_840"]
    assert list(scaled.point) == expected["p1_840"]


@pytest.mark.parametrize("name", SCALES)
def test_scaling_equals_the_parents_within_the_image(name):
    given, expected = CASES[name]["input"], CASES[name]["output"]
    reference = Reference(tuple(given["bbox"]), tuple(given["point"]))
    scaled = scale_reference(reference, (given["width"], given["height"]), MODEL)
    # The recorded code never clips: 840 is no pixel of an 840-pixel side, so ours says 839.
    assert list(scaled.box) == [min(value, 839) for value in expected["bbox_840"]]
    assert list(scaled.point) == [min(value, 839) for value in expected["p1_840"]]


def test_masks_without_foreground_or_of_more_axes_are_refused():
    for name in EMPTY:
        assert CASES[name]["output"]["bbox"] is None
        with pytest.raises(DataError, match="no foreground"):
            mask_to_reference(read_mask(name) == 1)
    with pytest.raises(DataError, match=r"\(H, W\)"):
        mask_to_reference(np.ones((4, 4, 3), bool))


def test_mask_without_background_gets_its_middle():
    for name in NO_BACKGROUND:
        mask = read_mask(name) == 1  # 8 x 6: the inscribed circle's first centre is (2, 2)
        assert list(mask_to_reference(mask).box) == CASES[name]["output"]["bbox"]
        assert mask_to_reference(mask).point == (2, 2)
    assert mask_to_reference(np.ones((7, 7), bool)).point == (3, 3)
    assert mask_to_reference(np.ones((1, 1), bool)) == Reference((0, 0, 0, 0), (0, 0))


@pytest.mark.parametrize("name", sorted(OVERLAP))
def test_overlap_planes_count_as_foreground(name):
    mask, expected = read_mask(name) > 0, CASES[name]["output"]
    reference = mask_to_reference(mask)
    rows, columns = np.nonzero(mask)
    assert reference.box == (columns.min(), rows.min(), columns.max(), rows.max())
    assert list(reference.point) == expected["p1"]  # the recorded point sees all foreground too


def test_cropping_changes_no_distance():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros((int(rng.integers(8, 60)), int(rng.integers(8, 60))), bool)
        mask[: rng.integers(4, 50), rng.integers(0, 4) :] = True
        mask &= rng.random(mask.shape) > 0.03
        if mask.all() or not mask.any():
            continue
        distance = ndimage.distance_transform_edt(mask)
        y, x = np.unravel_index(distance.argmax(), mask.shape)
        assert mask_to_reference(mask).point == (x, y)


def test_there_and_back_stays_within_the_rounding_bound():
    rng = np.random.default_rng(1)
    worst = 0.0
    for _ in range(300):
        size = width, height = tuple(int(side) for side in rng.integers(40, 4000, 2))
        x1, x2 = sorted(int(v) for v in rng.integers(0, width, 2))
        y1, y2 = sorted(int(v) for v in rng.integers(0, height, 2))
        given = Reference((x1, y1, width - 1, y2), (x2, height - 1))
        back = scale_reference(scale_reference(given, size, MODEL), MODEL, size)
        pairs = zip(given.box + given.point, back.box + back.point, size * 3, strict=True)
        for before, after, side in pairs:
            bound = max(side / 840 / 2 + 0.5, side / 840 - 0.5)
            assert abs(before - after) <= bound + 1e-9
            worst = max(worst, abs(before - after) / bound)
    assert worst > 0.5  # the bound isn't idle


def test_small_images_come_back_exactly():
    for side in (168, 336, 512, 840):
        for value in range(side):
            there = scale_reference(Reference((value,) * 4, (value, value)), (side, side), MODEL)
            assert scale_reference(there, MODEL, (side, side)).point == (value, value)


def test_scaling_clips_and_refuses_an_empty_side():
    wild = Reference((-5, -1, 900, 840), (2000, -7))
    assert scale_reference(wild, MODEL, (336, 252)) == Reference((0, 0, 335, 251), (335, 0))
    with pytest.raises(DataError, match="width, height"):
        scale_reference(wild, (0, 5), MODEL)


def test_parts_per_ingredient_and_per_component():
    mask = np.zeros((20, 30), bool)
    mask[2:8, 2:8] = True  # 36 pixels
    mask[8:10, 8:10] = True  # touches it by a corner: 4 more
    mask[12:18, 15:25] = True  # 60
    mask[0, 29] = True  # 1
    (whole,) = mask_to_parts(mask, "ingredient", 64)
    assert (whole == mask).all()  # small specks stay: the ingredient's mask is all its pixels
    assert mask_to_parts(mask, "ingredient", 102) == []
    for least, areas in ((1, [1, 40, 60]), (40, [40, 60]), (61, [])):
        assert [int(part.sum()) for part in mask_to_parts(mask, "component", least)] == areas
    assert (count_parts(mask, "ingredient"), count_parts(mask, "component")) == (1, 3)
    for per in ("ingredient", "component"):
        assert mask_to_parts(mask & False, per, 0) == [] and count_parts(mask & False, per) == 0
    with pytest.raises(DataError, match="component"):
        mask_to_parts(mask & False, "piece", 1)


def test_run_length_encoding_is_exact():
    rng = np.random.default_rng(2)
    for shape in ((1, 1), (7, 5), (252, 336)):
        for mask in (rng.random(shape) > 0.5, np.zeros(shape, bool), np.ones(shape, bool)):
            rle = json.loads(json.dumps(encode_mask(mask)))
            assert rle["size"] == list(shape) and isinstance(rle["counts"], str)
            assert decode_mask(rle).dtype == bool
            assert (decode_mask(rle) == mask).all()
            assert mask_area(rle) == mask.sum()
