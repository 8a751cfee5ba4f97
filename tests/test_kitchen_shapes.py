"""Generic drawn shapes: the same seed gives the same scene, and every shape of it can be seen."""

import numpy as np
import pytest
from scipy import ndimage

from foodseg.kitchen.plates import HEIGHTS, MIN_VISIBLE, WIDTH, draw_plate
from foodseg.kitchen.pretraining.shapes import SHAPES, draw_shapes


@pytest.fixture(scope="module")
def scenes():
    return [draw_shapes(seed) for seed in range(40)]


def test_a_seed_gives_the_same_bytes_and_no_plate_of_food(scenes):
    again = draw_shapes(3)
    assert again.foods == scenes[3].foods
    assert again.image.tobytes() == scenes[3].image.tobytes()
    assert again.mask.tobytes() == scenes[3].mask.tobytes()
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)
    assert draw_plate(3).image.tobytes() != again.image.tobytes()


def test_every_shape_is_visible_and_is_what_the_mask_says(scenes):
    for scene in scenes:
        height = scene.image.shape[0]
        assert scene.image.shape == (height, WIDTH, 3) and height in HEIGHTS
        assert scene.mask.shape == (height, WIDTH)
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        assert scene.foods == tuple(int(i) for i in np.unique(scene.mask) if i)
        assert min(np.mean(scene.mask == kind) for kind in scene.foods) >= MIN_VISIBLE
    assert {len(scene.foods) for scene in scenes} == {2, 3, 4, 5}


def test_all_kinds_occur_and_shapes_are_whole_or_in_pieces(scenes):
    shown = {kind for scene in scenes for kind in scene.foods}
    assert shown == set(SHAPES)
    pieces = [ndimage.label(scene.mask == k)[1] for scene in scenes for k in scene.foods]
    assert 0.2 < np.mean(np.array(pieces) > 1) < 0.8


def test_the_picture_shows_a_shape_where_its_mask_is(scenes):
    # 20 pixels of 336 aside, a mask misses most of its edge, and with it the contrast.
    here, moved = [], []
    for scene in scenes:
        picture = scene.image.astype(np.float32)
        for kind in scene.foods:
            mask = scene.mask == kind
            for shifted, found in ((mask, here), (np.roll(mask, (20, 20), (0, 1)), moved)):
                ring = ndimage.binary_dilation(shifted, iterations=6) & ~shifted
                difference = picture[shifted].mean(axis=0) - picture[ring].mean(axis=0)
                found.append(np.abs(difference).mean())
    assert np.mean(here) > 1.3 * np.mean(moved)
