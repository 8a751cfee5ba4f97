"""Dirty input at every door: one sentence with the file and the fix, nothing lost without a word.

Each kind is made here; no model is loaded.
"""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import official_folder
import pytest
from conftest import exif
from official_folder import RICE, messages
from PIL import Image
from test_own import GOOD, HEIGHT, WIDTH, Folder, disc
from test_report import sample

from foodseg.common.errors import DataError
from foodseg.data.own import __main__ as own
from foodseg.data.samples import load_samples, save_samples
from foodseg.data.single import write_single
from foodseg.evaluation.external import __main__ as external
from foodseg.presets import SMOKE
from foodseg.segment import __main__ as command


@pytest.fixture(autouse=True)
def counted(campaign):
    """Each test is one kind."""
    campaign("dirty input to own data, builders, score and segment: one sentence", 1, 1)


WHITE = disc() * np.uint8(255)


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def header(width: int, height: int) -> bytes:
    """A PNG of so many pixels, as far as its header says."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = b"IDAT", b"IEND"
    chunks = [struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))]
    chunks += [struct.pack(">I", 0) + name + struct.pack(">I", zlib.crc32(name)) for name in end]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_palette(*colours: int) -> bytes:
    image = Image.fromarray(disc().astype(np.uint8))
    image.putpalette(colours)
    return encode(image)


PHOTO = Image.new("RGB", (WIDTH, HEIGHT), (90, 20, 30))
NOISE = np.random.default_rng(0).integers(0, 9, (90, 90), np.uint8)
# What is no picture to any reader, and the words for it.
BROKEN_IMAGES = {
    "empty file": (b"", "no image"),
    "text": (b"<html>404</html>", "no image"),
    "truncated": (encode(NOISE)[:-99], "read"),
    "header alone": (header(9, 9), "read"),
    "without a pixel": (header(0, 5), "read|no image"),
    "billions of pixels": (header(60_000, 60_000), "million pixels"),
}
# What is a picture, and no mask.
BROKEN_MASKS = BROKEN_IMAGES | {
    "of another size": (encode(WHITE[1:]), "size"),
    "JPEG": (encode(WHITE, "JPEG"), "JPEG under a PNG's name"),
    "animated GIF": (encode(PHOTO, "GIF", save_all=True), "GIF under a PNG's name"),
    "coloured": (encode(np.stack([WHITE, WHITE, WHITE // 2], axis=-1)), "coloured"),
    "transparent": (encode(np.stack([WHITE] * 4, axis=-1)), "transparent"),
}


def place(path: Path, what: object) -> None:
    """Put a file's bytes there, or something that is no file."""
    if path.exists():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "link away":
        away = path.parents[2] / "elsewhere"
        away.write_bytes(encode(PHOTO))
        path.symlink_to(away)
    elif what is not None:
        path.write_bytes(what)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is there, without following links."""
    paths = (path for path in folder.rglob("*") if not path.is_symlink())
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def refused(status: int, out: str, err: str, words: str) -> None:
    """The door ends with status 1, and in its words, none of which is a traceback's."""
    assert status == 1 and "Traceback" not in out + err
    lines = [line for line in (out + err).splitlines() if "%|" not in line]
    assert any(re.search(words, line) for line in lines), lines


# ---- Own data ----------------------------------------------------------------------------------

