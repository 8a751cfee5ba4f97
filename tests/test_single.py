"""Building FoodReasonSeg-Single from small folders: what is kept, what is left out and why."""

import io
import json
import random
from dataclasses import replace
from itertools import chain

import numpy as np
import official_folder
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from official_folder import CARROT, CHICKEN, OTHER, RICE, STEAK, messages
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.data.references import Reference, decode_mask
from foodseg.data.single import (
    MIN_AREA,
    build_single,
    check_no_shared_images,
    describe,
    load_samples,
    save_samples,
)

HEIGHT, WIDTH = 48, 64


def plate_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:24, 4:24] = RICE  # 400 pixels
    mask[4:14, 40:60] = CARROT  # 200
    mask[20:30, 50:60] = CARROT  # 100
    mask[40:43, 40:43] = CARROT  # 9, a speck
    mask[32:44, 2:22] = CHICKEN  # 240
    mask[46, 60:64] = STEAK  # 4, too small
    mask[0, 0] = OTHER
    mask[0, 1] = 255
    return mask


class Folder(official_folder.Folder):
    def plate(self, dish, split="train"):
        super().plate(dish, split, plate_mask())

    def talk(self, dish, *answers, split="train"):
        pairs = [(f"Question {n} of {dish}?", text) for n, text in enumerate(answers)]
        return super().talk(dish, messages(*chain.from_iterable(pairs)), split)

    def build(self, split="train", **options):
        self.write_entries(split)
        samples, report = build_single(self.root, split, **options)
        turns = report.counts["turns"]
        assert turns == report.kept + sum(report.left_out.values())  # nothing lost, whatever comes
        assert report.kept == len(samples)
        assert report.counts["references"] == sum(len(sample.references) for sample in samples)
        return samples, report


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    folder.write_names()
    return folder


def test_a_clean_conversation(folder):
    folder.plate("0001")
    folder.talk("0001", "{rice} [SEG1].", "Enjoy!", "The {carrots} [SEG1] and {duck} [SEG2].")
    (first, second), report = folder.build()
    assert report.left_out == {"needs no mask": 1} and report.problems == ()
    assert (first.sample_id, second.sample_id) == ("train-0001-0", "train-0001-2")
    assert first.image == "Images/img_dir/train/0001.jpg"
    assert first.size == (WIDTH, HEIGHT) == Image.open(folder.root / first.image).size
    assert first.references == (Reference((4, 4, 23, 23), (13, 13)),)
    assert second.question == "Question 2 of 0001?"
    assert second.answer == "The carrots and duck."
    assert second.foods == second.reference_foods == ("carrot", "chicken duck")
    assert second.references[0].box == (40, 4, 59, 42)  # the specks belong to the ingredient
    assert (second.union_mask() == np.isin(plate_mask(), [CARROT, CHICKEN])).all()
    assert (decode_mask(second.masks[1]) == (plate_mask() == CHICKEN)).all()


def test_one_reference_for_each_component(folder):
    folder.plate("0001")
    folder.talk("0001", "The {carrots} [SEG1] and {rice} [SEG2].")
    (sample,), report = folder.build(per="component")
    assert sample.foods == ("carrot", "rice")
    assert sample.reference_foods == ("carrot", "carrot", "rice")
    assert [r.box for r in sample.references[:2]] == [(40, 4, 59, 13), (50, 20, 59, 29)]
    assert (report.parts_dropped, report.per, report.min_area) == (1, "component", MIN_AREA)
    expected = np.isin(plate_mask(), [CARROT, RICE])
    expected[40:43, 40:43] = False
    assert (sample.union_mask() == expected).all()


