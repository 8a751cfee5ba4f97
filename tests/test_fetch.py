"""`make data` against servers on this machine: resumed, checked, unpacked, counted."""

import base64
import hashlib
import io
import json
import re
import shutil
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from official_folder import messages
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.data.fetch import __main__ as fetching
from foodseg.data.fetch import download as downloads
from foodseg.data.fetch import unpack
from foodseg.data.fetch.__main__ import default_folder, fetch, main
from foodseg.data.fetch.check import check_folder
from foodseg.data.fetch.download import Checksums, download
from foodseg.data.fetch.sources import LICENCE, OFFICIAL, HubFile, RemoteFile, Sources
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.data.single import build_single

PASSWORD = OFFICIAL.password
IMAGES = {"train": 3, "test": 2}
KINDS = ("img_dir", "ann_dir")
TEXTS = ("category_id.txt", "FoodReasonSeg_train.json", "FoodReasonSeg_test.json")
# FoodSeg103/Images/img_dir/train/1.jpg with the bytes "hello photo", encrypted with PASSWORD by
# Info-ZIP's `zip -P`: Python reads such archives and can't write them.
ENCRYPTED = base64.b64decode(
    "UEsDBAoACQAAAOmedF3ehIojFwAAAAsAAAAlABwARm9vZFNlZzEwMy9JbWFnZXMvaW1nX2Rpci90cmFpbi8xLmpwZ1VU"
    "CQADpaUAa6WlAGt1eAsAAQQAAAAABAAAAAA1gid0mGr+sZwF2oA3R9a/B/cCFPHnulBLBwjehIojFwAAAAsAAABQSwEC"
    "HgMKAAkAAADpnnRd3oSKIxcAAAALAAAAJQAYAAAAAAABAAAApIEAAAAARm9vZFNlZzEwMy9JbWFnZXMvaW1nX2Rpci90"
    "cmFpbi8xLmpwZ1VUBQADpaUAa3V4CwABBAAAAAAEAAAAAFBLBQYAAAAAAQABAGsAAACGAAAAAAA="
)


class Mirror:
    """A web server with files by path, and what is wrong with each. HEAD is answered as by the hub.

    cut: how many bytes each coming answer may send before it breaks. codes: an answer instead of
    the file. linked: where the hub keeps the bytes of a large file, and the sum that it states.
    requests: path and Range of every GET. tokens: what was authorised, by host and path.
    """

    def __init__(self):
        self.files, self.cut, self.codes, self.linked = {}, {}, {}, {}
        self.resumes, self.version = True, '"one"'
        self.requests: list[tuple[str, str | None]] = []
        self.tokens: dict[tuple[str, str], str | None] = {}
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.answer(self)

            def do_HEAD(self):
                mirror.describe(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        if path.startswith("http"):
            return path
        return f"http://{host}:{self.server.server_address[1]}/{path}"

    def asked(self, path: str) -> list[str | None]:
        return [place for asked, place in self.requests if asked == path]

    def describe(self, handler) -> None:
        """The hub's answer to HEAD: the commit, and where the bytes are."""
        path = self._path(handler)
        sha256 = ""
        if path in self.linked:
            target, sha256 = self.linked[path]
            handler.send_response(302)
            handler.send_header("Location", self.url(target, "localhost"))
        elif path in self.codes or path not in self.files:
            handler.send_response(self.codes.get(path, 404))
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(self.files[path])))
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("X-Linked-Etag" if sha256 else "ETag", f'"{sha256 or "1" * 40}"')
        handler.end_headers()

    def _path(self, handler) -> str:
        path = re.sub("^/datasets/some/one/resolve/[^/]+/", "hub/", handler.path).lstrip("/")
        host = handler.headers["Host"].partition(":")[0]
        self.tokens[host, path] = handler.headers.get("Authorization")
        return path

    def answer(self, handler) -> None:
        path, place = self._path(handler), handler.headers.get("Range")
        self.requests.append((path, place))
        assert "/main/" not in handler.path  # of the hub's file only one commit's bytes are taken
        if path in self.codes or path not in self.files:
            return handler.send_error(self.codes.get(path, 404))
        data, start = self.files[path], 0
        if place and self.resumes:
            start = int(place.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(data)}")
                return handler.end_headers()
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", self.version)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        limit = self.cut[path].pop(0) if self.cut.get(path) else len(data)
        handler.wfile.write(data[start : start + limit])


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    mirror = Mirror()
    hub = mirror.url("").rstrip("/")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


