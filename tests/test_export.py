"""Exports give back exactly our samples when they are read by LISA's and FoodLMM's rules.

The rules are those of dvlab-research/LISA (utils/data_processing.py, utils/dataset.py) and
YuehaoYin/FoodLMM (utils/S2_f103_dataset.py), in our own words and without OpenCV.
"""

import json
import re
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from conftest import exif
from official_folder import Folder, messages
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.data.references import encode_mask, mask_to_reference
from foodseg.data.samples import Sample, load_samples, save_samples
from foodseg.data.single import build_single
from foodseg.evaluation.export import foodlmm, lisa, photos
from foodseg.evaluation.export.__main__ import export, main
from foodseg.evaluation.export.polygons import mask_to_polygons, polygons_to_mask
from foodseg.presets import SMOKE

NAMES = [name.lower() for name in CATEGORIES.values()]
SHAPE = (30, 40)  # height, width


def fill(canvas: np.ndarray, points: list, value: int) -> None:
    """cv2.polylines and cv2.fillPoly of whole-pixel points: outline and even-odd inside.

    A row is filled between the edges that go on from it to the next row, in pairs. Only edges along
    rows and columns are drawn here: what a slanted one covers depends on OpenCV's rounding.
    """
    crossings: dict[int, list[int]] = {}
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        assert x0 == x1 or y0 == y1, "a slanted edge"
        canvas[min(y0, y1) : max(y0, y1) + 1, min(x0, x1) : max(x0, x1) + 1] = value
        for y in range(min(y0, y1), max(y0, y1)):
            crossings.setdefault(y, []).append(x0)
    for y, columns in crossings.items():
        columns.sort()
        for left, right in zip(columns[::2], columns[1::2], strict=True):
            canvas[y, left : right + 1] = value