def test_turns_kept_without_a_names_braces_are_counted(folder):
    folder.plate("0001")
    folder.talk("0001", "{rice} [SEG1], {steak} and {tofu}.", "{carrots} [SEG1]", "The {tofu}")
    samples, report = folder.build()
    assert [sample.foods for sample in samples] == [("rice",), ("carrot",)]
    assert samples[0].answer == "rice, steak and tofu."
    assert (report.unmarked, report.left_out) == (1, {"{name} without [SEG]": 1})
    assert ["{steak}", "{tofu}", "{tofu}"] == [p.fix.split()[3].strip(",") for p in report.problems]
    assert "kept: 1 turns without the braces" in report.describe()


def test_category_lists_that_differ_are_followed_and_reported(folder):
    folder.plate("0001")
    folder.talk("0001", "{gold} [SEG1]")
    path = folder.root / "category_id.txt"
    text = path.read_text(encoding="utf-8-sig").replace("66\trice", "66\tgold")
    path.write_text(text.replace("French beans", "french beans"))
    (sample,), report = folder.build()
    assert sample.foods == ("gold",)
    (problem,) = report.problems
    assert (problem.file, problem.field) == ("category_id.txt", "id 66")
    path.unlink()
    samples, report = folder.build()
    assert samples == [] and report.problems[0].reason == "missing category list"


def test_builds_that_make_no_sense_raise(folder):
    for prepare, root, options, words in (
        (None, "", {}, r"FoodReasonSeg_train.json.*can't be read"),
        ("[", "", {}, r"FoodReasonSeg_train.json: broken JSON"),
        (None, "Images", {}, "Images/img_dir is missing"),
        (None, "", {"split": "val"}, "choose from"),
        (None, "", {"per": "piece"}, "choose from"),
    ):
        if prepare:
            (folder.root / "FoodReasonSeg_train.json").write_text(prepare)
        with pytest.raises(DataError, match=words):
            build_single(folder.root / root, **{"split": "train"} | options)


def many_samples(folder):
    for number in range(3):
        folder.plate(f"000{number}")
        folder.talk(f"000{number}", "{rice} [SEG1] é", "{carrots} [SEG1], {duck} [SEG2]")
    return folder.build(per="component")


def test_parquet_round_trip_is_exact(folder, tmp_path):
    samples, _ = many_samples(folder)
    path = tmp_path / "out" / "train.parquet"
    save_samples(samples, path)
    loaded = load_samples(path)
    assert loaded == samples and loaded[0].masks == samples[0].masks
    assert (loaded[1].union_mask() == samples[1].union_mask()).all()
    first = path.read_bytes()
    save_samples(loaded, path)
    assert path.read_bytes() == first and [p.name for p in path.parent.iterdir()] == [path.name]
    save_samples([], path)
    assert load_samples(path) == []


def test_parquet_files_that_cannot_be_used(folder, tmp_path):
    path = tmp_path / "train.parquet"
    with pytest.raises(DataError, match="is missing; build"):
        load_samples(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="no readable Parquet"):
        load_samples(path)
    save_samples(many_samples(folder)[0], path)
    pq.write_table(pq.read_table(path).drop_columns(["boxes"]), path)
    with pytest.raises(DataError, match="columns boxes differ"):
        load_samples(path)


def test_report_as_frame_text_and_file(folder, tmp_path):
    folder.plate("0001")
    folder.talk("0001", "{rice} [SEG1]", "Hi", "Hm", "{unicorn} [SEG1]")
    folder.talk("0009", "{rice} [SEG1]")
    _, report = folder.build()
    frame = report.to_frame()
    lost = {"needs no mask": 2, "unknown ingredient": 1, "missing image": 1}
    assert frame.set_index("reason")["turns"].to_dict() == {"": 1} | lost
    reasons = [problem.reason for problem in report.problems]
    assert reasons == ["unknown ingredient", "missing image"]
    text = report.describe()
    assert "1 of 5 turns kept with 1 references" in text
    assert "2 needs no mask" in text and "0009.jpg" in text and "unicorn" in text
    report.save(tmp_path / "out" / "report.json")
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["left_out"] == report.left_out == lost and saved["kept"] == 1
    assert saved["problems"][1]["file"] == "Images/img_dir/train/0009.jpg"


