"""One process at a time at a folder or a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from foodseg.common.errors import DataError
from foodseg.common.files import writing


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold `<path>.lock` until the block ends, or the process, however it ends.

    The lock lies beside what it guards, which may be moved aside meanwhile; only a killed process
    leaves it behind. Raises DataError if another process holds it, or as `files.writing`.
    """
    file = path.with_name(path.name + ".lock")
    lock = FileLock(file)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
    except Timeout:
        raise DataError(f"{path.name}: another process is at it; wait for it or end it.") from None
    try:
        yield
    finally:
        # While it is held: who opened it before finds it unlinked once it is free, and is refused.
        with suppress(OSError):  # where it has to stay, the next process takes it
            file.unlink()
        lock.release()
