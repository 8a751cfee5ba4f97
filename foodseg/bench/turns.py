"""Processes that take turns: one works while the others wait.

Each side of a comparison has a process of its own, for its peak memory. One step at a time, round
by round, so that whatever else the machine does slows all sides alike.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path


class Turns:
    """A side's end: `wait`, do one step, `report`, and so on."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.loaded = 0.0

    def ready(self) -> None:
        """All is loaded: memory is counted from here."""
        self.loaded = peak_mib()
        self.connection.send({})

    def wait(self) -> None:
        """Blocks until it is this side's turn; then the clock runs."""
        self.connection.recv()
        self.start = time.perf_counter()

    def report(self, **seconds: float) -> None:
        """Ends the turn with the seconds of its phases; "update" is the rest if it is not given."""
        total = time.perf_counter() - self.start
        row = {"update": total - sum(seconds.values())} | seconds
        self.connection.send(row | {"step": total, "memory": peak_mib() - self.loaded})


Side = Callable[..., None]  # (Turns, rounds, *arguments) -> None, in a process of its own


def take_turns(
    sides: dict[str, tuple[Side, tuple]],
    rounds: int,
    on_turn: Callable[[str], None] = lambda name: None,
) -> dict[str, list[dict]]:
    """Each side's reports, `rounds` of them; a round before, which warms up, is not counted.

    sides: name -> (a function of a module, its arguments after `turns` and `rounds`). on_turn: is
    called with a side's name after each of its turns. The order rotates from round to round.
    """
    rows: dict[str, list[dict]] = {name: [] for name in sides}
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        ends = {
            name: stack.enter_context(_Player(context, function, rounds + 1, arguments))
            for name, (function, arguments) in sides.items()
        }
        for name, end in ends.items():
            _receive(name, end)
        names = list(sides)
        for turn in range(rounds + 1):
            for name in _rotated(names, turn):
                ends[name].send("your turn")
                rows[name].append(_receive(name, ends[name]))
                on_turn(name)
    return {name: reports[1:] for name, reports in rows.items()}


class _Player:
    """A side's process and our end of its pipe; left early, the process ends."""

    def __init__(self, context, function: Side, rounds: int, arguments: tuple):
        self.end, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, function, rounds, arguments), daemon=True
        )
        self.process.start()
        theirs.close()

    def __enter__(self) -> Connection:
        return self.end

    def __exit__(self, failure, *_) -> None:
        if failure:
            self.process.terminate()
        self.process.join()


def _serve(connection: Connection, function: Side, rounds: int, arguments: tuple) -> None:
    function(Turns(connection), rounds, *arguments)


def _receive(name: str, end: Connection) -> dict:
    try:
        return end.recv()
    except EOFError:
        raise RuntimeError(f"{name}: its process ended early; the reason stands above.") from None


def _rotated(names: Sequence[str], turn: int) -> list[str]:
    shift = turn % len(names)
    return [*names[shift:], *names[:shift]]


def peak_mib() -> float:
    """This process's peak resident memory so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage's figure starts at the parent's
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
