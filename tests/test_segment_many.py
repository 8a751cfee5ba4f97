"""A folder of photos: every question is answered once, also after a stop, or its fault is said."""

import json

import numpy as np
import pytest
from conftest import watch
from PIL import Image
from pycocotools.coco import COCO
from test_segment import system  # noqa: F401

from foodseg.common.errors import DataError
from foodseg.segment import __main__ as command
from foodseg.segment import many
from foodseg.segment.many import read_asked, segment_many

ITEM = '{"bbox_2d": [20, 20, 90, 90], "point_2d": [50, 50]}'
ANSWER = f"<think>The fig.</think>\n<answer>[{ITEM}]</answer>"


@pytest.fixture()
def photos(tmp_path, says):
    says(ANSWER)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.jpg")):
        Image.new("RGB", (64 + number, 48), (90, 20, 30)).save(folder / name)
    (folder / "c.jpg").write_bytes(b"no photo")
    return folder


def ask(folder, *lines) -> "Path":  # noqa: F821
    file = folder.parent / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


GOOD = [
    {"image": "a.png", "question": "Which is sweet?", "id": "first"},
    {"image": "a.png", "question": "Which is sour?"},
    {"image": "b.jpg", "question": "Which is sweet?"},
]


def test_answers_masks_and_cocos_annotations_agree(photos, system, tmp_path):  # noqa: F811
    asked = read_asked(ask(photos, *GOOD), photos)
    returned = segment_many(system, photos, asked, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").open()]
    assert rows == returned and [row["id"] for row in rows] == ["first", "2", "3"]
    assert [row["image"] for row in rows] == [line["image"] for line in GOOD]
    coco = COCO(tmp_path / "out/coco.json")
    assert len(coco.imgs) == 2 and len(coco.anns) == 3
    for annotation, row in zip(coco.anns.values(), rows, strict=True):
        mask = np.asarray(Image.open(tmp_path / "out/masks" / f"{row['id']}.png"))
        assert (coco.annToMask(annotation) * 255 == mask).all() and mask.any()
        down, across = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = [across[0], down[0], np.ptp(across) + 1, np.ptp(down) + 1]
        assert annotation["bbox"] == box
        assert annotation["area"] == row["area"] and annotation["question_id"] == row["id"]
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["answers.jsonl", "coco.json", "masks"]


def test_a_stopped_run_goes_on_where_it_was(photos, system, tmp_path, monkeypatch):  # noqa: F811
    asked, out = read_asked(ask(photos, *GOOD), photos), tmp_path / "out"
    with monkeypatch.context() as patched:
        watch(patched, many, "segment", 3)
        with pytest.raises(KeyboardInterrupt):
            segment_many(system, photos, asked, out)
    again = watch(monkeypatch, many, "segment")
    segment_many(system, photos, asked, out)
    assert len(again) == 1
    assert len((out / "answers.jsonl").read_text().splitlines()) == 3


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_answered(
    home,
    photos,
    system,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.setattr(command, "load_system", lambda preset, adapter: system)
    file = ask(photos, {"image": "c.jpg", "question": "Which is sweet?"}, *GOOD)
    out = tmp_path / "out"
    arguments = [str(photos), "--questions", str(file), "--out", str(out)]
    assert command.main(arguments) == 1
    said = capsys.readouterr()
    assert "4 questions; of 0 the answer could not be parsed; 1 photos could not be" in said.out
    assert "the base model, without an adapter" in said.err
    assert "No training question has" in said.err and "“sour”" in said.err
    rows = [json.loads(line) for line in (out / "answers.jsonl").open()]
    assert "c.jpg" in rows[0]["error"] and all(row["parsed"] for row in rows[1:])


@pytest.mark.parametrize(
    "line, words",
    [
        ({"image": "a.png"}, "line 1: its fields must be image, question"),
        ({"image": "a.png", "question": 3}, "line 1: a field is no text"),
        ({"image": "d.png", "question": "Sweet?"}, "image 'd.png' is not in"),
        ({"image": "../a.png", "question": "Sweet?"}, "no plain name"),
        ({"image": "a.png", "question": " "}, "line 1: question: it is empty"),
        ({"image": "a.png", "question": "<|image_pad|>?"}, "line 1: question: <|image_pad|>"),
        ({"image": "a.png", "question": "Sweet?", "id": "a/b"}, "no plain name"),
        ([1], "its fields must be"),
        ({"image": "a.png", "question": "Sweet?", "mask": "x"}, "field 'mask' is unknown"),
    ],
)
def test_a_line_that_cannot_be_asked_is_named_before_a_model_is_loaded(photos, line, words):
    with pytest.raises(DataError) as error:
        read_asked(ask(photos, line), photos)
    assert words in str(error.value)


def test_ids_are_named_once_and_an_empty_file_is_refused(photos):
    with pytest.raises(DataError, match="'2' stands there 2 times"):
        read_asked(ask(photos, GOOD[0] | {"id": "2"}, GOOD[1]), photos)
    with pytest.raises(DataError, match="there are no questions"):
        read_asked(ask(photos), photos)
    with pytest.raises(DataError, match=r"it can't be read \(No such file or directory\); name a"):
        read_asked(photos / "nowhere.jsonl", photos)


def test_questions_of_ones_own_data_are_asked_as_they_are(photos):
    own = {"things": ["fig"], "answer": "The fig.", "split": "train"}
    assert read_asked(ask(photos, *(line | own for line in GOOD)), photos) == read_asked(
        ask(photos, *GOOD), photos
    )


@pytest.mark.parametrize(
    "options", [[], ["Sweet?"], ["--out", "o"], ["--questions", "q", "-o", "x"]]
)
def test_options_of_one_photo_do_not_go_with_a_folder(photos, options, capsys):
    assert command.main([str(photos), *options]) == 1
    assert "for a folder of photos leave" in capsys.readouterr().err


def no_models(*_):
    raise AssertionError("the models are loaded")


@pytest.mark.parametrize("out", ["questions.jsonl", "questions.jsonl/out", ".", "..", "/"])
def test_where_nothing_can_be_written_is_said_before_a_model_is_loaded(
    photos, monkeypatch, capsys, out
):
    monkeypatch.setattr(command, "load_system", no_models)
    monkeypatch.chdir(photos.parent)
    file = str(ask(photos, *GOOD))
    assert command.main([str(photos), "--questions", file, "--out", out]) == 1
    said = capsys.readouterr().err
    assert said == f"segment: --out {out}: it can't be written there; name a new folder.\n"


@pytest.mark.parametrize("name", ["a.png", "nowhere"])
def test_many_questions_are_asked_of_a_folder(photos, monkeypatch, capsys, name):
    monkeypatch.setattr(command, "load_system", no_models)
    for options in (["--out", "o"], ["--questions", str(ask(photos, *GOOD)), "--out", "o"]):
        assert command.main([str(photos / name), *options]) == 1
        said = capsys.readouterr().err
        assert f"{name}: there is no such folder; name a folder of photos, or leave --q" in said