@pytest.fixture
def sums(tmp_path):
    return Checksums(tmp_path / "sums.json")


DATA = b"PK" + bytes(range(256)) * 40
COMMIT = "c" * 40
NOWHERE = "http://127.0.0.1:9"


def get(mirror, tmp_path, sums, *paths, name="a.zip", sha256=""):
    remote = RemoteFile(name, tuple(mirror.url(path) for path in paths), sha256)
    return download(remote, tmp_path, sums, wait=0)


def test_a_cut_connection_is_resumed(mirror, tmp_path, sums):
    mirror.files["a"], mirror.cut["a"] = DATA, [4000, 0, 3000]
    path = get(mirror, tmp_path, sums, "a")
    assert path.read_bytes() == DATA
    assert mirror.asked("a") == [None, "bytes=4000-", "bytes=4000-", "bytes=7000-"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "sums.json"]
    assert sums.get("a.zip").sha256 == hashlib.sha256(DATA).hexdigest()
    assert (sums.get("a.zip").word, sums.get("a.zip").bytes) == ("first seen", len(DATA))


def test_a_later_run_goes_on_with_the_part(mirror, tmp_path, sums):
    mirror.files["a"], mirror.cut["a"] = DATA, [5000, 0, 0, 0, 0]
    with pytest.raises(DataError, match="5000 of .* bytes came.*, 4 times in a row"):
        get(mirror, tmp_path, sums, "a")
    part, state = tmp_path / "a.zip.part", tmp_path / "a.zip.part.json"
    assert part.stat().st_size == 5000
    written = state.read_bytes()
    for have in (DATA[:5000], DATA):  # cut, or whole already
        mirror.requests.clear()
        part.write_bytes(have)
        state.write_bytes(written)
        path = get(mirror, tmp_path, sums, "a")
        assert path.read_bytes() == DATA
        assert mirror.asked("a") == [f"bytes={len(have)}-"]
        path.unlink()


def test_parts_of_two_files_are_never_joined(mirror, tmp_path, sums):
    other = DATA[::-1]
    mirror.files["a"], mirror.cut["a"] = DATA, [5000, 0, 0, 0, 0]
    mirror.files["b"] = b"PK" + other
    assert get(mirror, tmp_path, sums, "a", "b").read_bytes() == b"PK" + other  # another mirror
    mirror.files["c"], mirror.cut["c"] = DATA, [5000, 0, 0, 0, 0]
    with pytest.raises(DataError):
        get(mirror, tmp_path, sums, "c", name="c.zip")
    mirror.files["c"], mirror.version = b"PK" + other, '"two"'  # changed on the server
    assert get(mirror, tmp_path, sums, "c", name="c.zip").read_bytes() == b"PK" + other
    mirror.files["d"], mirror.cut["d"], mirror.resumes = DATA, [5000], False  # it can't resume
    assert get(mirror, tmp_path, sums, "d", name="d.zip").read_bytes() == DATA


