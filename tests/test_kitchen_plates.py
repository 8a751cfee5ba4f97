"""The kitchen's plates: deterministic, labelled with what is visible, lit the same way."""

from __future__ import annotations

import numpy as np
import pytest

from foodseg.kitchen.plates import HEIGHTS, KITCHEN_FOODS, WIDTH, draw_plate

SEEDS = range(90)


@pytest.fixture(scope="module")
def plates():
    return [draw_plate(seed) for seed in SEEDS]


def test_same_seed_same_bytes_and_other_seed_another_plate(plates):
    again = draw_plate(3)
    assert again.image.tobytes() == plates[3].image.tobytes()
    assert again.mask.tobytes() == plates[3].mask.tobytes()
    assert again.image.tobytes() != plates[4].image.tobytes()


def test_a_plates_foods_are_the_ids_of_its_mask_and_show_enough(plates):
    for plate in plates:
        height = plate.image.shape[0]
        assert plate.image.shape == (height, WIDTH, 3) and height in HEIGHTS
        assert plate.mask.shape == (height, WIDTH)
        assert plate.image.dtype == plate.mask.dtype == np.uint8
        assert plate.foods == tuple(int(i) for i in np.unique(plate.mask) if i)
        assert min(np.mean(plate.mask == food) for food in plate.foods) >= 0.012


def test_every_food_and_every_count_occurs(plates):
    assert {food for plate in plates for food in plate.foods} == set(KITCHEN_FOODS)
    assert len(KITCHEN_FOODS) >= 20
    assert {len(plate.foods) for plate in plates} == {2, 3, 4, 5}


def test_places_vary_over_the_whole_picture(plates):
    centres = [
        np.argwhere(plate.mask == food).mean(axis=0) / plate.mask.shape
        for plate in plates
        for food in plate.foods
    ]
    assert np.std(centres, axis=0).min() > 0.15
    assert np.min(centres) < 0.25 and np.max(centres) > 0.75


def test_daylight_gives_away_the_place(plates):
    """Red minus green falls into place from left to right, blue minus green from top to bottom."""
    slopes = []
    for plate in plates:
        image = np.where(plate.mask[..., None] > 0, np.nan, plate.image)
        red, green, blue = np.moveaxis(image, 2, 0)
        slopes.append((_slope(red - green, axis=0), _slope(blue - green, axis=1)))
    red, blue = np.median(slopes, axis=0)
    assert 9 < red < 15
    assert 9 < blue < 15


def _slope(difference: np.ndarray, axis: int) -> float:
    """Rise over the whole picture of the median along `axis`, by least squares."""
    line = np.nanmedian(difference, axis=axis)
    return np.polyfit(np.linspace(0, 1, len(line)), line, 1)[0]


def test_mask_follows_the_picture(plates):
    """The picture changes most where the mask does, not a few pixels beside it."""
    change = {
        shift: np.mean([_change_at_outline(plate, shift) for plate in plates[:30]])
        for shift in (-3, 0, 3)
    }
    assert change[0] > 1.3 * max(change[-3], change[3])


def _change_at_outline(plate, shift: int) -> float:
    """Mean step between horizontal neighbours where the mask, rolled by `shift`, changes."""
    mask = np.roll(plate.mask, (shift, shift), axis=(0, 1)).astype(int)
    step = np.abs(np.diff(plate.image.astype(int), axis=1)).sum(axis=-1)
    return step[np.diff(mask, axis=1) != 0].mean()


def test_foods_wear_their_colours(plates):
    """Carrots (84) are reddest, broccoli (87) is greenest, blueberries (32) are bluest."""
    order = {84: (0, 1, 2), 87: (1, 0, 2), 32: (2, 1, 0)}
    for food, channels in order.items():
        pixels = [plate.image[plate.mask == food] for plate in plates if food in plate.foods]
        mean = np.concatenate(pixels).mean(axis=0)
        assert tuple(int(c) for c in np.argsort(-mean)) == channels