def test_describe_samples(folder):
    samples, _ = many_samples(folder)
    frame = describe(samples)
    assert list(frame.index) == ["carrot", "chicken duck", "rice"]
    carrot = frame.loc["carrot"]
    assert (carrot["samples"], carrot["references"], carrot["references_per_sample"]) == (3, 6, 2)
    assert (carrot["area_min"], carrot["area_median"], carrot["area_max"]) == (100, 150, 200)
    assert frame.loc["rice", "share_median"] == pytest.approx(400 / (WIDTH * HEIGHT))
    assert describe([]).empty and describe(iter(samples)).equals(frame)


@pytest.mark.parametrize("same", ["bytes", "id"])
def test_a_photo_in_both_splits_leaves_training_alone_and_the_rest_is_built(folder, same):
    for dish, split in (("0001", "train"), ("0002", "train"), ("0003", "test")):
        folder.plate(dish, split)
        folder.talk(dish, "{rice} [SEG1]", "{carrot} [SEG1]", split=split)
    whole, _ = folder.build("test")
    if same == "bytes":
        folder.photo("0003", "test").write_bytes(folder.photo("0002").read_bytes())
    else:
        folder.plate("0002", "test")
    train, report = folder.build("train")
    test, _ = folder.build("test")
    assert {sample.dish_id for sample in train} == {"0001"} and len(test) == len(whole)
    assert report.left_out == {"photo in train and test": 2}
    (problem,) = report.problems
    assert problem.file == "Images/img_dir/train/0002.jpg" and "which stays" in problem.fix
    check_no_shared_images(train, test)


def test_train_and_test_share_no_image(folder):
    shared = r"test/0002.jpg is Images/img_dir/train/0001.jpg"
    for dish, split in (("0001", "train"), ("0002", "test")):
        folder.plate(dish, split)
        folder.talk(dish, "{rice} [SEG1]", split=split)
    train, _ = folder.build("train")
    test, _ = folder.build("test")
    check_no_shared_images(train, test)
    with pytest.raises(DataError, match=shared):
        check_no_shared_images([replace(train[0], dish_id="0002")], test)
    folder.photo("0002", "test").write_bytes(folder.photo("0001").read_bytes())
    test, _ = folder.build("test")
    with pytest.raises(DataError, match=shared):
        check_no_shared_images(iter(train), iter(test))
    unknown = [replace(sample, image_sha256="") for sample in train]
    check_no_shared_images(unknown, [replace(sample, image_sha256="") for sample in test])


def test_no_flipped_bit_is_read_as_other_samples(folder, tmp_path, campaign):
    path = tmp_path / "a.parquet"
    save_samples(many_samples(folder)[0][:6], path)
    data, good = path.read_bytes(), load_samples(path)
    refused = 0
    tries = campaign("Parquet with one bit flipped: refused, or the same samples", 200, 5_000)
    for bit in random.Random(0).sample(range(8 * len(data)), tries):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert load_samples(path) == good  # a bit that no value hangs on, as of statistics
        except DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "build it again" in str(error)
    assert refused > 0.4 * tries
    # Values are summed up by themselves: Parquet's own sums are of pages, without their headers.
    table = pq.read_table(io.BytesIO(data))
    turned = table.set_column(0, "sample_id", pa.array(table["sample_id"].to_pylist()[::-1]))
    pq.write_table(turned.replace_schema_metadata(), path)
    with pytest.raises(DataError, match="it lacks its checksums; build it again"):
        load_samples(path)
    with pq.ParquetWriter(path, turned.schema.remove_metadata()) as file:
        file.write_table(turned.replace_schema_metadata())
        file.add_key_value_metadata(pq.read_metadata(io.BytesIO(data)).metadata)
    with pytest.raises(DataError, match="it was changed since it was built; build it again"):
        load_samples(path)
