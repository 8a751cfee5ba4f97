"""The preset's trainings, finished or running, read from their logs."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from foodseg.common.errors import DataError
from foodseg.common.files import parse_json
from foodseg.presets import Preset
from foodseg.report.curves import LIVE_PANELS, example_completions, run_curves
from foodseg.report.style import to_png

EXAMPLES = 4
_COLUMNS = {column for columns in LIVE_PANELS.values() for column in columns}


def list_runs(preset: Preset) -> list[str]:
    """Names of the runs that have logged a step of reinforcement, the last written first."""
    logs = preset.runs_folder.glob("*/log.jsonl")
    learnt = [log for log in logs if _COLUMNS <= _first_row(log).keys()]
    newest = sorted(learnt, key=lambda log: log.stat().st_mtime, reverse=True)
    return [log.parent.name for log in newest]


def find_log(preset: Preset, run: str) -> Path:
    """The log of one of `list_runs`; raises DataError for another name."""
    if run not in list_runs(preset):
        raise DataError(f"{run}: no run of that name has a log; choose another.")
    return preset.runs_folder / run / "log.jsonl"


def read_log(log: Path) -> pd.DataFrame:
    """A row a step; the last line of a running training may be half written, and is left out.

    Raises DataError for a log that is broken elsewhere.
    """
    lines = log.read_bytes().rpartition(b"\n")[0].splitlines()
    return pd.DataFrame([parse_json(log, "", line) for line in lines])


def _first_row(log: Path) -> dict:
    with log.open("rb") as file:
        line = file.readline()
    return parse_json(log, "", line) if line.endswith(b"\n") else {}


def state_of(log: Path) -> tuple[int, int, bool]:
    """Changes with the log, or when the run ends: what was drawn once need not be drawn again."""
    stat = log.stat()
    return stat.st_size, stat.st_mtime_ns, (log.parent / "result.json").exists()


def describe_run(log: Path, rows: pd.DataFrame) -> str:
    """Whether it runs, and where it stands, in one sentence."""
    steps, last = len(rows), rows.iloc[-1]
    where = f"step {steps}: reward {last['reward_total']:.2f} of 7, {last['parse_rate']:.0%} parse"
    if (log.parent / "result.json").exists():
        return f"Finished. At its last, {where}."
    seconds = max(time.time() - log.stat().st_mtime, 0)
    return f"Not finished. At {where}; written {_ago(seconds)} ago."


def curves_png(run: str, rows: pd.DataFrame) -> bytes:
    """The run's curves, as notebooks 04 and 05 draw them."""
    return to_png(run_curves(rows, run))


def examples(rows: pd.DataFrame) -> list[dict]:
    """Logged completions of steps spread over the run, the last one first."""
    return example_completions(rows, EXAMPLES).iloc[::-1].to_dict("records")


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
