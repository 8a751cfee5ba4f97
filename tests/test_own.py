"""Your own folder of images, masks and questions: built as FoodSeg103 is, every fault named."""

import errno
import hashlib
import json
import os
import re
import runpy
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import exif
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, read_lines
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.data.own.__main__ import main
from foodseg.data.own.build import build_own, save_own
from foodseg.data.own.questions import FIELDS
from foodseg.data.photos import read_photo
from foodseg.data.references import decode_mask, mask_to_reference
from foodseg.data.samples import check_no_shared_images, load_samples
from foodseg.evaluation.predictions import load_predictions

HEIGHT, WIDTH = 48, 64
DOCUMENT = Path(__file__).parents[1] / "docs" / "your_own_data.md"
README = Path(__file__).parents[1] / "README.md"
GOOD = {"image": "good.jpg", "question": "Iron?", "things": ["spinach"], "split": "train"}


def disc(left: int = 10) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, left : left + 20] = True
    return mask


class Folder:
    """A folder of one's own, written file by file."""

    def __init__(self, root: Path):
        self.root, self.lines = root, []
        for name in ("images", "masks"):
            (root / name).mkdir()

    def photo(self, name: str = "bad.jpg", colour: int = 90, **options) -> Path:
        path = self.root / "images" / name
        Image.new("RGB", (WIDTH, HEIGHT), (colour, 20, 30)).save(path, **options)
        return path

    def mask(self, name: str = "bad/spinach.png", mask: np.ndarray | None = None) -> Path:
        path = self.root / "masks" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(disc() if mask is None else mask).save(path)
        return path

    def ask(self, line: dict | bytes | None = None, **fields) -> None:
        if not isinstance(line, bytes):
            line = json.dumps(GOOD | {"image": "bad.jpg"} | (line or {}) | fields).encode()
        self.lines.append(line)

    def bad(self, *lines) -> None:
        """A second photo and mask that a test may spoil, and two questions about it."""
        self.photo()
        self.mask()
        for line in lines or ({},):
            self.ask(line)
        self.ask(question="Another?")

    def write(self) -> None:
        (self.root / "questions.jsonl").write_bytes(b"\n".join([*self.lines, b""]))

    def build(self, split: str = "train"):
        self.write()
        samples, report = build_own(self.root, split)
        counts = report.counts
        assert counts["turns"] == counts["entries"] == report.kept + sum(report.left_out.values())
        assert report.kept == len(samples)
        assert counts["references"] == sum(len(sample.references) for sample in samples)
        return samples, report


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own").mkdir()
    own = Folder(tmp_path / "own")
    own.photo("good.jpg", 200)
    own.mask("good/spinach.png")
    own.ask(GOOD)
    return own


def test_a_question_becomes_the_same_sample(folder):
    folder.mask("good/egg yolk.png", disc(25))
    folder.ask(GOOD, things=["spinach", "egg yolk"], answer=" Both. ", id="mine")
    (first, second), report = folder.build()
    photo = folder.root / first.image
    assert report.problems == () and report.left_out == {}
    assert report.counts == {"entries": 2, "dishes": 1, "turns": 2, "references": 3}
    assert (first.sample_id, second.sample_id) == ("train-good-0", "mine")
    assert (first.dish_id, first.split, first.image) == ("good", "train", "images/good.jpg")
    assert first.size == (WIDTH, HEIGHT) == Image.open(photo).size
    assert (first.question, first.answer, second.answer) == ("Iron?", "", "Both.")
    assert first.image_sha256 == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert first.references == (mask_to_reference(disc()),)
    assert (decode_mask(first.masks[0]) == disc()).all()
    assert second.foods == second.reference_foods == ("spinach", "egg yolk")
    assert (second.union_mask() == (disc() | disc(25))).all()  # things may overlap


def test_one_reference_for_a_thing_of_several_pieces(folder):
    folder.mask("good/spinach.png", disc(2) | disc(40))
    (sample,), report = folder.build()
    assert sample.foods == sample.reference_foods == ("spinach",)
    assert (report.per, len(sample.references)) == ("ingredient", 1)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16])
@pytest.mark.parametrize("value", [1, 255])
def test_black_and_white_in_any_depth(folder, kind, value):
    folder.mask("good/spinach.png", (disc() * value).astype(kind))
    (sample,), _ = folder.build()
    assert (sample.union_mask() == disc()).all()


def class_ids(folder, name="bad.png"):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[disc(40)], labels[0, 0] = 84, 255
    return folder.mask(name, labels)


