"""Files: the checkout and the data's home, hashes, whole-or-nothing writes, JSON, seals."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any

from foodseg.common.errors import DataError

PROJECT = Path(__file__).resolve().parents[2]
# Of a disk: full, over the quota, read-only, broken, forbidden; or the place of a file or folder is
# taken by the other.
REFUSALS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EACCES", "EPERM"),
        *("EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG"),
    )
)
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


def sha256(data: bytes | memoryview) -> str:
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
def writing(path: Path) -> Iterator[None]:
    """Raises DataError, which names `path`, where the disk refuses what the block writes there."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        reason, fix = os.strerror(error.errno), "make room or give the permission, and start again"
        raise DataError(f"{path}: it can't be written ({reason}); {fix}.") from error


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """The path of a partial file to write, which becomes `path` when the block ends well.

    Where an exception ends the block, the partial file is removed and an older `path` is kept. It
    is this process's own: of two that write the same file, the last one's stays, whole. Raises
    DataError as `writing`.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _remove_left_behind(path: Path) -> None:
    """Remove the partial files of `path` whose processes were killed."""
    for partial in path.parent.glob(f"{escape(path.name)}.*.partial"):
        number = partial.name.removeprefix(f"{path.name}.").removesuffix(".partial")
        if number.isdecimal() and not _lives(int(number)):
            partial.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_atomically(path: Path, *contents: bytes | memoryview) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one, never half."""
    with whole_or_nothing(path) as partial:
        with partial.open("wb") as file:
            file.writelines(contents)
        sync(partial)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when a file's bytes, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_sealed(path: Path, content: bytes | memoryview) -> None:
    """Write bytes below a line with their SHA-256, atomically, for `read_sealed`."""
    write_atomically(path, _seal(content), content)


def read_sealed(path: Path, fix: str) -> memoryview:
    """The bytes that `write_sealed` wrote.

    Raises DataError, which ends with `fix`, for a file that was cut or changed since.
    """
    data = memoryview(path.read_bytes())
    length = len(_seal(b""))
    if data[:length] != _seal(data[length:]):
        raise DataError(f"{path}: it was cut or changed after it was written; {fix}.")
    return data[length:]


def _seal(content: bytes | memoryview) -> bytes:
    return f"sha256 {sha256(content)}\n".encode()


def append_line(path: Path, line: str) -> None:
    """Add a line, which ends with its line break, to a text file."""
    with writing(path), path.open("a") as file:
        file.write(line)


def write_json(path: Path, value) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines, atomically."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def load_json(path: Path) -> Any:
    """The value of a JSON file of the kit's. Raises DataError if it is broken."""
    return parse_json(path, "", path.read_bytes())


def read_lines(path: Path) -> list[dict]:
    """Rows of a JSON-lines file of the kit's. Raises DataError if one is broken."""
    lines = enumerate(path.read_bytes().splitlines(), 1)
    return [parse_json(path, f"line {number}: ", line) for number, line in lines]


def parse_json(path: Path, where: str, text: bytes) -> Any:
    """The value of JSON text of the file. Raises DataError, naming file and place, if broken."""
    try:
        return json.loads(text)
    except ValueError as error:  # UnicodeDecodeError too
        fix = "it was cut or changed after it was written: start what writes it again"
        raise DataError(f"{path}: {where}it is no JSON ({error}); {fix}.") from None