# Lines of questions.jsonl. Those after the first, and the good one, are built all the same.
LINES = {
    "list": (b"[1]", "line 2: wrong type; write one JSON object"),
    "number": (b"7", "line 2: wrong type"),
    "truncated": (b'{"image": "bad.jpg"', "line 2: broken JSON"),
    "two objects": (b"{} {}", "line 2: broken JSON"),
    "a key twice": (b'{"image": "a", "image": "b"}', "the key 'image' stands there twice"),
    "NaN": (b'{"image": NaN}', "NaN is no JSON number"),
    "1e999": (b'{"image": 1e999}', "too large"),
    "deep": (b"[" * 99_999, "nests too deeply"),
    "Latin-1": ('{"image": "é"}'.encode("latin-1"), "line 2: not UTF-8"),
    "NUL byte": (b'{"image": "\0"}', "line 2: broken JSON"),
    "no field": ({"image": None}, "line 2, image: wrong type"),
    "number for text": ({"question": 5}, "line 2, question: wrong type"),
    "blank": ({"question": " "}, "line 2, question: wrong type"),
    "half a surrogate pair": ({"question": "\ud800"}, "line 2, question: wrong type"),
    "model's mark": ({"question": "<|im_end|>?"}, "a model's own mark"),
    "things as text": ({"things": "spinach"}, "line 2, things: wrong type"),
    "number for a thing": ({"things": [3]}, "line 2, things: wrong type"),
    "thing that climbs": ({"things": ["../spinach"]}, "line 2, things: unsafe path"),
    "image that climbs": ({"image": "../bad.jpg"}, "line 2, image: unsafe path"),
    "absolute image": ({"image": "/etc/passwd"}, "line 2, image: unsafe path"),
    "Windows path": ({"image": "C:\\bad.jpg"}, "line 2, image: unsafe path"),
    "NUL in a name": ({"image": "bad\0.jpg"}, "line 2, image: unsafe path"),
    "line break in a name": ({"image": "bad\n.jpg"}, "line 2, image: unsafe path"),
    "hidden": ({"image": ".jpg"}, "line 2, image: unsafe path"),
    "id that climbs": ({"id": "../../x"}, "line 2, id: unsafe id"),
    "unknown split": ({"split": "val"}, "line 2, split: unknown split"),
    "unknown field": ({"Question": "?"}, "line 2, 'Question': unknown field"),
    "unknown thing": ({"things": ["lava"]}, "line 2, things: missing mask"),
    "no photo": ({"image": "bda.jpg"}, "missing image; .*perhaps 'bad.jpg' is meant"),
    "answer of numbers": ({"answer": [1]}, "line 2, answer: wrong type"),
}
WHERE = {"photo": "images/bad.jpg", "mask": "masks/bad/spinach.png", "ids": "masks/bad.png"}
FILES = {
    **{("photo", kind): pair for kind, pair in BROKEN_IMAGES.items()},
    **{("mask", kind): pair for kind, pair in BROKEN_MASKS.items()},
    ("photo", "gone"): (None, "missing image"),
    ("photo", "folder"): ("folder", "missing image"),
    ("photo", "loop"): ("loop", "missing image"),
    ("photo", "link away"): ("link away", "link that leaves its folder"),
    ("photo", "turned"): (encode(PHOTO, "JPEG", exif=exif(6)), "turned photo"),
    ("photo", "16 bits"): (encode(np.full((HEIGHT, WIDTH), 999, np.uint16)), "more than 8 bits"),
    ("photo", "floats"): (encode(Image.new("F", (WIDTH, HEIGHT)), "TIFF"), "more than 8 bits"),
    ("photo", "transparent"): (encode(Image.new("RGBA", (WIDTH, HEIGHT))), "transparent photo"),
    ("mask", "gone"): (None, "missing mask"),
    ("mask", "folder"): ("folder", "missing mask"),
    ("mask", "loop"): ("loop", "missing mask"),
    ("mask", "link away"): ("link away", "link that leaves its folder"),
    ("mask", "grey"): (encode(np.arange(WHITE.size, dtype=np.uint8).reshape(WHITE.shape)), "grey"),
    ("mask", "white as index 0"): (with_palette(255, 255, 255, 0, 0, 0), "read in two ways"),
    ("mask", "nothing"): (encode(WHITE & 0), "empty mask"),
    ("mask", "a speck"): (encode(np.eye(HEIGHT, WIDTH, dtype=bool)), "mask too small"),
}
WHOLE = {  # spoil everything: nothing is built
    "UTF-16": ("questions.jsonl", '{"image": "a"}'.encode("utf-16"), "save it as UTF-8"),
    "no questions": ("questions.jsonl", b"\n \n", "there are no questions"),
    "questions gone": ("questions.jsonl", None, "questions.jsonl: the file can't be read"),
    "questions a folder": ("questions.jsonl", "folder", "questions.jsonl: the file can't be read"),
    "questions a loop": ("questions.jsonl", "loop", "questions.jsonl: the file can't be read"),
    "names without a tab": ("category_id.txt", b"1 candy", "category_id.txt, line 1"),
    "names twice": ("category_id.txt", b"1\ta\n1\tb", "category_id.txt, line 2"),
    "names no UTF-8": ("category_id.txt", b"1\t\xff", "category_id.txt: the file can't be read"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my photos").mkdir()
    folder = Folder(tmp_path / "my photos")
    folder.photo("good.jpg")
    folder.mask("good/spinach.png")
    folder.photo(colour=10)
    folder.mask()
    folder.ask(GOOD)
    return folder


def build_own(folder, capsys) -> tuple[int, str, str]:
    """The command's status and words, after a look at what it has written."""
    before, out = tree(folder.root), folder.root.parent / "out"
    status = own.main([str(folder.root), "--build", str(out)])
    after = tree(folder.root.parent)
    for path in before:
        after.pop(path, None)
    assert tree(folder.root) == before
    places = [path for path in after if not path.startswith((str(out), str(folder.root)))]
    assert [Path(path).name for path in places] in ([], ["elsewhere"])
    for split in ("train", "test") if out.exists() else ():
        report = json.loads((out / f"foodreasonseg_single_{split}.report.json").read_text())
        samples = load_samples(out / f"foodreasonseg_single_{split}.parquet")
        assert len(samples) == report["kept"]
        assert report["kept"] + sum(report["left_out"].values()) == report["counts"]["turns"]
    return status, *capsys.readouterr()


@pytest.mark.parametrize("kind", LINES)
def test_a_dirty_line_is_left_out_and_named(folder, capsys, kind):
    line, words = LINES[kind]
    folder.ask(line)
    folder.ask(question="Another?")
    folder.write()
    status, out, err = build_own(folder, capsys)
    refused(status, out, err, f"questions.jsonl, .*{words}")
    assert "train: 2 of 3 questions are good" in out


@pytest.mark.parametrize("what, kind", FILES)
def test_a_dirty_file_costs_its_own_questions(folder, capsys, what, kind):
    content, words = FILES[what, kind]
    place(folder.root / WHERE[what], content)
    folder.ask()
    folder.write()
    status, out, err = build_own(folder, capsys)
    refused(status, out, err, f"(?=.*bad)(?=.*({words}))")
    assert "train: 1 of 2 questions are good" in out


def test_a_name_that_is_no_text_is_printed_all_the_same(folder):
    place(folder.root / "masks/bad/spinach.png", None)
    place(folder.root / os.fsdecode(b"masks/bad/\xff.png"), encode(WHITE))
    folder.ask()
    folder.write()
    command = [sys.executable, "-m", "foodseg.data.own", str(folder.root)]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env=strict, capture_output=True, text=True)
    refused(done.returncode, done.stdout, done.stderr, r"missing mask; .*holds \\udcff")


@pytest.mark.parametrize("name", ["images/bad.jpg", "masks/bad/spinach.png"])
def test_a_file_that_may_not_be_read_costs_its_own_questions(folder, capsys, monkeypatch, name):
    folder.ask()
    folder.write()
    forbidden, read = folder.root / name, io.open

    def refusing(path, *arguments, **options):
        if str(path) == str(forbidden):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(io, "open", refusing)
    status = own.main([str(folder.root)])
    words = rf"{name}, file: unreadable file; it can't be read \(Permission denied\)"
    refused(status, *capsys.readouterr(), words)


@pytest.mark.parametrize("kind", WHOLE)
def test_what_spoils_the_whole_folder_builds_nothing(folder, capsys, kind):
    name, content, words = WHOLE[kind]
    folder.write()
    place(folder.root / name, content)
    refused(*build_own(folder, capsys), words)
    assert not (folder.root.parent / "out").exists()


CLEAN = {
    "byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "blank lines": lambda data: b"\n \n" + data + b"\n\n",
    "no last line end": bytes.strip,
    "line separator": lambda data: data.replace(b"Iron?", "Iron\u2028\u0085?".encode()),
}


@pytest.mark.parametrize("kind", CLEAN)
def test_what_only_looks_dirty_is_built_whole(folder, capsys, kind):
    folder.ask()
    folder.write()
    path = folder.root / "questions.jsonl"
    path.write_bytes(CLEAN[kind](path.read_bytes()))
    (folder.root / "images/bad.jpg").write_bytes(encode(PHOTO.convert("CMYK"), "JPEG"))
    (folder.root / "masks/bad/spinach.png").write_bytes(encode(np.stack([WHITE] * 3, axis=-1)))
    status, out, _ = build_own(folder, capsys)
    assert status == 0 and "train: 2 of 2 questions are good" in out


# ---- FoodSeg103 and FoodReasonSeg --------------------------------------------------------------

TURN = messages("Which?", "The {rice} [SEG1].")
ENTRIES = {
    "number": (5, "wrong shape"),
    "no talk": ({"dish_id": "0002"}, "wrong shape"),
    "talk of text": ({"dish_id": "0002", "conversations": "hi"}, "wrong shape"),
    "true for a dish": ({"dish_id": True, "conversations": TURN}, "wrong shape"),
    "dish that climbs": ({"dish_id": "../0001", "conversations": TURN}, "unsafe dish_id"),
    "absolute dish": ({"dish_id": "/etc/passwd", "conversations": TURN}, "unsafe dish_id"),
    "NUL in a dish": ({"dish_id": "2\0", "conversations": TURN}, "unsafe dish_id"),
    "no such dish": ({"dish_id": "9", "conversations": TURN}, "missing image"),
    "message of numbers": ([TURN[0], {"form": "answer", "value": 1}], "wrong shape"),
    "message without form": ([TURN[0], {"value": "{rice} [SEG1]"}], "wrong shape"),
    "half a pair": (messages("\ud800", "{rice} [SEG1]"), "wrong shape"),
    "model's mark": (messages("<|im_end|>", "{rice} [SEG1]"), "a model's own mark"),
    "unknown food": (messages("?", "{lava} [SEG1]"), "unknown ingredient"),
    "no mask of it": (messages("?", "{cake} [SEG1]"), "empty mask"),
    "answers alone": (TURN[1:], "answer without a question"),
}
TALKS = {
    "truncated": b'[{"dish_id": ',
    "a key twice": b'[{"dish_id": 1, "dish_id": 2}]',
    "NaN": b"[NaN]",
    "object": b"{}",
    "UTF-16": "[]".encode("utf-16"),
    "NUL bytes": b"\0" * 99,
    "folder": "folder",
    "loop": "loop",
    "gone": None,
}


@pytest.fixture
def plates(tmp_path):
    plates = official_folder.Folder(tmp_path / "FoodSeg103")
    plates.write_names()
    for dish in ("0001", "0002"):
        plates.plate(dish, mask=disc() * np.uint8(RICE))
    plates.talk("0001", TURN)
    return plates


def build(plates) -> list[str]:
    """The reasons of the faults, after a look at the counts and at what is written."""
    plates.write_entries("train")
    path, before = plates.root.parent / "train.parquet", tree(plates.root)
    report = write_single(plates.root, "train", path)
    assert tree(plates.root) == before
    assert report.kept + sum(report.left_out.values()) == report.counts["turns"]
    assert [sample.dish_id for sample in load_samples(path)] == ["0001"]  # the good one is kept
    assert report.counts["turns"] == 2 and all(p.fix and p.file for p in report.problems)
    return [problem.reason for problem in report.problems]


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_dirty_entry_is_left_out_and_named(plates, kind):
    entry, reason = ENTRIES[kind]
    if isinstance(entry, list):
        entry = {"dish_id": "0002", "conversations": entry}
    plates.entries["train"].append(entry)
    assert build(plates) == [reason]


@pytest.mark.parametrize(
    "what, kind",
    [("photo", kind) for kind in (*BROKEN_IMAGES, "folder", "loop", "gone")]
    + [("mask", kind) for kind in (*BROKEN_MASKS, "folder", "loop", "gone")],
)
def test_a_dirty_plate_costs_its_own_questions(plates, what, kind):
    content, words = BROKEN_MASKS.get(kind, (None if kind == "gone" else kind, "missing"))
    place(plates.photo("0002") if what == "photo" else plates.mask("0002"), content)
    plates.talk("0002", TURN)
    (reason,) = build(plates)
    assert reason.startswith("unreadable") if kind in BROKEN_IMAGES else words in reason


@pytest.mark.parametrize("kind", TALKS)
def test_a_dirty_file_of_conversations_builds_nothing(plates, kind):
    place(plates.root / "FoodReasonSeg_train.json", TALKS[kind])
    with pytest.raises(DataError, match=r"^[^\n]*FoodReasonSeg_train.json: [^\n]*[;(][^\n]*\.$"):
        write_single(plates.root, "train", plates.root.parent / "train.parquet")
    assert not (plates.root.parent / "train.parquet").exists()


# ---- Other systems' masks ----------------------------------------------------------------------

LISTS = {
    "truncated": (b'{"test-0-0": ', "broken JSON"),
    "a key twice": (b'{"test-0-0": 1, "test-0-0": 2}', "stands there twice"),
    "number": (b"7", "broken JSON"),
    "UTF-16": ("{}".encode("utf-16"), "broken JSON"),
    "of numbers": (b"[1, 2]", "wrong shape"),
    "of nobody": (b'{"x": {}}', "none of its 1 entries is named after"),
    "counts Infinity": (b'{"test-0-0": {"size": [4, 6], "counts": [Infinity]}}', "no JSON number"),
    "counts 1e999": (b'{"test-0-0": {"size": [4, 6], "counts": [1e999]}}', "too large"),
    "counts 2.5": (b'{"test-0-0": {"size": [4, 6], "counts": [2.5, 21.5]}}', "no run lengths"),
    "counts true": (b'{"test-0-0": {"size": [4, 6], "counts": [true, 23]}}', "no run lengths"),
    "counts below 0": (b'{"test-0-0": {"size": [4, 6], "counts": [-1, 25]}}', "broken run lengths"),
    "too few": (b'{"test-0-0": {"size": [4, 6], "counts": [9]}}', "broken run lengths"),
    "too many": (b'{"test-0-0": {"size": [4, 6], "counts": [1%s]}}' % (b"0" * 99), "broken run"),
    "text of counts": (b'{"test-0-0": {"size": [4, 6], "counts": "\x7f"}}', "no run lengths"),
    "cut text": (b'{"test-0-0": {"size": [4, 6], "counts": "o"}}', "no run lengths"),
    "of another size": (b'{"test-0-0": {"size": [6, 4], "counts": [24]}}', "odd-sized mask"),
    "without a mask": (b'{"test-0-0": null}', "wrong shape"),
    "folder": ("folder", "0 PNG files and 1 of|broken JSON"),
    "loop": ("loop", "0 PNG files and 1 of|broken JSON"),
}


@pytest.fixture
def home(empty_home):
    save_samples([sample(0), sample(1)], SMOKE.samples_file("test"))
    (empty_home / "masks").mkdir()
    return empty_home


def score(home, capsys, *options: str) -> tuple[int, str, str]:
    before = tree(home)
    arguments = ["--preset", "smoke", "--protocol", "generate-then-segment", *options]
    status = external.main([str(home / "masks"), *arguments])
    assert tree(home) == before  # nothing is scored
    return status, *capsys.readouterr()


@pytest.mark.parametrize("kind", LISTS)
def test_a_dirty_list_of_masks_is_not_scored(home, capsys, kind):
    content, words = LISTS[kind]
    place(home / "masks" / "predictions.json", content)
    refused(*score(home, capsys), words)


def test_a_file_whose_name_is_no_text_is_left_out_by_name(home):
    Image.fromarray(np.ones((4, 6), bool)).save(home / "masks" / "test-0-0.png")
    place(home / os.fsdecode(b"masks/\xff.txt"), b"notes")
    command = [sys.executable, "-m", "foodseg.evaluation.external", str(home / "masks")]
    command += ["--preset", "smoke", "--protocol", "generate-then-segment", "--name", "lisa-7b"]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "FOODSEG_HOME": str(home)}
    done = subprocess.run(command, env=strict, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 files are no masks and were left out: \\udcff.txt." in done.stdout


@pytest.mark.parametrize("kind", BROKEN_MASKS)
def test_a_dirty_mask_is_not_scored(home, capsys, kind):
    content, words = BROKEN_MASKS[kind]
    place(home / "masks" / "test-0-0.png", content)
    refused(*score(home, capsys), rf"test-0-0.png, \w+: .*{words}")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--name", "../x"], "name: '../x' is no name"),
        (["--name", "grpo-seed0"], "no name of the kit's own rows"),
        (["--system", "LISA\n7B"], "system: .* is no title"),
        (["--protocol", "guess"], "protocol: 'guess' is none"),
        (["--preset", "lunch"], "use one of smoke"),
        ([], "0 PNG files and 0 of"),
    ],
)
def test_dirty_words_are_not_scored(home, capsys, options, words):
    refused(*score(home, capsys, *options), words)