def test_a_mirror_that_has_nothing_or_the_wrong_thing_is_passed_over(mirror, tmp_path, sums):
    right = hashlib.sha256(DATA).hexdigest()
    mirror.files |= {"wrong": DATA[:-1], "page": b"<html>log in</html>", "right": DATA}
    mirror.codes["busy"] = 503
    places = ["gone", "busy", "wrong", "page", "right"]
    assert get(mirror, tmp_path, sums, f"{NOWHERE}/a", *places, sha256=right).read_bytes() == DATA
    assert [len(mirror.asked(path)) for path in places] == [1, 4, 1, 1, 1]
    assert sums.get("a.zip").word == "published"
    with pytest.raises(DataError) as error:
        get(mirror, tmp_path, sums, f"{NOWHERE}/b", *places[:3], name="b.zip", sha256=right)
    first, nowhere, gone, busy, wrong = str(error.value).splitlines()
    assert "b.zip: no mirror gave the file; get it by hand" in first
    assert "can't be reached" in nowhere
    assert "gone: it answered 404" in gone and "busy: it answered 503" in busy
    assert "wrong checksum" in wrong and right[:12] in wrong
    with pytest.raises(DataError, match="a web page"):
        get(mirror, tmp_path, sums, "page", name="b.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "sums.json"]


def from_hub(tmp_path, sums, *paths, name="a.zip"):
    remote = RemoteFile(name, tuple(HubFile("some/one", path) for path in paths))
    return download(remote, tmp_path, sums, wait=0)


def test_the_sum_that_the_hub_states_counts(mirror, tmp_path, sums):
    mirror.files |= {"cdn": DATA, "hub/git": DATA}  # of a small file it states Git's hash
    good = hashlib.sha256(DATA).hexdigest()
    mirror.linked = {"hub/good": ("cdn", good), "hub/bad": ("cdn", "0" * 64)}
    with pytest.raises(DataError, match="000000000000… was expected"):
        from_hub(tmp_path, sums, "bad")
    assert from_hub(tmp_path, sums, "bad", "good").read_bytes() == DATA
    assert sums.get("a.zip").word == "published"
    from_hub(tmp_path, sums, "git", name="b.zip")
    assert sums.get("b.zip").word == "first seen"
    # The commit that "main" was is what the file was fetched of, and is noted.
    assert sums.get("b.zip").source.endswith(f"/datasets/some/one/resolve/{COMMIT}/git")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip", "sums.json"]


def test_the_users_token_goes_to_the_hub_only(mirror, tmp_path, sums, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    mirror.files |= {"cdn": DATA, "hub/small": DATA, "zip": DATA}
    mirror.linked["hub/large"] = ("cdn", hashlib.sha256(DATA).hexdigest())
    from_hub(tmp_path, sums, "small")
    from_hub(tmp_path, sums, "large", name="b.zip")
    get(mirror, tmp_path, sums, "zip", name="c.zip")
    token = "Bearer hf_secret"
    hub = {("127.0.0.1", f"hub/{size}"): token for size in ("small", "large")}
    assert mirror.tokens == hub | {("localhost", "cdn"): None, ("127.0.0.1", "zip"): None}


@pytest.mark.parametrize("code", [401, 403])
def test_a_closed_door_is_told_with_the_key(mirror, tmp_path, sums, code):
    mirror.files["hub/a"], mirror.codes["hub/a"] = DATA, code
    words = "accept its terms on https://huggingface.co/datasets/some/one, then `hf auth login`"
    with pytest.raises(DataError, match=f"it answered {code} .*; {words} or set HF_TOKEN"):
        from_hub(tmp_path, sums, "a")


def test_a_download_from_the_hub_shows_that_it_lives(mirror, tmp_path, sums, capsys):
    """Also where no terminal is, and while transformers has the hub's own bars turned off."""
    mirror.files["hub/a"] = DATA
    disable_progress_bars()
    try:
        from_hub(tmp_path, sums, "a")
    finally:
        enable_progress_bars()
    assert "a: 100%" in capsys.readouterr().err


def test_a_file_put_there_by_hand_must_have_the_sum_that_is_pinned(tmp_path, sums):
    (tmp_path / "a.zip").write_bytes(DATA[:-1])
    remote = RemoteFile("a.zip", (), hashlib.sha256(DATA).hexdigest())
    with pytest.raises(DataError, match="a.zip: its SHA-256 is not .*; remove it to fetch it aga"):
        download(remote, tmp_path, sums)
    (tmp_path / "a.zip").write_bytes(DATA)
    assert download(remote, tmp_path, sums) == tmp_path / "a.zip"


@pytest.mark.parametrize("code", [404, 401, 403, 503, None, "offline"])
def test_a_hub_that_does_not_give_the_file(mirror, tmp_path, sums, monkeypatch, code):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    mirror.files["hub/a"], mirror.codes["hub/a"] = DATA, code
    words = f"it answered {code}" if isinstance(code, int) else "it can't be reached"
    if code is None:
        nowhere = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, NOWHERE)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    elif code == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=rf"no mirror gave .*\n  .*/resolve/main/a: {words}"):
        from_hub(tmp_path, sums, "a")
    assert list(tmp_path.iterdir()) == []


