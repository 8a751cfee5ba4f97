"""Kills and full disks: the n-th change of a file, in a process of its own."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from foodseg.common.errors import DataError

KILLED, REFUSED, FAILED = 9, 1, 3
# Where Python's events have the path that is changed.
CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "shutil.rmtree": 0}


def with_fault(work: Callable[[], object], folder: Path, number: int, full: bool):
    """Do the work in a forked process whose `number`-th change under `folder` fails.

    full: as on a full disk; else the process is killed there, and no `finally` runs. Returns its
    exit status and its last words: "" for 0 if there are fewer changes, "went on" if the fault did
    no harm, as that of making a folder that is there.
    """
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as words:
            said = words.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said
    status, said, seen = FAILED, "", 0

    def watch(event, arguments):
        nonlocal seen
        if event == "open":
            path = arguments[0] if arguments[2] & (os.O_WRONLY | os.O_RDWR) else None
        else:
            path = arguments[CHANGES[event]] if event in CHANGES else None
        if isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)):
            seen += 1
            if seen == number and not full:
                os._exit(KILLED)
            if seen == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        sys.addaudithook(watch)
        work()
        status, said = 0, "went on" if seen >= number else ""
    except DataError as error:
        status, said = REFUSED, str(error)
    except BaseException:
        said = traceback.format_exc()
    finally:
        os.write(writer, said.encode())
        os._exit(status)


def as_expected(status: int, said: str, folder: Path, full: bool) -> bool:
    """Whether the work was killed, or said in one sentence what of `folder` can't be written."""
    if not full:
        return status == KILLED
    sentence = str(folder) in said and "No space left on device" in said
    return said == "went on" or (status == REFUSED and sentence)