def packed_grey(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of 1, 2 or 4 bits a pixel, which Pillow can read and not write."""
    fields = np.stack([(values >> bit) & 1 for bit in reversed(range(bits))], -1)
    rows = np.packbits(fields.reshape(len(values), -1).astype(bool), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [2, 4])
def test_ids_of_few_bits_are_what_the_file_holds(folder, bits):
    """Pillow spreads them over 0 to 255: an id 3 of 4 bits becomes 51, another food's."""
    (folder.root / "category_id.txt").write_text("0\tbackground\n3\tscrew\n51\tnut\n255\tbolt\n")
    folder.photo()
    packed_grey(folder.root / "masks" / "bad.png", np.where(disc(), 3, 0), bits)
    folder.ask(things=["screw"])
    samples, report = folder.build()
    assert report.problems == () and len(samples) == 2
    assert (decode_mask(samples[1].masks[0]) == disc()).all()


@pytest.mark.parametrize("save", ["L", "1", "P", "packed"])
def test_a_black_and_white_file_is_the_one_thing_that_is_asked_for(folder, save):
    """Whatever the thing is called, as long as no class has the id 255."""
    folder.photo()
    if save == "packed":
        packed_grey(folder.root / "masks" / "bad.png", disc().astype(int), 1)
    else:
        image = Image.fromarray(disc().astype(np.uint8) * 255)
        image.convert(save).save(folder.root / "masks" / "bad.png")
    folder.ask(things=["tomato"])
    folder.ask(things=["tomato"], question="Once more?")
    samples, report = folder.build()
    assert report.problems == () and [s.foods for s in samples[1:]] == [("tomato",)] * 2
    assert all((decode_mask(s.masks[0]) == disc()).all() for s in samples[1:])


def test_a_black_and_white_file_is_not_two_things(folder):
    folder.photo()
    class_ids(folder)
    Image.fromarray(disc()).save(folder.root / "masks" / "bad.png")
    folder.ask(things=["plate"])
    folder.ask(things=["dish"], question="Another?")
    samples, report = folder.build()
    assert [s.foods for s in samples] == [("spinach",), ("plate",)]
    (problem,) = report.problems
    assert problem.reason.endswith("one mask for two things")
    assert "put 'dish' in a file of its own, masks/bad/dish.png" in problem.fix


def test_255_is_a_class_where_it_is_named_and_unnamed_ids_are_said(folder):
    (folder.root / "category_id.txt").write_text("0\tbackground\n100\tcup\n255\tfood\n")
    folder.photo()
    ids = np.where(disc(), 255, 0).astype(np.uint8)
    ids[:5, :30], ids[40:, :30] = 100, 200
    Image.fromarray(ids).save(folder.root / "masks" / "bad.png")
    folder.ask(things=["food"])
    folder.ask(things=["cup"], question="The cup?")
    folder.ask(things=["pot"], question="The pot?")
    samples, report = folder.build()
    masks = [decode_mask(s.masks[0]) for s in samples[1:]]
    assert (masks[0] == (ids == 255)).all() and (masks[1] == (ids == 100)).all()
    (problem,) = report.problems
    assert "(ids 0, 100, 200, 255)" in problem.fix


@pytest.mark.parametrize("white_first", [False, True])
def test_a_palette_is_read_by_its_colours_or_not_at_all(folder, white_first):
    """White on black, as drawing programs save it: white may be index 0, which meant background."""
    folder.photo()
    indices = (disc() ^ white_first).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    colours = [[0, 0, 0], [255, 255, 255]]
    image.putpalette(sum(reversed(colours) if white_first else colours, []))
    assert (np.asarray(image.convert("L")) > 0).sum() == disc().sum()
    (folder.root / "masks" / "bad").mkdir()
    image.save(folder.root / "masks" / "bad" / "spinach.png")
    folder.ask()
    samples, report = folder.build()
    if white_first:
        (problem,) = report.problems
        assert problem.reason.endswith("it can be read in two ways") and len(samples) == 1
    else:
        assert (decode_mask(samples[1].masks[0]) == disc()).all()


@pytest.mark.parametrize("make", ["quantize", "convert"])
def test_a_quantised_mask_is_never_read_inverted(folder, make):
    folder.photo()
    grey = Image.fromarray(disc().astype(np.uint8) * 255).convert("RGB")
    few = grey.quantize(2) if make == "quantize" else grey.convert("P", palette=Image.ADAPTIVE)
    (folder.root / "masks" / "bad").mkdir()
    few.save(folder.root / "masks" / "bad" / "spinach.png")
    folder.ask()
    samples, report = folder.build()
    read = [decode_mask(s.masks[0]) for s in samples[1:]]
    assert len(read) + len(report.problems) == 1
    assert all((mask == disc()).all() for mask in read)


def test_class_ids_by_foodseg103s_names_or_own(folder):
    folder.photo()
    class_ids(folder)
    folder.ask(things=["Carrots", "carrot"])
    (_, sample), report = folder.build()
    assert sample.foods == (CATEGORIES[84],) == ("carrot",) and report.problems == ()
    assert (sample.union_mask() == disc(40)).all()
    (folder.root / "category_id.txt").write_text("0\tbackground\n84\tscrew\n")
    folder.ask(things=["screw"])
    (_, sample), report = folder.build()
    assert sample.foods == ("screw",) and sample.sample_id == "train-bad-1"
    named = [(problem.field, problem.reason) for problem in report.problems]
    assert named == [("line 2, things", "unknown thing")] * 2  # a name each
    folder.mask("bad/screw.png", disc(2))  # a thing's own file counts before class ids
    (_, sample), _ = folder.build()
    assert (sample.union_mask() == disc(2)).all()


def test_names_are_compared_as_they_look(folder):
    folder.photo(unicodedata.normalize("NFD", "Käse.jpg"))
    folder.mask(unicodedata.normalize("NFD", "Käse/Käse.PNG"))
    folder.ask(image="Käse.jpg", things=[unicodedata.normalize("NFC", "Käse")])
    # A byte-order mark, CRLF and blank lines are no faults either.
    folder.lines = [b"\xef\xbb\xbf" + folder.lines[0] + b"\r", b" \r", b"", folder.lines[1]]
    (_, sample), report = folder.build()
    assert sample.foods == ("Käse",) and report.problems == ()


WRONG_TYPES = {
    "image": (5, None),
    "question": (["?"], "  ", "half a pair \ud800"),
    "things": ("spinach", {}, ["spinach", 5]),
    "answer": (5,),
    "id": (7,),
    "split": (["train"],),
}
UNSAFE = {"image": ("../away.jpg", "/etc/passwd", "..\\away.jpg", ".."), "things": (["../a/b"],)}
LINES = [
    (b"{not json", "broken JSON", "line 2"),
    (b'{"question": ' + b"[" * 100_000, "broken JSON", "line 2"),
    ('{"question": "Kä"}'.encode("latin-1"), "not UTF-8", "line 2"),
    (b'["a list"]', "wrong type", "line 2"),
    *(
        ({field: value}, reason, f"line 2, {field}")
        for reason, fields in (("wrong type", WRONG_TYPES), ("unsafe path", UNSAFE))
        for field, values in fields.items()
        for value in values
    ),
    ({"id": "../7"}, "unsafe id", "line 2, id"),
    ({"split": "validation"}, "unknown split", "line 2, split"),
    ({"anwser": "Spinach."}, "unknown field", "line 2, 'anwser'"),
    ({"image": "none.jpg"}, "missing image", "line 2, image"),
    ({"things": ["egg"]}, "missing mask", "line 2, things"),
    ({"id": "train-good-0"}, "duplicate id", "line 2, id"),
]


@pytest.mark.parametrize(("line", "reason", "field"), LINES)
def test_a_faulty_line_is_named_and_left_out(folder, line, reason, field):
    folder.bad(line)
    samples, report = folder.build()
    assert [sample.dish_id for sample in samples] == ["good", "bad"]
    assert report.left_out == {reason: 1}
    (problem,) = report.problems
    assert (problem.file, problem.field, problem.reason) == ("questions.jsonl", field, reason)


def test_every_missing_field_and_every_fault_of_a_line_is_named(folder):
    for name in GOOD:
        folder.ask(json.dumps({k: v for k, v in GOOD.items() if k != name}).encode())
    folder.ask(GOOD, things=["egg"], question=5, id="a/b")
    _, report = folder.build()
    assert {p.field for p in report.problems if p.reason == "missing field"} == {
        f"line {number}, {name}" for number, name in enumerate(GOOD, start=2)
    }
    last = {p.reason for p in report.problems if p.field.startswith("line 6")}
    assert last == {"missing mask", "wrong type", "unsafe id"}
    assert sum(report.left_out.values()) == 5


def test_duplicate_questions_and_ids_of_both_splits(folder):
    folder.photo()
    folder.mask()
    folder.ask(GOOD)
    folder.ask(GOOD, question="Another?")
    folder.ask(id="train-good-0", split="test")
    samples, report = folder.build()
    assert [sample.sample_id for sample in samples] == ["train-good-0", "train-good-2"]
    assert report.left_out == {"duplicate question": 1}
    assert "line 1 asks the same" in report.problems[0].fix
    samples, report = folder.build("test")
    assert samples == [] and report.left_out == {"duplicate id": 1}


def spoil_photo(folder):
    path = folder.root / "images/bad.jpg"
    path.write_bytes(path.read_bytes()[:300])


def replace_photo(folder, image):
    (folder.root / "images/bad.jpg").unlink()
    image.save(folder.root / "images/bad.png")
    folder.lines = [line.replace(b"bad.jpg", b"bad.png") for line in folder.lines]


def link_photo(folder):
    path = folder.root / "images/bad.jpg"
    path.symlink_to(path.rename(folder.root.parent / "away.jpg"))


def grey_mask(folder):
    mask = disc() * np.uint8(255)
    mask[9, 10:30] = 100  # a soft edge
    folder.mask(mask=mask)


def class_ids_of_16_bits(folder):
    (folder.root / "masks/bad/spinach.png").unlink()
    folder.mask("bad.png", disc() * np.uint16(300))
    folder.lines = [line.replace(b"spinach", b"carrot") for line in folder.lines]
    folder.mask("good/carrot.png")


PHOTO, PNG, MASK = "images/bad.jpg", "images/bad.png", "masks/bad/spinach.png"
DEEP = Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16))
CLEAR = Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 100))
COLOURS = np.stack([disc() * np.uint8(level) for level in (255, 255, 9)], axis=-1)
SMALL = np.pad(disc()[9:16, 9:16], ((0, 41), (0, 57)))


