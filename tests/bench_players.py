"""Sides for `bench.paired_timing` without a model; their processes import this module only."""

import os
import time
from pathlib import Path


def diary(turns, rounds: int, name: str, path: str) -> None:
    """Writes when it works, and reports phases of known length."""
    turns.ready()
    for turn in range(rounds):
        turns.wait()
        with Path(path).open("a") as file:
            file.write(f"{name}{turn} ")
        block = bytearray(64 * 2**20) if name == "a" else b""
        time.sleep(0.05)
        turns.report({"rollout": 0.01 * (turn + 1), "scoring": len(block) * 0.0}, turn=turn)


def broken(turns, rounds: int) -> None:
    turns.ready()
    turns.wait()
    raise ValueError("this side can't do its step")


def gone(turns, rounds: int) -> None:
    os._exit(1)


def slow(turns, rounds: int) -> None:
    turns.ready()
    time.sleep(60)
