"""One process at a time: who may write into a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from foodseg.common.errors import DataError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `<folder>.lock` until the block ends, or the process, however it ends.

    The file lies beside the folder, which may be moved aside meanwhile. Raises DataError if another
    process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(f"{folder.name}: another process is at this run; wait for it.") from None
    try:
        yield
    finally:
        lock.release()