def draw(polygons: list, shape: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    for polygon in polygons:
        fill(canvas, polygon, 1)
    return canvas


def read_by_lisa(path: Path, shape: tuple[int, int]) -> tuple[np.ndarray, list[str], bool]:
    """uint8 (H, W): 1 target, 255 ignore, larger shapes below smaller ones; text; is_sentence."""
    data = json.loads(path.read_text(encoding="ascii"))
    shapes = [one for one in data["shapes"] if one["label"].lower() != "flag"]
    mask = np.zeros(shape, np.uint8)
    for one in sorted(shapes, key=lambda one: draw([one["points"]], shape).sum(), reverse=True):
        fill(mask, one["points"], 255 if "ignore" in one["label"].lower() else 1)
    return mask, data["text"], data["is_sentence"]


def read_by_foodlmm(root: Path, entry: dict) -> tuple[str, str, list[int], list[np.ndarray]]:
    """(question, answer, class ids, masks); AssertionError where it would take the next entry."""
    lines = (root / "category_id.txt").read_text().splitlines()
    classes = [" ".join(line.split("\t")[1:]).strip() for line in lines]
    images = root / "Images"
    assert (images / "img_dir" / "test" / f"{entry['dish_id']}.jpg").exists()
    labels = np.array(Image.open(images / "ann_dir" / "test" / f"{entry['dish_id']}.png"))
    assert set(np.unique(labels)) - {0, 103, 255}
    question, answer = entry["conversations"]
    assert (question["form"], answer["form"]) == ("question", "answer")
    assert question["value"].startswith("<image>")  # without it the model sees no photo
    ids = []
    for name in re.findall(r"\{(.*?)\} \[SEG\d+\]", answer["value"]):
        if name.lower() in classes:
            ids.append(classes.index(name.lower()))
            continue
        for cut in (1, -1, 2, 3, 11, -11, 12, 13):  # 10 more: in lower case; below 0: and a "y"
            word = name[:-3] + "y" if cut < 0 else name[: -(cut % 10)]
            word = word.lower() if abs(cut) > 10 else word
            if word in "duck" or word in "chicken":
                word = "chicken duck"
            if word in classes:
                ids.append(classes.index(word))
                break
    assert len(ids) == len(re.findall(r"\[SEG\d+\]", answer["value"])) > 0
    return question["value"], answer["value"], ids, [labels == number for number in ids]


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = [rng.random((9, 11)) < share for share in np.linspace(0, 1, 25)]
    ring = np.zeros((9, 11), bool)
    ring[1:8, 1:10], ring[3:6, 3:8], ring[4, 5] = True, False, True  # a hole, and a dot in it
    slanted = np.abs(np.subtract.outer(np.arange(9), np.arange(11))) < 2
    dots = np.zeros((9, 11), bool)
    dots[0, 0] = dots[8, 10] = dots[1, 1] = True
    return [*found, ring, slanted, dots, np.ones((1, 1), bool), np.ones((5, 1), bool)]


def test_polygons_draw_exactly_the_mask():
    for mask in masks():
        polygons = mask_to_polygons(mask)
        assert all(len(polygon) >= 3 for polygon in polygons)
        alone = [draw([polygon], mask.shape) for polygon in polygons]
        assert np.array_equal(sum(alone, np.zeros(mask.shape)), mask)  # they share no pixel
        assert np.array_equal(polygons_to_mask(polygons, mask.shape[::-1]), mask)


def test_a_convex_part_is_one_polygon_and_straight_sides_have_no_points():
    y, x = np.mgrid[:20, :20]
    (polygon,) = mask_to_polygons((y >= 3) & (y < 9) & (x >= 4) & (x < 12))
    assert sorted(polygon) == [(4, 3), (4, 8), (11, 3), (11, 8)]
    assert len(mask_to_polygons((x - 9) ** 2 + (y - 9) ** 2 < 50)) == 1


QUESTIONS = {
    "00000001": [
        ("Which food is rich in iron? Please output segmentation mask.", "The {Steak} [SEG1] is."),
        ("Which are fried?", "Not the steak: {French fries} [SEG1], and the {steak} [SEG2]."),
    ],
    "00000002": [
        ("What gives fat?", "Of course the {butter} [SEG1], dear [SEG2]."),  # left out
        ("What gives fat?", "Of course the {butter} [SEG1] does."),
        ("What is green?", "{French beans} [SEG1], and {chickens} [SEG2] are not."),
    ],
}
LABELS = {"00000001": (46, 3), "00000002": (9, 96, 48)}


@pytest.fixture()
def home(empty_home):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    folder = Folder(SMOKE.dataset)
    for dish, labels in LABELS.items():
        mask = np.zeros(SHAPE, np.uint8)
        for number, label in enumerate(labels):
            distance = np.hypot(x - 8 - 11 * number, y - 15)
            mask[(distance < 7) & (distance > 2)] = label  # with a hole
        folder.plate(dish, "test", mask)
        folder.talk(dish, messages(*chain.from_iterable(QUESTIONS[dish])), "test")
    folder.write_entries("test")
    save_samples(build_single(SMOKE.dataset, "test")[0], SMOKE.samples_file("test"))
    return empty_home


@pytest.fixture()
def samples(home) -> list[Sample]:
    built = load_samples(SMOKE.samples_file("test"))
    expected = ["00000001-0", "00000001-1", "00000002-1", "00000002-2"]
    assert [sample.sample_id for sample in built] == [f"test-{name}" for name in expected]
    return built


def test_lisa_reads_our_masks_and_questions(home, samples):
    report = export("lisa", SMOKE, home / "out", ["test"])
    folder = home / "out" / "reason_seg" / "FoodReasonSeg-Single" / "test"
    assert len(list(folder.iterdir())) == 2 * len(samples)
    for sample in samples:
        mask, text, is_sentence = read_by_lisa(folder / f"{sample.sample_id}.json", SHAPE)
        assert np.array_equal(mask, sample.union_mask())
        assert is_sentence and len(text) == 1
        source = SMOKE.dataset / sample.image
        assert (folder / f"{sample.sample_id}.jpg").read_bytes() == source.read_bytes()
    numbers = report["splits"]["test"]
    assert numbers["round_trip"] == {"lowest_iou": 1.0, "mean_iou": 1.0, "not_exact": 0}
    assert numbers["photos"] == {"linked": 4} and numbers["polygons"] > 8
    assert json.loads((home / "out" / "export_report.json").read_text()) == report
    lines = (home / "out" / "chat_prompts_test.txt").read_text().splitlines()
    assert lines[0] == QUESTIONS["00000001"][0][0]  # LISA's own request is not said twice
    assert lines[2] == "Which are fried? Please output segmentation mask."
    assert all((home / "out" / path).is_file() for path in lines[1::2])
    assert len(lines) == 2 * len(samples)
    for question, asked in ((None, "Which food is rich in iron?"), ("a\nb", "a b")):
        sample = replace(samples[0], question=question or samples[0].question)
        assert lisa.instruction(sample) == asked
    assert lisa.instruction(replace(samples[0], question=lisa.REQUEST)) == lisa.REQUEST


def test_a_round_trip_that_loses_pixels_is_reported_and_some_names_refused(
    home, samples, monkeypatch
):
    monkeypatch.setattr(lisa, "mask_to_polygons", lambda mask: mask_to_polygons(mask)[1:])
    trip = export("lisa", SMOKE, home / "out", ["test"])["splits"]["test"]["round_trip"]
    assert trip["not_exact"] == 4 and 0 < trip["lowest_iou"] <= trip["mean_iou"] < 1
    save_samples([replace(samples[0], sample_id="test-a.b-0")], SMOKE.samples_file("test"))
    with pytest.raises(DataError, match="'test-a.b-0' has one; rename the photo"):
        export("lisa", SMOKE, home / "other", ["test"])


def test_foodlmm_reads_our_masks_and_never_skips(home, samples):
    report = export("foodlmm", SMOKE, home / "out", ["test"])
    root = home / "out" / "FoodSeg103"
    entries = json.loads((root / "FoodReasonSeg_test.json").read_text())
    answers = []
    for sample, entry in zip(samples, entries, strict=True):
        question, answer, ids, found = read_by_foodlmm(root, entry)
        answers.append(answer)
        assert question == f"<image>\n{sample.question}" and entry["dish_id"] == sample.sample_id
        assert [CATEGORIES[number] for number in ids] == list(sample.foods)
        assert np.array_equal(np.any(found, axis=0), sample.union_mask())
        assert re.findall(r"\[SEG(\d+)\]", answer) == [str(i + 1) for i in range(len(ids))]
    assert report["splits"]["test"]["reworded"] == ["test-00000002-1"]  # it doesn't know butter
    assert answers[2].endswith("butter does. {cheese butter} [SEG1]")
    assert "{French fries} [SEG1], and the {steak} [SEG2]." in answers[1]
    assert answers[3] == "{French beans} [SEG1], and {chickens} [SEG2] are not."
    again, report = build_single(root, "test")  # our own reader
    assert report.problems == () and report.left_out == {}
    for before, after in zip(samples, again, strict=True):
        name = before.sample_id
        added = " cheese butter" if name == "test-00000002-1" else ""
        assert after == replace(
            before,
            sample_id=f"test-{name}-0",
            dish_id=name,
            image=f"Images/img_dir/test/{name}.jpg",
            answer=before.answer + added,
        )


def test_foods_that_foodseg103_does_not_have_come_after_its_own(home, samples):
    own = replace(
        samples[0], foods=("Halloumi",), reference_foods=("Halloumi",), answer="Halloumi, surely."
    )
    save_samples([own], SMOKE.samples_file("test"))
    export("foodlmm", SMOKE, home / "out", ["test"])
    root = home / "out" / "FoodSeg103"
    (entry,) = json.loads((root / "FoodReasonSeg_test.json").read_text())
    _, answer, ids, (mask,) = read_by_foodlmm(root, entry)
    assert (answer, ids) == ("{Halloumi} [SEG1], surely.", [104])
    assert np.array_equal(mask, own.union_mask())


def test_plain_questions_come_with_their_photos_and_without_answers(home, samples):
    report = export("plain", SMOKE, home / "out", ["test"])
    assert report["splits"]["test"] == {"samples": 4, "photos": {"linked": 4}}
    lines = (home / "out" / "questions_test.jsonl").read_text().splitlines()
    for row, one in zip(map(json.loads, lines), samples, strict=True):
        assert (row.pop("id"), row.pop("question")) == (one.sample_id, one.question)
        photo = home / "out" / row.pop("image")
        assert photo.samefile(SMOKE.dataset / one.image)
        assert row == {"width": one.width, "height": one.height}


def test_overlapping_foods_are_reported(samples):
    mask = np.zeros(SHAPE, bool)
    mask[:4, :4] = True
    masks = (encode_mask(mask), encode_mask(np.roll(mask, 1, axis=1)))
    changes = {"references": (mask_to_reference(mask),) * 2, "masks": masks}
    foods = ("steak", "egg")
    both = replace(samples[0], foods=foods, reference_foods=foods, **changes)
    classes, overlap = foodlmm.class_mask(both, NAMES)
    assert overlap == 12 and (classes == 46).sum() == 4 and (classes == 24).sum() == 16


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("Tomatoes", "tomato"), ("blueberries", "blueberry"), ("hanamaki baozi", "hanamaki baozi"),
        ("Duck", "chicken duck"), ("chicken", "chicken duck"), ("FRENCH BEANS", "french beans"),
        ("butter", None), ("wine glass", None),
    ],
)  # fmt: skip
def test_which_names_foodlmm_knows(word, label):
    assert foodlmm.foodlmm_class(word, NAMES) == (None if label is None else NAMES.index(label))


