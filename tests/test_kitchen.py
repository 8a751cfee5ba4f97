"""The kitchen's plates, labelled with what is visible, and the dataset that is written of them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import watch
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.data.foodreasonseg import read_conversations
from foodseg.data.foodseg103 import CATEGORIES, FoodSeg103, read_categories
from foodseg.kitchen import dataset as kitchen
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, plate_seeds, write_kitchen
from foodseg.kitchen.plates import HEIGHTS, KITCHEN_FOODS, WIDTH, draw_plate


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kitchen") / "FoodSeg103"
    write_kitchen(root, train_plates=3, test_plates=2, seed=2, workers=2)
    return root


def folder_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout_is_the_official_one(root):
    expected = {"category_id.txt", "FoodReasonSeg_train.json", "FoodReasonSeg_test.json"}
    for split, count in (("train", 3), ("test", 2)):
        for seed in plate_seeds(split, count, seed=2):
            expected.add(f"Images/img_dir/{split}/{seed:08d}.jpg")
            expected.add(f"Images/ann_dir/{split}/{seed:08d}.png")
    assert set(folder_bytes(root)) == expected
    assert read_categories(root / "category_id.txt") == CATEGORIES
    assert len(CATEGORIES) == 104
    for mask_path in (root / "Images" / "ann_dir").rglob("*.png"):
        picture_path = root / "Images" / "img_dir" / mask_path.parent.name / mask_path.stem
        with Image.open(mask_path) as mask, Image.open(f"{picture_path}.jpg") as picture:
            assert mask.mode == "L" and picture.mode == "RGB"
            assert mask.size == picture.size


@pytest.mark.parametrize("split, count", [("train", 3), ("test", 2)])
def test_the_dataset_reader_finds_every_food_that_a_conversation_asks_for(root, split, count):
    reader = FoodSeg103(root)
    conversations = read_conversations(root / f"FoodReasonSeg_{split}.json", CATEGORIES)
    assert [c.dish_id for c in conversations] == reader.dish_ids(split)
    assert len(conversations) == count
    for entry in json.loads((root / f"FoodReasonSeg_{split}.json").read_text()):
        assert set(entry) == {"dish_id", "conversations"}
    for conversation in conversations:
        present = set(np.unique(reader.read_mask(split, conversation.dish_id)))
        assert sum(bool(turn.class_ids) for turn in conversation.turns) >= 2
        for turn in conversation.turns:
            assert not turn.problems
            assert set(turn.class_ids) <= present


def test_a_seed_gives_the_same_bytes_for_any_number_of_workers_and_another_others(root, tmp_path):
    write_kitchen(tmp_path / "again", 3, 2, seed=2, workers=1)
    assert folder_bytes(tmp_path / "again") == folder_bytes(root)
    write_kitchen(tmp_path / "other", 1, 0, seed=3, workers=1)
    written = folder_bytes(tmp_path / "other")
    pictures = {data for name, data in written.items() if name.endswith(".jpg")}
    assert len(pictures) == 1
    assert pictures.isdisjoint(folder_bytes(root).values())


def test_seed_ranges_never_meet():
    ranges = [
        plate_seeds(split, 100_000, seed) for split in ("train", "test") for seed in range(40)
    ]
    ranges.sort(key=lambda seeds: seeds.start)
    for before, after in zip(ranges[:-1], ranges[1:], strict=True):
        assert before.stop <= after.start
    assert ranges[-1].stop <= BASE_PLATE_SEEDS
    for count, seed in [(1, -1), (1, 40), (100_001, 0), (-1, 0)]:  # would meet
        with pytest.raises(ValueError, match="out of range"):
            plate_seeds("train", count, seed)


def test_an_existing_dataset_is_never_overwritten(root):
    before = folder_bytes(root)
    with pytest.raises(DataError, match="there already"):
        write_kitchen(root, 1, 1, seed=0, workers=1)
    assert folder_bytes(root) == before


def test_an_interrupted_write_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    watch(monkeypatch, kitchen, "draw_plate", 3)
    target = tmp_path / "FoodSeg103"
    with pytest.raises(KeyboardInterrupt):
        write_kitchen(target, 3, 0, seed=0, workers=1)
    assert not target.exists()
    monkeypatch.undo()
    write_kitchen(target, 1, 1, seed=0, workers=1)
    assert len(list((target / "Images").rglob("*.jpg"))) == 2
    assert not target.with_name("FoodSeg103.partial").exists()


def test_a_second_drawing_is_refused_and_a_lost_plate_noticed(tmp_path, monkeypatch):
    target = tmp_path / "FoodSeg103"
    drawn = []

    def draw(seed):
        with pytest.raises(DataError, match="FoodSeg103: another process is at it"):
            write_kitchen(target, 3, 0, seed=0, workers=1)
        for picture in list(tmp_path.rglob("*.jpg")) if len(drawn) == 1 else []:
            picture.unlink()
        drawn.append(seed)
        return draw_plate(seed)

    monkeypatch.setattr(kitchen, "draw_plate", draw)
    with pytest.raises(DataError, match="2 files in img_dir, not 3"):
        write_kitchen(target, 3, 0, seed=0, workers=1)
    assert len(drawn) == 3 and not target.exists()


DRAWING = """
import sys
from foodseg.kitchen.dataset import write_kitchen
if __name__ == "__main__":
    write_kitchen(sys.argv[1], 5000, 0, seed=0, workers=2)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "draw.py").write_text(DRAWING)
    command = [sys.executable, str(tmp_path / "draw.py"), str(tmp_path / "FoodSeg103")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        while not list(tmp_path.rglob("*.png")):
            assert parent.poll() is None
            time.sleep(0.05)
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(children) == 3  # two workers and multiprocessing's tracker
    assert psutil.wait_procs(children, timeout=30)[1] == []


# Plates


@pytest.fixture(scope="module")
def plates():
    return [draw_plate(seed) for seed in range(90)]


def test_a_plates_foods_are_the_ids_of_its_mask_show_enough_and_occur_everywhere(plates):
    for plate in plates:
        height = plate.image.shape[0]
        assert plate.image.shape == (height, WIDTH, 3) and height in HEIGHTS
        assert plate.mask.shape == (height, WIDTH)
        assert plate.image.dtype == plate.mask.dtype == np.uint8
        assert plate.foods == tuple(int(i) for i in np.unique(plate.mask) if i)
        assert min(np.mean(plate.mask == food) for food in plate.foods) >= 0.012
    assert {food for plate in plates for food in plate.foods} == set(KITCHEN_FOODS)
    assert len(KITCHEN_FOODS) >= 20
    assert {len(plate.foods) for plate in plates} == {2, 3, 4, 5}
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