def test_the_first_download_is_remembered(mirror, tmp_path, sums):
    mirror.files["a"] = DATA
    path = get(mirror, tmp_path, sums, "a")
    again = Checksums(tmp_path / "sums.json")
    assert again.get("a.zip") == sums.get("a.zip")
    get(mirror, tmp_path, again, "a")
    assert len(mirror.requests) == 1  # it is there
    path.write_bytes(DATA + b"!")
    with pytest.raises(DataError, match="a.zip, sha256: changed since it was fetched"):
        get(mirror, tmp_path, again, "a")
    path.unlink()
    mirror.files["a"] = DATA + b"!"
    with pytest.raises(DataError, match="wrong checksum"):  # not what was fetched first
        get(mirror, tmp_path, again, "a")
    (tmp_path / "sums.json").write_text("[1]")
    with pytest.raises(DataError, match=r"sums.json: no list of checksums.*remove"):
        Checksums(tmp_path / "sums.json")


@pytest.mark.parametrize("step", ["_append", "hf_hub_download"])
def test_a_full_disk_is_no_fault_of_the_mirror(mirror, tmp_path, sums, monkeypatch, step):
    mirror.files |= {"a": DATA, "hub/a": DATA}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, step, full)
    call = partial(get, mirror) if step == "_append" else from_hub
    with pytest.raises(OSError, match="No space left"):
        call(tmp_path, sums, "a", "a")
    assert len(mirror.asked("a")) == (step == "_append")  # no other mirror was tried