# ---- Asking about a photo ----------------------------------------------------------------------

ASKED = {
    "gone": (None, "?", [], "no such file"),
    "folder": ("folder", "?", [], "a folder"),
    "loop": ("loop", "?", [], "can't be read"),
    **{kind: (content, "?", [], words) for kind, (content, words) in BROKEN_IMAGES.items()},
    "floats": (encode(Image.new("F", (9, 9)), "TIFF"), "?", [], "floating-point"),
    "EPS": (encode(PHOTO, "EPS"), "?", [], "no image"),
    "no question": (encode(PHOTO), " \n", [], "question: it is empty"),
    "no UTF-8": (encode(PHOTO), "\udcff", [], "question: it is no UTF-8"),
    "model's mark": (encode(PHOTO), "<image>?", [], "question: <image>: "),
    "photo as output": (encode(PHOTO), "?", ["-o", "photo.png"], "rename it"),
    "one output twice": (encode(PHOTO), "?", ["-o", "a.png", "--mask", "a.png"], "rename it"),
    "no PNG": (encode(PHOTO), "?", ["--mask", "a.jpg"], "a.jpg: this is written as .png"),
    "output in a file": (encode(PHOTO), "?", ["--json", "photo.png/a.json"], "can't be written"),
    "unknown preset": (encode(PHOTO), "?", ["--preset", "lunch"], "use one of smoke"),
    "no adapter": (encode(PHOTO), "?", ["--adapter", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("kind", ASKED)
def test_a_dirty_question_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch, capsys, kind):
    content, question, options, words = ASKED[kind]
    place(tmp_path / "photo.png", content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foodseg.segment.answer.load_policy", lambda _: pytest.fail("loaded"))
    before = tree(tmp_path)
    status = command.main(["photo.png", question, *options])
    out, err = capsys.readouterr()
    refused(status, out, err, f"^segment: .*{words}")
    assert err.count("\n") == 1 and not out and tree(tmp_path) == before