@pytest.mark.parametrize(
    ("spoil", "reason", "file", "field"),
    [
        (spoil_photo, "unreadable image", PHOTO, "pixels"),
        (lambda f: f.photo(exif=exif(6)), "turned photo", PHOTO, "EXIF orientation"),
        (lambda f: replace_photo(f, DEEP), "photo of more than 8 bits", PNG, "channels"),
        (lambda f: replace_photo(f, CLEAR), "transparent photo", PNG, "channels"),
        (link_photo, "unsafe path", PHOTO, "link"),
        (lambda f: f.photo("bad.png"), "two images of one name", PHOTO, "file"),
        (lambda f: f.mask().write_bytes(b"no picture"), "unreadable mask", MASK, "pixels"),
        (lambda f: f.mask(mask=disc()[:, 1:]), "image and mask sizes differ", MASK, "size"),
        (lambda f: f.mask(mask=disc().T), "image and mask sizes differ", MASK, "size"),
        (lambda f: f.mask(mask=disc() & False), "empty mask", MASK, "pixels"),
        (lambda f: f.mask(mask=SMALL), "mask too small", MASK, "pixels"),
        (lambda f: f.mask(mask=COLOURS), "coloured pixels", MASK, "channels"),
        (grey_mask, "mask not black and white", MASK, "pixels"),
        (class_ids_of_16_bits, "no class ids", "masks/bad.png", "pixels"),
    ],
)
def test_a_bad_file_is_named_once_and_the_rest_built(folder, spoil, reason, file, field):
    folder.bad()
    spoil(folder)
    samples, report = folder.build()
    assert [sample.dish_id for sample in samples] == ["good"]
    assert report.left_out == {reason: 2}
    (problem,) = report.problems
    assert (problem.file, problem.field, problem.reason) == (file, field, reason)


