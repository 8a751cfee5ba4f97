"""Run something in a forked process in which one write goes wrong.

An audit hook sees every file that Python opens for writing below a folder, and every rename,
removal and new folder there. At the n-th of them a fault is put in:

- "killed": the process dies at once, as by kill -9;
- "killed within": it dies in the next file that grows over 64 bytes, which is left half written;
- "disk full": from here on no file grows over 64 bytes, whoever writes it (Rust and C++ too).
"""

import json
import os
import resource
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm

FAULTS = ("killed", "killed within", "disk full")
LIMIT = 64  # bytes
# Fields that differ from run to run; the last three are hashes of some.
PASSING = ("seconds", "peak_memory", "commit", "sha256", "log.jsonl", "tool.jsonl")
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate"}


@dataclass(frozen=True)
class Outcome:
    """status: 0; 1 after a DataError; 2 after another exception; -9 or -25 if killed.

    writes: how many writes there were, for a run without a fault. said: what it printed last.
    """

    status: int
    writes: int
    said: str


def run(door: Callable[[], None], folder: Path, fault: str = "", at: int = 0) -> Outcome:
    """`door` in a forked process, whose write of number `at` below `folder` goes wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _live(door, folder, fault, at, writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    writes, said = json.loads(lines[-1]) if status >= 0 else (0, "")
    return Outcome(status, writes, said)


def each_fault(door: Callable[[], None], folder: Path) -> Iterator[str]:
    """Run `door` in an empty `folder` with each fault at each of its writes; yields which it was.

    What it must then be is the caller's to check. Fails where anything but a kill or one sentence
    ended the door.
    """
    writes = run(door, folder).writes
    for fault in FAULTS:
        for at in range(1, writes + 1):
            shutil.rmtree(folder, ignore_errors=True)
            hurt = run(door, folder, fault, at)
            told = f"{fault} at write {at} of {writes}"
            assert hurt.status <= 1 and "\n" not in hurt.said, f"{told}: {hurt.said}"
            yield told


def _live(door: Callable[[], None], folder: Path, fault: str, at: int, pipe: int) -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")
    # Its own lock lies in memory that all forks share: one that is killed would keep it for ever.
    tqdm.set_lock(threading.RLock())
    seen = Writes(folder, fault, at)
    sys.addaudithook(seen)
    status, said = 0, ""
    try:
        door()
    except DataError as error:
        status, said = 1, str(error)
    except BaseException:
        status, said = 2, traceback.format_exc()
    seen.fault = ""
    os.write(pipe, (json.dumps([seen.count, said]) + "\n").encode())
    os._exit(status)


class Writes:
    """The audit hook: counts writes below a folder and puts the fault in."""

    def __init__(self, folder: Path, fault: str, at: int) -> None:
        self.folder, self.fault, self.at, self.count = str(folder), fault, at, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self._writes(event, arguments):
            return
        self.count += 1
        if self.fault and self.count == self.at:
            self._go_wrong()

    def _writes(self, event: str, arguments: tuple) -> bool:
        if event == "open":
            path, mode, flags = arguments
            writing = any(c in mode for c in "wxa+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
            return bool(writing) and str(path).startswith(self.folder)
        return event in WRITES and str(arguments[0]).startswith(self.folder)

    def _go_wrong(self) -> None:
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "killed within":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def contents(folder: Path) -> dict[str, object]:
    """All that must be the same after a fault and a further start: relative path -> content.

    Without seconds and memory, without what only a further start needs (state.pt, whose
    log has seconds) and locks.
    """
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): _content(path)
        for name, path in sorted(files.items())
        if name.name != "state.pt" and name.suffix != ".lock"
    }


def _content(path: Path) -> object:
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [_timeless(json.loads(line)) for line in lines]


def _timeless(value: object) -> object:
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: _timeless(one) for key, one in value.items() if not key.startswith(PASSING)}