def picture(number: int, kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "img_dir":
        Image.new("RGB", (20, 16), (number * 40, 90, 30)).save(stream, "JPEG")
    else:
        mask = np.zeros((16, 20), np.uint8)
        mask[2:14, 2:14] = 66
        Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()


def dishes(split: str) -> list[tuple[int, str]]:
    first = 1 if split == "train" else 1 + IMAGES["train"]
    return [(number, f"{number:08d}") for number in range(first, first + IMAGES[split])]


def contents(top: str = "FoodSeg103/") -> dict[str, bytes]:
    """The archive's files by name."""
    lines = "".join(f"{class_id}\t{name}\n" for class_id, name in CATEGORIES.items())
    files = {f"{top}category_id.txt": lines.encode(), f"{top}ImageSets/train.txt": b"1\n"}
    for split in IMAGES:
        for number, dish in dishes(split):
            files[f"{top}Images/img_dir/{split}/{dish}.jpg"] = picture(number, "img_dir")
            files[f"{top}Images/ann_dir/{split}/{dish}.png"] = picture(number, "ann_dir")
    return files


def pack(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def shard(rows: list[tuple[str | None, bytes | None, bytes]]) -> bytes:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array([{"bytes": image, "path": name} for name, image, _ in rows], kind),
        "label": pa.array([{"bytes": label, "path": None} for _, _, label in rows], kind),
        "id": pa.array(range(len(rows)), pa.int64()),
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def rows(split: str) -> list[tuple[str, bytes, bytes]]:
    return [
        (f"{dish}.jpg", picture(number, "img_dir"), picture(number, "ann_dir"))
        for number, dish in dishes(split)
    ]


def conversations(split: str) -> bytes:
    turn = messages("What gives energy?", "The {rice} [SEG1].")
    entries = [{"dish_id": dish, "conversations": turn} for _, dish in dishes(split)]
    return json.dumps(entries).encode()


@pytest.fixture
def sources(mirror) -> Sources:
    """Sources that all answer, with FoodSeg103 as an archive and as Parquet files of the hub."""
    train = rows("train")
    files = {
        "train-0.parquet": shard(train[:2]),
        "train-1.parquet": shard(train[2:]),
        "test-0.parquet": shard(rows("test")),
        "id2label.json": json.dumps({str(k): v for k, v in CATEGORIES.items()}).encode(),
    }
    files |= {f"FoodReasonSeg_{split}.json": conversations(split) for split in IMAGES}
    mirror.files = {f"hub/{name}": data for name, data in files.items()}
    mirror.files["FoodSeg103.zip"] = pack(contents())
    first, second, test, labels, *talks = (
        RemoteFile(name, (HubFile("some/one", name),)) for name in files
    )
    return Sources(
        archive=RemoteFile("FoodSeg103.zip", (mirror.url("FoodSeg103.zip"),)),
        password=PASSWORD,
        shards={"train": (first, second), "test": (test,)},
        labels=labels,
        conversations=tuple(talks),
        images=IMAGES,
    )


def assert_whole(root):
    for split, count in IMAGES.items():
        samples, report = build_single(root, split)
        assert len(samples) == count and report.problems == ()
    for name, data in contents("").items():
        if name.startswith("Images"):
            assert (root / name).read_bytes() == data


@pytest.mark.parametrize("way", ["archive", "parquet"])
def test_an_empty_folder_becomes_whole(mirror, sources, tmp_path, way, capsys, monkeypatch):
    said, answer = [], mirror.answer

    def note(handler):
        said.append(capsys.readouterr().out)
        answer(handler)

    monkeypatch.setattr(mirror, "answer", note)
    if way == "archive":
        del mirror.files["hub/test-0.parquet"]
    root = tmp_path / "datasets" / "FoodSeg103"
    assert fetch(root, sources, wait=0) == []
    assert_whole(root)
    assert LICENCE in said[0]  # before the first request
    words = "".join(said) + capsys.readouterr().out
    asked = {path for path, _ in mirror.requests}
    for sign in ("FoodSeg103.zip is encrypted: unpacking it takes about", "it answered 404"):
        assert (sign in words) == (way == "archive")
    # Python decrypts so slowly that the archive is the last resort.
    assert ("FoodSeg103.zip" in asked) == (way == "archive") and "hub/train-0.parquet" in asked
    mirror.requests.clear()
    assert fetch(root, sources, wait=0) == []  # a whole folder is only checked
    assert mirror.requests == [] and LICENCE not in capsys.readouterr().out
    names = {"FoodSeg103", "FoodSeg103.checksums.json", "downloads"}
    assert {path.name for path in root.parent.iterdir()} == names
    assert not list(tmp_path.rglob("*.part*"))


def test_a_file_put_there_by_hand_needs_no_server(mirror, sources, tmp_path):
    archive = mirror.files.pop("FoodSeg103.zip")
    shards = {name: mirror.files.pop(name) for name in list(mirror.files) if "parquet" in name}
    for name, files in (("one", {"FoodSeg103.zip": archive}), ("two", shards)):
        folder = tmp_path / name / "downloads"
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / Path(file).name).write_bytes(data)
        mirror.requests.clear()
        assert fetch(tmp_path / name / "FoodSeg103", sources, wait=0) == []
        assert_whole(tmp_path / name / "FoodSeg103")
        assert "FoodSeg103.zip" not in {path for path, _ in mirror.requests}


def test_what_is_missing_is_filled_in_and_nothing_else_is_touched(mirror, sources, tmp_path):
    root = tmp_path / "FoodSeg103"
    fetch(root, sources, wait=0)
    kept = root / "Images/img_dir/train/00000001.jpg"
    times = kept.stat().st_mtime_ns
    (root / "Images/img_dir/train/00000002.jpg").unlink()
    (root / "Images/ann_dir/train/00000003.png").write_bytes(b"")
    (root / "FoodReasonSeg_test.json").unlink()
    mirror.requests.clear()
    assert fetch(root, sources, wait=0) == []
    assert_whole(root)
    assert kept.stat().st_mtime_ns == times
    assert [path for path, _ in mirror.requests] == ["hub/FoodReasonSeg_test.json"]
    (root / "category_id.txt").unlink()  # a gigabyte isn't fetched for it
    for name in ("id2label.json", "train-0.parquet"):
        (tmp_path / "downloads" / name).unlink()
    assert fetch(root, sources, wait=0) == []
    assert mirror.requests[1:] == [("hub/id2label.json", None)]
    assert_whole(root)
    for kind, suffix in (("img_dir", "jpg"), ("ann_dir", "png")):  # and for files too many, nothing
        (root / f"Images/{kind}/train/mine.{suffix}").write_bytes(picture(9, kind))
    lines = [str(problem) for problem in fetch(root, sources, wait=0)]
    assert len(mirror.requests) == 2 and len(lines) == 2
    assert all("4 files where FoodSeg103 has 3; take out" in line for line in lines)


def faults(root, sources, tmp_path):
    checksums = Checksums(tmp_path / "FoodSeg103.checksums.json")
    return [str(problem) for problem in check_folder(root, sources, checksums)]


def test_one_clear_line_for_each_fault(mirror, sources, tmp_path):
    root = tmp_path / "FoodSeg103"
    folders = [f"Images/{kind}/{split}, folder" for split in IMAGES for kind in KINDS]
    files = [f"{name}, file" for name in TEXTS]
    assert [line.partition(":")[0] for line in faults(root, sources, tmp_path)] == folders + files
    fetch(root, sources, wait=0)
    (root / "Images/img_dir/train/00000002.jpg").unlink()
    (root / "Images/ann_dir/test/00000004.png").unlink()
    (root / "Images/ann_dir/test/00000005.png").write_bytes(b"")
    shutil.copy(root / "Images/img_dir/train/00000001.jpg", root / "Images/img_dir/test")
    text = (root / "category_id.txt").read_text().replace("66\trice", "66\tgold")
    (root / "category_id.txt").write_text(text.replace("103\tother ingredients\n", ""))
    (root / "FoodReasonSeg_train.json").write_text("[{}")
    (root / "FoodReasonSeg_test.json").write_text("[{}]")
    expected = [
        ("Images/img_dir/train, count", "2 files where FoodSeg103 has 3"),
        ("Images/img_dir/train, file: missing image", "00000002"),
        ("Images/img_dir/test, count", "3 files where FoodSeg103 has 2"),
        ("Images/ann_dir/test, count", "1 files where FoodSeg103 has 2"),
        ("Images/ann_dir/test, size: empty files", "00000005"),
        ("Images/ann_dir/test, file: missing mask", "00000001, 00000004"),
        ("Images/img_dir, split", "'00000001' stands in every split"),
        ("category_id.txt, count", "103 labels where FoodSeg103 has 104"),
        ("category_id.txt, id 66", "'gold'"),
        ("FoodReasonSeg_train.json, file", "broken JSON"),
        ("FoodReasonSeg_test.json, sha256", "changed since it was fetched"),
    ]
    for line, (place, words) in zip(faults(root, sources, tmp_path), expected, strict=True):
        assert line.startswith(place) and words in line and "\n" not in line


def refuse(tmp_path, data: bytes, words: str, password: bytes = PASSWORD) -> None:
    """The archive is refused in these words, and leaves nothing."""
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=words):
        unpack.unpack_zip(tmp_path / "a.zip", tmp_path / "in/FoodSeg103", password)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "Images/../../evil.jpg", "a\\..\\evil.jpg", "C:evil.txt"]
)
def test_an_archive_that_leaves_its_folder_is_refused_whole(tmp_path, name):
    words = r"evil.*leaves the folder or is a link.*nothing was unp"
    refuse(tmp_path, pack(contents() | {name: b"evil"}), words)