def test_an_opaque_alpha_channel_and_an_unused_photo_are_no_faults(folder):
    folder.photo("unused.jpg")
    folder.bad()
    replace_photo(folder, Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 255)))
    samples, report = folder.build()
    assert len(samples) == 3 and report.problems == ()
    folder.photo("bad.webp")  # another kind of image is named
    folder.ask(image="bad.webp")
    assert folder.build()[1].left_out == {"unknown image type": 1}


def test_a_slip_gets_a_hint(folder):
    folder.mask("good/egg.png")
    folder.ask(image="god.jpg")
    folder.ask(GOOD, things=["eggs"])
    fixes = "".join(problem.fix for problem in folder.build()[1].problems)
    assert "perhaps 'good.jpg' is meant" in fixes and "holds egg, spinach" in fixes


@pytest.mark.parametrize("name", ["good.jpg", "other.jpg"])
def test_a_test_photo_is_taken_out_of_train(folder, name):
    (folder.root / "images" / name).write_bytes((folder.root / "images/good.jpg").read_bytes())
    folder.mask(f"{Path(name).stem}/spinach.png")
    folder.bad({"image": name, "split": "test"})
    train, report = folder.build()
    test, _ = folder.build("test")
    assert [sample.dish_id for sample in train] == ["bad"] and len(test) == 1
    assert report.left_out == {"photo in train and test": 1}
    (problem,) = report.problems
    assert problem.field == "line 1, image" and f"images/{name}" in problem.fix
    check_no_shared_images(train, test)


