"""`python -m foodseg.ablations.rounding`: GRPO and DAPO where the processor rounds otherwise.

A processor with other instructions adds numbers up in another order. Here this one does: torch and
oneDNN are held to an older set, which changes last bits and nothing else. What `make` trained is
trained once more so, each run going on where it was stopped; then figures/rounding.{md,csv} is
written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from foodseg.ablations.frame import ended_runs
from foodseg.ablations.rows import Row, choose_rows
from foodseg.ablations.run_all import child_command, run_all
from foodseg.ablations.runs import Run, Runs, runs_of
from foodseg.common.errors import DataError
from foodseg.common.files import read_lines
from foodseg.common.number_text import NOTHING, number_text, signed_interval, with_deviation
from foodseg.common.progress import tqdm
from foodseg.common.tables import to_markdown, write_csv, write_markdown
from foodseg.evaluation.predictions import paired_difference, scores
from foodseg.presets import KITCHEN, KITCHEN_ROUNDING, SMOKE, SMOKE_ROUNDING, parse_seeds
from foodseg.report.results import caption

PRESETS = {KITCHEN.name: (KITCHEN, KITCHEN_ROUNDING), SMOKE.name: (SMOKE, SMOKE_ROUNDING)}
ROWS = "base,grpo,dapo"
# What torch calls the processor's instructions, and the next older for torch and for oneDNN.
OLDER = {"AVX512": ("avx2", "AVX2"), "AVX2": ("default", "SSE41")}
READING = """\
Every row twice: with the instructions that torch takes on this processor, and held to an older set,
{settings}.
The older set rounds otherwise, as a processor with other instructions does; seed, questions,
weights and what the code computes are the same. Mean ± standard deviation over seeds; 95% intervals
over plates and seeds. **Part at**: the step at which a seed's two trainings first earn other
rewards. **Two roundings**: how far one seed's two trainings end apart in gIoU, in the mean; **two
seeds**: how far two seeds of one column do. Where these are alike, a machine that rounds otherwise
gives one more seed, no other result. A "+" after a commit: with changes that were not
committed."""
ORIGIN = ("commit", "processor", "torch", "adapter")


def older_instructions(capability: str) -> dict[str, str]:
    """Environment that holds a process to the instructions before `capability` (torch's name).

    Raises DataError where there is no older set to choose.
    """
    if capability not in OLDER:
        known = " or ".join(OLDER)
        raise DataError(f"rounding: this processor has {capability}; it takes one with {known}.")
    return dict(zip(("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"), OLDER[capability], strict=True))


def older_command(settings: dict[str, str], older: Runs, run: Run) -> list[str]:
    """What executes one run with the older instructions."""
    held = [f"{name}={value}" for name, value in settings.items()]
    return ["env", *held, *child_command(older, run)]


def rounding_frame(
    usual: Runs, older: Runs, rows: Sequence[Row], seeds: Sequence[int]
) -> pd.DataFrame:
    """One line for each row with runs of both roundings, over the seeds that have both.

    giou, giou_older: means, with *_sd over seeds. difference: older less usual, with its 95%
    interval (low, high) over plates and seeds. two_roundings, two_seeds: mean absolute differences
    in gIoU; NaN of one seed. parts_least, parts_most: of `parting_step`, NaN without a training.
    """
    lines = {}
    for row in rows:
        wanted = runs_of([row], seeds)
        both = [run for run in wanted if all(ended_runs(runs, [run]) for runs in (usual, older))]
        if both:
            lines[row.name] = {"title": row.title, "seeds": len(both), **_line(usual, older, both)}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")


def _line(usual: Runs, older: Runs, both: Sequence[Run]) -> dict:
    before, after = usual.predictions(both), older.predictions(both)
    gious = np.array([[scores(run)["giou"] for run in runs] for runs in (before, after)])
    means, deviations = gious.mean(1), [pd.Series(row).std() for row in gious]
    steps = [parting_step(usual.log(run), older.log(run)) for run in both if run.row.trained]
    return {
        **dict(zip(("giou", "giou_older"), means, strict=True)),
        **dict(zip(("giou_sd", "giou_older_sd"), deviations, strict=True)),
        **dict(zip(("difference", "low", "high"), paired_difference(after, before), strict=True)),
        "two_roundings": float(np.abs(gious[1] - gious[0]).mean()),
        "two_seeds": float(np.mean([_mean_gap(row) for row in gious])),
        "parts_least": min(steps, default=np.nan),
        "parts_most": max(steps, default=np.nan),
    }


def _mean_gap(scores: Sequence[float]) -> float:
    """The mean absolute difference of two of them; NaN of one."""
    gaps = [abs(one - other) for one, other in combinations(scores, 2)]
    return float(np.mean(gaps)) if gaps else np.nan


def parting_step(log: Path, other: Path) -> float:
    """The first step, from 1, in which two trainings' mean rewards differ; NaN if none does."""
    for row, its in zip(read_lines(log), read_lines(other), strict=False):
        if row["reward_total"] != its["reward_total"]:
            return row["step"]
    return np.nan


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as text; "–" where nothing was measured."""
    lines = {}
    for row in frame.itertuples():
        least, most = row.parts_least, row.parts_most
        span = "{:.0f}" if least == most else "{:.0f} to {:.0f}"
        lines[row.title] = {
            "gIoU": with_deviation(row.giou, row.giou_sd),
            "gIoU, older": with_deviation(row.giou_older, row.giou_older_sd),
            "older less usual, 95%": signed_interval(row.difference, row.low, row.high),
            "part at": number_text(span, least, most),
            "two roundings": number_text("{:.3f}", row.two_roundings),
            "two seeds": number_text("{:.3f}", row.two_seeds),
            "seeds": str(row.seeds),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")


def origin(usual: Runs, older: Runs, runs: Sequence[Run]) -> pd.DataFrame:
    """Commit, processor, torch and adapter of every run of either rounding that has scores."""
    lines = {}
    for title, where in (("usual", usual), ("older", older)):
        for run in ended_runs(where, runs):
            outcome = where.outcome(run)
            flat = outcome | outcome["versions"]
            lines[f"{run.title}, {title}"] = [flat[name] or NOTHING for name in ORIGIN]
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=[*ORIGIN])
    return frame.rename_axis("run")


def write_page(
    usual: Runs, older: Runs, seeds: Sequence[int], settings: dict[str, str], path: Path
) -> None:
    """Write the page and its numbers; path: without a suffix.

    Raises DataError where nothing can be compared.
    """
    rows = choose_rows(ROWS)
    frame = rounding_frame(usual, older, rows, seeds)
    if frame.empty:
        raise DataError(f"rounding: nothing to compare yet; `make PRESET={usual.preset.name}`.")
    names = " ".join(f"{name}={value}" for name, value in settings.items())
    written = [
        "# The same seeds where the processor rounds otherwise",
        caption(usual.preset),
        READING.format(settings=f"`{names}`"),
        to_markdown(readable(frame)),
        "Made by `python -m foodseg.ablations.rounding`, after `make`.",
        "## Where each run comes from",
        to_markdown(origin(usual, older, runs_of(rows, seeds))),
    ]
    write_markdown(path.with_suffix(".md"), written)
    write_csv(path.with_suffix(".csv"), frame)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 if a run failed or the input can't be used."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.ablations.rounding")
    parser.add_argument("--preset", choices=PRESETS, default=KITCHEN.name)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, help="runs at once (default: one for each core)")
    options = parser.parse_args(arguments)
    preset, other = PRESETS[options.preset]
    usual, older = Runs(preset), Runs(other)
    try:
        seeds = parse_seeds(options.seeds)
        settings = older_instructions(torch.backends.cpu.get_cpu_capability())
        wanted = runs_of(choose_rows(ROWS), seeds)
        failed = run_all(older, wanted, options.jobs, partial(older_command, settings))
        write_page(usual, older, seeds, settings, preset.figures / "rounding")
    except DataError as error:
        print(f"rounding: {error}", file=sys.stderr)
        return 1
    tqdm.write(f"{preset.figures / 'rounding.md'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
