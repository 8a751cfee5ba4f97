"""Hashes of files, the same for the same bytes, large ones read once; and the processor."""

import hashlib
import os
import platform
import re

import pytest

from foodseg.common import files, provenance
from foodseg.common.files import file_hash, files_hash


@pytest.mark.parametrize("large", [2**28, 1], ids=["small", "large"])
def test_a_hash_follows_the_bytes_in_order_of_path(tmp_path, monkeypatch, large):
    monkeypatch.setattr(files, "LARGE", large)
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    expected = hashlib.sha256(b"onetwo").hexdigest()[:16]
    assert files_hash([second, first]) == files_hash(iter([first, second])) == expected
    assert file_hash(first) == hashlib.sha256(b"one").hexdigest()[:16]
    first.write_bytes(b"other")
    assert file_hash(first) == hashlib.sha256(b"other").hexdigest()[:16]


def test_a_large_file_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 1)
    reads, digest = [], files._digest
    monkeypatch.setattr(files, "_digest", lambda paths: reads.append(paths) or digest(paths))
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert file_hash(file) == file_hash(file) and len(reads) == 1
    file.write_bytes(b"two")
    os.utime(file, (1, 1))
    assert file_hash(file) == hashlib.sha256(b"two").hexdigest()[:16] and len(reads) == 2


def test_the_processors_model_is_named_where_the_system_tells_it(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) CPU\n\nmodel name\t: other\n")
    monkeypatch.setattr(provenance, "CPU_INFO", info)
    assert provenance.processor_name() == "Intel(R) Xeon(R) CPU"
    assert provenance.provenance("cpu")["processor"] == "Intel(R) Xeon(R) CPU"
    monkeypatch.setattr(provenance, "CPU_INFO", tmp_path / "none")
    for known, name in (("arm", "arm"), ("", platform.machine())):
        monkeypatch.setattr(platform, "processor", lambda known=known: known)
        assert provenance.processor_name() == name


def test_two_processes_that_write_one_file_never_mix(tmp_path, monkeypatch):
    """The first to begin ends last; what stands there in between and afterwards is whole."""
    file = tmp_path / "table.md"
    with files.whole_or_nothing(file) as ours:
        ours.write_text("ours")
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: -1)
            files.write_atomically(file, b"theirs")
        assert file.read_text() == "theirs"
    assert file.read_text() == "ours" and list(tmp_path.iterdir()) == [file]


def test_the_commit_says_whether_the_code_is_its_own(tmp_path, monkeypatch, own_git):
    for name in ("foodseg/a.py", "figures/a.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a")
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.find_commit() == "unknown"
    own_git(tmp_path)
    (tmp_path / "figures/a.md").write_text("b")
    assert re.fullmatch(r"[0-9a-f]{12}", provenance.find_commit())
    (tmp_path / "foodseg/a.py").write_text("b")
    assert re.fullmatch(r"[0-9a-f]{12}\+", provenance.find_commit())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.find_commit() == "unknown"
