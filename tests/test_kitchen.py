"""The written kitchen dataset: layout, same bytes from a seed, seeds apart, no half-written set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.data.foodreasonseg import read_conversations
from foodseg.data.foodseg103 import CATEGORIES, FoodSeg103, read_categories
from foodseg.kitchen import dataset as kitchen
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, plate_seeds, write_kitchen


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


def test_masks_are_single_channel_and_fit_their_pictures(root):
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


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(root, tmp_path):
    write_kitchen(tmp_path / "again", 3, 2, seed=2, workers=1)
    assert folder_bytes(tmp_path / "again") == folder_bytes(root)


def test_another_seed_gives_other_plates(root, tmp_path):
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


@pytest.mark.parametrize("count, seed", [(1, -1), (1, 40), (100_001, 0), (-1, 0)])
def test_seeds_that_would_meet_are_refused(count, seed):
    with pytest.raises(ValueError, match="out of range"):
        plate_seeds("train", count, seed)


def test_an_existing_dataset_is_never_overwritten(root):
    before = folder_bytes(root)
    with pytest.raises(DataError, match="there already"):
        write_kitchen(root, 1, 1, seed=0, workers=1)
    assert folder_bytes(root) == before


def test_an_interrupted_write_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    drawn = []

    def draw_two(seed):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(seed)
        return draw_plate(seed)

    draw_plate = kitchen.draw_plate
    monkeypatch.setattr(kitchen, "draw_plate", draw_two)
    target = tmp_path / "FoodSeg103"
    with pytest.raises(KeyboardInterrupt):
        write_kitchen(target, 3, 0, seed=0, workers=1)
    assert not target.exists()
    monkeypatch.undo()
    write_kitchen(target, 1, 1, seed=0, workers=1)
    assert len(list((target / "Images").rglob("*.jpg"))) == 2
    assert not target.with_name("FoodSeg103.partial").exists()