def test_an_encrypted_archive_is_opened_with_the_published_password(tmp_path):
    refuse(tmp_path, ENCRYPTED, r"a.zip: it can't be unpacked \(Bad password", b"guess")
    unpack.unpack_zip(tmp_path / "a.zip", tmp_path / "in", PASSWORD)
    assert (tmp_path / "in/Images/img_dir/train/1.jpg").read_bytes() == b"hello photo"


def test_archives_that_cannot_be_used(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("Images/img_dir/train/1.jpg")
    link.external_attr = 0o120777 << 16
    refuse(tmp_path, pack({link: b"/etc/passwd"}), "is a link")
    refuse(tmp_path, pack(contents())[:-30], "can't be unpacked")
    refuse(tmp_path, pack({"Foods/readme.txt": b"nothing"}), "holds no Images folder")
    whole = pack(contents("") | {"__MACOSX/._x": b"x", "Images/.DS_Store": b"x"})
    with monkeypatch.context() as patch:
        patch.setattr(unpack, "MOST_BYTES", 1000)
        refuse(tmp_path, whole, "it unpacks to more than")
    unpack.unpack_zip(tmp_path / "a.zip", tmp_path / "in", PASSWORD)
    names = {path.name for path in (tmp_path / "in").iterdir()}
    assert names == {"ImageSets", "Images", "category_id.txt"}
    assert not list(tmp_path.rglob(".DS_Store"))


def test_parquet_rows_with_a_fault_are_reported_and_the_rest_written(tmp_path):
    good = picture(1, "img_dir"), picture(1, "ann_dir")
    names = ["1.jpg", "../2.jpg", None, "x/3.jpg", "4.exe", "5.JPEG", ".6.jpg"]
    path, root = tmp_path / "train.parquet", tmp_path / "in"
    path.write_bytes(shard([(name, *good) for name in names] + [("8.jpg", None, good[1])]))
    problems = unpack.unpack_parquet([path], root, "train")
    places = [("train.parquet", f"row {row}") for row in (1, 2, 3, 4, 6, 7)]
    assert [(p.file, p.field) for p in problems] == places
    assert all(p.fix.endswith("FoodSeg103's own archive") for p in problems)
    found = {p.relative_to(root / "Images").as_posix() for p in root.glob("*/*/*/*")}
    kept = ["ann_dir/train/1.png", "ann_dir/train/5.png", "img_dir/train/1.jpg"]
    assert found == {*kept, "img_dir/train/5.JPEG"}
    assert (root / "Images/img_dir/train/1.jpg").read_bytes() == good[0]


def test_parquet_files_that_cannot_be_used(tmp_path):
    path, labels = tmp_path / "train.parquet", tmp_path / "id2label.json"
    path.write_bytes(shard(rows("train"))[:-50])
    with pytest.raises(DataError, match="no readable Parquet file"):
        unpack.unpack_parquet([path], tmp_path / "in", "train")
    pq.write_table(pa.table({"image": ["a"], "label": ["b"]}), path)
    with pytest.raises(DataError, match="column image: it holds no images"):
        unpack.unpack_parquet([path], tmp_path / "in", "train")
    labels.write_text("[]")
    with pytest.raises(DataError, match="id2label.json: no list of class names"):
        unpack.unpack_labels(labels, tmp_path)


def test_the_command_says_what_is_left_to_do_by_hand(
    mirror, sources, tmp_path, capsys, monkeypatch
):
    """Where no mirror answers, and where a file needs a form."""
    files, mirror.files = mirror.files, {}
    mirror.codes["hub/FoodReasonSeg_train.json"] = 401
    monkeypatch.setattr(fetching, "OFFICIAL", sources)
    monkeypatch.setattr(fetching.fetch, "__defaults__", (sources, 0))
    root = tmp_path / "FoodSeg103"
    assert main([str(root)]) == 1
    out = capsys.readouterr().out
    for words in ("it answered 404", "it answered 401", "Images/img_dir/train, folder: missing"):
        assert words in out
    by_hand = out[out.index("To do by hand") :]
    needed = ["FoodSeg103.zip", "train-00000-of-00003.parquet", "FoodReasonSeg_test.json"]
    needed += [PASSWORD.decode(), str(tmp_path / "downloads"), str(root), "accept its form"]
    assert [words for words in needed if words not in by_hand] == []
    mirror.files, mirror.codes = files, {}
    assert main([str(root)]) == 0
    assert "5 images, 3 train and 2 test; 104 labels" in capsys.readouterr().out


def test_the_official_sources():
    assert OFFICIAL.images == {"train": 4983, "test": 2135}
    remotes = [OFFICIAL.archive, OFFICIAL.labels, *OFFICIAL.conversations]
    for remote in (*remotes, *chain.from_iterable(OFFICIAL.shards.values())):
        urls = [str(mirror) for mirror in remote.mirrors]
        assert urls and all(url.startswith("https://") for url in urls)
        assert all(url.endswith("/" + remote.name) for url in urls)
        assert bool(remote.sha256) == remote.name.endswith(".parquet")
    sums = [shard.sha256 for shard in chain.from_iterable(OFFICIAL.shards.values())]
    assert [one[:4] for one in sums] == ["7288", "814e", "7b16", "73d4"]
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in sums)


def test_the_default_folder_is_the_paper_preset_s(monkeypatch, tmp_path):
    from foodseg.presets import PAPER

    for home in (tmp_path, ""):  # "": the checkout
        monkeypatch.setenv("FOODSEG_HOME", str(home))
        assert default_folder() == PAPER.dataset
        assert default_folder().parts[-3:] == ("datasets", "paper", "FoodSeg103")
    assert default_folder().parents[2] == Path(__file__).parents[1]