def test_folders_that_cannot_be_built_raise(folder, tmp_path):
    def refused(words, root=folder.root, split="train"):
        with pytest.raises(DataError, match=words):
            build_own(root, split)

    refused("choose from", split="val")
    for data, text in ((b"\n \n", "there are no questions"), (b"\xff\xfe{\0", "UTF-16")):
        (folder.root / "questions.jsonl").write_bytes(data)
        refused(rf"questions.jsonl: .*{text}")
    (folder.root / "questions.jsonl").unlink()
    refused(r"questions.jsonl: the file can't be read")
    (folder.root / "masks").rename(folder.root / "labels")
    refused("the folder masks is missing")
    refused("the folder images is missing", root=tmp_path / "nowhere")


def test_the_validator_names_faults_and_builds_the_rest(folder, tmp_path, capsys):
    folder.write()
    assert main([str(folder.root)]) == 0
    assert "train: 1 of 1 questions are good" in capsys.readouterr().out
    folder.ask(b"{")
    folder.ask(image="none.jpg", split="test")
    folder.write()
    out = tmp_path / "datasets" / "mine"
    assert main([str(folder.root), "--build", str(out)]) == 1
    first, second, third, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("questions.jsonl, line 2: broken JSON; ")
    assert second.startswith("questions.jsonl, line 3, image: missing image; images/none.jpg: ")
    assert third.endswith("1 photos; left out: 1 broken JSON")
    assert load_samples(out / "foodreasonseg_single_train.parquet") == folder.build()[0]
    assert load_samples(out / "foodreasonseg_single_test.parquet") == []
    report = json.loads((out / "foodreasonseg_single_test.report.json").read_text())
    assert report["left_out"] == {"missing image": 1} and report["kept"] == 0
    assert main([str(tmp_path)]) == 1
    assert "the folder images is missing" in capsys.readouterr().err
    save_own(folder.root, out)  # the photos are linked, again too, and never other ones
    assert (out / "FoodSeg103" / "images/good.jpg").is_file()
    folder.root.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="FoodSeg103: other photos are there"):
        save_own(tmp_path / "moved", out)


def test_what_cannot_be_built_there_is_one_sentence(folder, tmp_path, monkeypatch, capsys):
    folder.write()
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        assert main([str(folder.root), "--build", str(out)]) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"{out}: it can't be written (")
    assert file.read_text() == "mine"

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(folder.root), "--build", str(tmp_path / "out")]) == 1
    assert "report.json: it can't be written (No space left" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.partial"))


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_run_as_printed(empty_home, monkeypatch, capsys):
    """Those of the document, and the README's own reward on the same data."""
    writing, training, evaluating = python_blocks()
    for block, most in ((writing, 14), (training, 10), (evaluating, 8)):
        assert len([line for line in block.splitlines() if line.strip()]) <= most
    monkeypatch.chdir(empty_home)
    exec(writing, {})
    assert main(["my_photos", "--build", "datasets/mine"]) == 0
    names = {}
    exec(training, names)
    preset = names["preset"]
    [sample] = load_samples(preset.samples_file("train"))
    assert sample.foods == ("spinach",)
    assert read_photo(preset.dataset / sample.image).image.size == sample.size
    exec(evaluating, names)
    assert "dapo-seed0" in capsys.readouterr().out
    assert len(load_predictions(preset.predictions_folder("dapo-seed0"))) == 1

    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    [own_reward] = [block for block in blocks if "brief" in block]
    (empty_home / "own_reward.py").write_text(own_reward)
    runpy.run_path(str(empty_home / "own_reward.py"))
    adapter = file_hash(empty_home / "runs/mine/brief-seed0/adapter/adapter_model.safetensors")
    assert capsys.readouterr().out.split()[-1] == adapter
    rows = read_lines(empty_home / "runs/mine/brief-seed0/log.jsonl")
    assert rows and all(0 <= row["points_brief"] <= 1 for row in rows)


def test_the_document_lists_the_very_fields():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == FIELDS
    (line,) = re.findall(r"```json\n(.*?)\n```", text)
    assert set(json.loads(line)) <= set(FIELDS)
