"""Files: the checkout and the data's home, hashes, whole-or-nothing writes, JSON lines."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from foodseg.common.errors import DataError

PROJECT = Path(__file__).resolve().parents[2]
LARGE = 2**28  # bytes; files of so many are hashed once, as long as they stay as they are


def home() -> Path:
    """The checkout, or the absolute folder that the variable FOODSEG_HOME names.

    Raises DataError for a relative one: it would be another folder to a notebook.
    """
    path = Path(os.environ.get("FOODSEG_HOME") or PROJECT)
    if not path.is_absolute():
        fix = "write it from / on, or unset it"
        raise DataError(f"FOODSEG_HOME={path} is no absolute path: {fix}.")
    return path


def sha256(data: bytes) -> str:
    """SHA-256 of the bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of the file's bytes, 64 hexadecimal digits."""
    return _digest((path,))


def file_hash(path: Path) -> str:
    """First 16 hexadecimal digits of the file's SHA-256."""
    return files_hash([path])


def files_hash(paths: Iterable[Path]) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the files' contents, in order of path."""
    paths = tuple(sorted(paths))
    stats = [path.stat() for path in paths]
    if sum(stat.st_size for stat in stats) < LARGE:
        return _digest(paths)[:16]
    return _known_digest(paths, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))[:16]


@lru_cache(maxsize=16)
def _known_digest(paths: tuple[Path, ...], _states: tuple[tuple[int, int], ...]) -> str:
    """Gigabytes take seconds to read, and a run's identity is asked for often."""
    return _digest(paths)


def _digest(paths: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """The path of a partial file to write, which becomes `path` when the block ends well.

    Where an exception ends the block, the partial file is removed and an older `path` is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one, never half."""
    with whole_or_nothing(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines, atomically."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_lines(path: Path) -> list[dict]:
    """Rows of a JSON-lines file."""
    # Not splitlines(): a text in JSON may hold U+2028, which ends a line to that.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
