"""A whole folder in the official layout: all that can be built is built, all else reported."""

import tracemalloc
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from official_folder import CHICKEN, TEST, TRAIN, class_mask, messages, write_official

from foodseg.common.errors import DataError
from foodseg.data import samples as samples_module
from foodseg.data.foodreasonseg import read_conversations
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.data.samples import iterate_samples, load_samples, save_samples
from foodseg.data.single import build_single, write_single


@pytest.fixture
def official(tmp_path):
    return write_official(tmp_path / "FoodSeg103")


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_is_built_or_reported(official, tmp_path, split):
    path = tmp_path / f"{split}.parquet"
    report = write_single(official.root, split, path)
    samples = load_samples(path)
    assert [sample.sample_id for sample in samples] == official.kept[split]
    left_out = {reason: turns for reason, turns in official.left_out[split].items() if turns}
    assert report.left_out == left_out
    found = Counter((p.file, p.field, p.reason) for p in report.problems)
    assert found == Counter(official.problems[split])
    text = report.describe()
    for problem in report.problems:
        assert problem.fix and str(problem) in text
    short = report.describe(faults=1).splitlines()
    assert sum("fault:" in line for line in short) == 1
    if len(report.problems) > 1:
        assert short[-1] == f"  and {len(report.problems) - 1} other faults, in the saved report"
    assert report.counts["turns"] == report.kept + sum(left_out.values())
    assert report.counts["entries"] == len(official.entries[split])
    assert report.counts["references"] == sum(len(sample.references) for sample in samples)
    photos = {"train": len(TRAIN) - 1, "test": len(TEST)}  # one of train's is missing
    assert report.counts["dishes"] == photos[split]


# Every reason that the reader and the builder know, but for a missing category list, which would
# leave no list to plant a differing name in (tests/test_single.py has it).
REASONS = """
category differs; unknown class id; missing image; missing mask; unreadable image; unreadable mask;
coloured pixels; JPEG under a PNG's name; no class ids; image and mask sizes differ;
unsafe dish_id; unknown ingredient;
[SEG] without a name; {name} without [SEG]; excluded label; empty mask; mask too small;
answer without a question; question without an answer; wrong shape; duplicate turn;
duplicate dish_id
"""


def test_fifty_plates_and_every_quirk_are_planted(official):
    assert len(TRAIN + TEST) == 50
    reasons = {reason.strip() for reason in REASONS.split(";")}
    assert {reason for _, _, reason in official.problems["train"]} == reasons
    assert len(official.kept["train"]) > 40 and len(official.kept["test"]) == 20


def test_masks_references_and_fixes_of_the_whole_folder(official, tmp_path):
    samples, report = build_single(official.root, "train")
    by_id = {sample.sample_id: sample for sample in samples}
    for dish in official.kept["train"]:
        sample = by_id[dish]
        mask = class_mask(int(sample.dish_id))
        asked = [k for k, name in CATEGORIES.items() if name in sample.foods]
        assert (sample.union_mask() == np.isin(mask, asked)).all() and asked
        assert "[" not in sample.answer and "{" not in sample.answer
    duck = by_id[f"train-{TRAIN[5]}-0"]
    assert duck.foods == (CATEGORIES[CHICKEN],) and duck.references[0].box == (6, 20, 19, 31)
    assert [p.fix[:24] for p in report.problems if p.reason == "unknown class id"] == [
        "no category has id 200; "
    ]
    turned = [p.fix for p in report.problems if f"{official.turned}.png" in p.file]
    assert len(turned) == 1 and "as the photo is stored" in turned[0]


def test_writing_gives_what_building_gives_or_leaves_the_file_of_before(
    official, tmp_path, monkeypatch
):
    monkeypatch.setattr(samples_module, "ROW_GROUP", 7)
    path = tmp_path / "out" / "train.parquet"
    for per in ("ingredient", "component"):
        samples, report = build_single(official.root, "train", per=per)
        assert write_single(official.root, "train", path, per=per) == report
        assert list(iterate_samples(path)) == samples and len(samples) > 7
    before = path.read_bytes()
    source = official.root / "FoodReasonSeg_train.json"
    source.write_bytes(source.read_bytes()[:-3])
    with pytest.raises(DataError, match="broken JSON"):
        write_single(official.root, "train", path)

    def interrupted():
        yield samples[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_samples(interrupted(), path)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["train.parquet"]


def many_turns(official, entries: int):
    """A folder's train split with 25 turns in each entry, all of them kept."""
    answer = "{rice} [SEG1], {carrot} [SEG2], {duck} [SEG3]"
    official.entries["train"] = []
    for number in range(entries):
        texts = [text for turn in range(25) for text in (f"{number}.{turn}?", answer)]
        official.talk(TRAIN[0], messages(*texts))
    official.write_entries("train")
    official.entries["train"] = []


def peak(step) -> int:
    """Python's own memory at its highest during a step, in bytes."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_samples(official, tmp_path, monkeypatch):
    """What is left of the growth is the conversations."""
    monkeypatch.setattr(samples_module, "ROW_GROUP", 64)
    path, source = tmp_path / "train.parquet", official.root / "FoodReasonSeg_train.json"
    built, read = {}, {}
    for entries in (24, 120):  # 600 and 3000 turns
        many_turns(official, entries)
        read[entries] = peak(lambda: read_conversations(source, CATEGORIES))
        built[entries] = peak(lambda: write_single(official.root, "train", path))
    held = peak(lambda: len(build_single(official.root, "train")[0]))
    print(f"3000 turns: {read[120]:,} bytes, built {built[120]:,}, held in a list {held:,}")
    assert pq.ParquetFile(path).metadata.num_rows == 3000
    assert (built[120] - read[120]) - (built[24] - read[24]) < (held - read[120]) / 4
