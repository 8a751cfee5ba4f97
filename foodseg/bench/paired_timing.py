"""Steps timed in turns: each side has a process of its own, for its peak memory.

One works at a time, step by step in a rotating order, so whatever else runs slows all sides alike.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import torch

from foodseg.common.machine_memory import peak_resident_bytes
from foodseg.common.progress import tqdm

MIB = 2**20


class SideFailedError(RuntimeError):
    """A side's process did not do its work; the message says what stopped it."""


class Turns:
    """A side's end: `ready` once, then for each turn `wait`, one step, `report`."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def ready(self) -> None:
        """All is loaded: on a CPU memory is counted from here."""
        self.loaded = peak_resident_bytes()
        self.connection.send({})

    def wait(self) -> None:
        """Blocks until it is this side's turn; then the clock runs."""
        self.connection.recv()
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        self.start = clock()

    def report(self, seconds: Mapping[str, float], **facts) -> None:
        """Ends the turn. seconds: of its phases; "update" is all but "rollout" and "scoring".

        "memory" is a peak in MiB: on a GPU what PyTorch allocated in this turn, else what the
        process took beyond what it had loaded. facts: more of the row, or other values for it.
        """
        total = clock() - self.start
        memory = (peak_resident_bytes() - self.loaded) / MIB
        if torch.cuda.is_initialized():
            memory = torch.cuda.max_memory_allocated() / MIB
        update = total - seconds.get("rollout", 0) - seconds.get("scoring", 0)
        row = {**seconds, "update": update, "step": total, "memory": memory}
        self.connection.send(row | facts)


Side = Callable[..., None]  # (Turns, rounds, *arguments) -> None, in a process of its own


def take_turns(
    sides: Mapping[str, tuple[Side, tuple]], rounds: int, title: str, patience: float | None = None
) -> dict[str, list[dict]]:
    """Each side's reports, `rounds` of them; a round before, which warms up, is not counted.

    sides: name -> (a function of a module, its arguments after `turns` and `rounds`). Raises
    SideFailedError if a side fails, or says nothing for `patience` seconds.
    """
    rows: dict[str, list[dict]] = {name: [] for name in sides}
    order = deque(sides)
    with ExitStack() as stack:
        ends = {
            name: stack.enter_context(_process(function, rounds + 1, arguments))
            for name, (function, arguments) in sides.items()
        }
        for name, end in ends.items():
            _receive(name, end, patience)
        for _ in tqdm(range(rounds + 1), title):
            for name in order:
                ends[name].send("your turn")
                rows[name].append(_receive(name, ends[name], patience))
            order.rotate(-1)
    return {name: reports[1:] for name, reports in rows.items()}


@contextmanager
def _process(function: Side, rounds: int, arguments: tuple) -> Iterator[Connection]:
    """Our end of the pipe to a side's process; left by an exception, the process ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, function, rounds, arguments)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()


def _serve(connection: Connection, function: Side, rounds: int, arguments: tuple) -> None:
    torch.set_num_threads(1)  # on a CPU every side has one, whatever it would take by itself
    try:
        function(Turns(connection), rounds, *arguments)
    except Exception as error:
        connection.send(str(error) or repr(error))
        raise


def _receive(name: str, end: Connection, patience: float | None) -> dict:
    if not end.poll(patience):
        raise SideFailedError(f"{name}: not done after {patience:.0f} s")
    try:
        report = end.recv()
    except EOFError:
        raise SideFailedError(f"{name}: its process ended without a word") from None
    if isinstance(report, str):
        raise SideFailedError(f"{name}: {report}")
    return report


def clock() -> float:
    """Seconds, once a GPU that this process uses has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