@pytest.mark.parametrize(
    ("foods", "answer", "marked"),
    [
        (["rice"], "Rice, not licorice rice.", "{Rice} [SEG1], not licorice rice."),
        (["rice", "egg"], "Eggs? No: rice, egg.", "Eggs? No: {rice} [SEG1], {egg} [SEG2]."),
        (["egg tart"], "The egg tarts, or eggs", "The {egg tarts} [SEG1], or eggs"),
        (["egg"], "The egg's yolk.", "The {egg} [SEG1]'s yolk."),
        (["rice", "egg"], "Egg on rice.", "Egg on rice. {rice} [SEG1], {egg} [SEG2]"),
        (["ice cream"], "The ice-cream.", "The ice-cream. {ice cream} [SEG1]"),
    ],
)
def test_foods_are_marked_where_the_answer_says_them(samples, foods, answer, marked):
    asked = replace(samples[0], foods=tuple(foods), answer=answer)
    assert foodlmm.mark_foods(asked, NAMES)[0] == marked


@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (6, (30, 40))])
def test_photos_are_placed_as_they_are_and_must_have_their_samples_size_upright(
    tmp_path, monkeypatch, samples, suffix, orientation, size
):
    source, places = tmp_path / "a.jpg", [tmp_path / name for name in "bc"]
    Image.new("RGB", (40, 30)).save(source, suffix, exif=exif(orientation))
    sample = replace(samples[0], width=size[0], height=size[1], image_sha256=file_sha256(source))
    assert photos.place_photo(source, places[0], sample) == "linked"

    def no_link(*_):
        raise OSError("another disk")

    monkeypatch.setattr(photos.os, "link", no_link)
    assert photos.place_photo(source, places[1], sample) == "copied"
    assert places[0].samefile(source) and not places[1].samefile(source)
    assert {place.read_bytes() for place in places} == {source.read_bytes()}
    told = "{}x{} pixels, its sample {}x{}".format(*size, *size[::-1])
    lain = replace(sample, width=size[1], height=size[0], image_sha256="")
    with pytest.raises(DataError, match=told):
        photos.place_photo(source, tmp_path / "e", lain)
    with pytest.raises(DataError, match="a.jpg"):  # another photo of the same size
        photos.place_photo(source, tmp_path / "e", replace(sample, image_sha256="0" * 64))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("layout", ["lisa", "foodlmm", "plain"])
def test_an_export_is_whole_or_not_there(home, samples, layout, capsys):
    out = home / "out"
    photo = SMOKE.dataset / samples[-1].image
    shutil.move(photo, home / "aside.jpg")
    command = [layout, "--preset", "smoke", "--out", str(out)]
    assert main(command) == 1
    assert "00000002.jpg: there is no such file" in capsys.readouterr().err
    assert not out.exists() and not out.with_name("out.partial").exists()
    shutil.move(home / "aside.jpg", photo)
    assert main(command) == 0
    assert '"samples": 4' in capsys.readouterr().out
    assert main(command) == 1
    assert "it is there already" in capsys.readouterr().err
