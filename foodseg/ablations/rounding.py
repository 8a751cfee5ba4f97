"""`python -m foodseg.ablations.rounding`: the same seeds on this processor and on the records' own.

A processor of another make adds numbers up in another order, and multiplies by another library.
That changes last bits and nothing else, and shows how far the same seeds then end apart. What
`make` trained here, and any other row, is kept as records of their own, and
figures/rounding.{md,csv} is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from foodseg.ablations.frame import ended_runs
from foodseg.ablations.records import keep, restored
from foodseg.ablations.rows import Row, choose_rows
from foodseg.ablations.run_all import run_all
from foodseg.ablations.runs import Run, Runs, runs_of
from foodseg.common.errors import DataError
from foodseg.common.files import read_lines
from foodseg.common.number_text import NOTHING, number_text, signed_interval, with_deviation
from foodseg.common.tables import to_markdown, write_csv, write_markdown
from foodseg.evaluation.predictions import Prediction, paired_difference, scores
from foodseg.presets import Preset, get_preset, parse_seeds
from foodseg.recipes import Recipe
from foodseg.report.results import caption

ROWS = "base,grpo,dapo"
(DAPO,) = choose_rows("dapo")
RECORDS, OTHERS = "records", "records_other_processor"
READING = """\
Every row twice: on {first} (`records`) and on {second}
(`records_other_processor`). Weights, questions, seeds and what the code computes are the same; sums
are added up in another order, and where the make differs, by another library. Mean ± standard
deviation over seeds; 95% intervals over plates and seeds. **Part at**: the step at which a seed's
two trainings first earn other rewards. **Two processors**: how far one seed's two trainings end
apart in gIoU, in the mean; **two seeds**: how far two seeds of one column do. Where these are
alike, another processor gives one more seed, no other result. The second table has what each row
has more than DAPO: over the seeds of each processor, and over those of both."""
WHERE = ("first", "second", "both")
ORIGIN = ("commit", "processor", "torch", "adapter")


@dataclass(frozen=True)
class Measured:
    """What one run left: outcome.json, answers, and each step's mean reward if it has rewards."""

    outcome: dict
    answers: list[Prediction]
    rewards: list[float]


def measured(preset: Preset, folder: str, wanted: Sequence[Run]) -> dict[Run, Measured]:
    """Those of the runs that have scores in that folder of records."""
    with restored(preset, preset.figures / folder, wanted) as runs:
        ended = ended_runs(runs, wanted)
        answers = zip(ended, runs.predictions(ended), strict=True)
        return {run: Measured(runs.outcome(run), own, _rewards(runs, run)) for run, own in answers}


def _rewards(runs: Runs, run: Run) -> list[float]:
    if not isinstance(run.method, Recipe):  # no rewards; a loss differs by rounding from step 1 on
        return []
    return [row["reward_total"] for row in read_lines(runs.log(run))]


def rounding_frame(
    first: dict[Run, Measured], second: dict[Run, Measured], rows: Sequence[Row]
) -> pd.DataFrame:
    """One line for each row, over the seeds that both processors have.

    giou, giou_second: means, with *_sd over seeds. difference: second less first, with its 95%
    interval (low, high) over plates and seeds. two_processors, two_seeds: mean absolute differences
    in gIoU; NaN of one seed. parts_least, parts_most: of `parting_step`, NaN without a training.
    """
    lines = {}
    for row in rows:
        both = [run for run in first if run.row == row and run in second]
        if both:
            pairs = [(first[run], second[run]) for run in both]
            lines[row.name] = {"title": row.title, "seeds": len(both), **_line(pairs)}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")


def _line(pairs: Sequence[tuple[Measured, Measured]]) -> dict:
    before, after = ([one.answers for one in column] for column in zip(*pairs, strict=True))
    gious = np.array([[scores(run)["giou"] for run in runs] for runs in (before, after)])
    means, deviations = gious.mean(1), [pd.Series(row).std() for row in gious]
    steps = [parting_step(one.rewards, other.rewards) for one, other in pairs]
    parted = pd.Series(steps, dtype=float)
    return {
        **dict(zip(("giou", "giou_second"), means, strict=True)),
        **dict(zip(("giou_sd", "giou_second_sd"), deviations, strict=True)),
        **dict(zip(("difference", "low", "high"), paired_difference(after, before), strict=True)),
        "two_processors": float(np.abs(gious[1] - gious[0]).mean()),
        "two_seeds": float(np.mean([_mean_gap(row) for row in gious])),
        "parts_least": parted.min(),
        "parts_most": parted.max(),
    }


def _mean_gap(scores: Sequence[float]) -> float:
    """The mean absolute difference of two of them; NaN of one."""
    gaps = [abs(one - other) for one, other in combinations(scores, 2)]
    return float(np.mean(gaps)) if gaps else np.nan


def parting_step(rewards: Sequence[float], others: Sequence[float]) -> float:
    """The first step, from 1, in which two trainings' mean rewards differ; NaN if none does."""
    pairs = zip(rewards, others, strict=False)
    return next((step for step, (one, other) in enumerate(pairs, 1) if one != other), np.nan)


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as text; "–" where nothing was measured."""
    lines = {}
    for row in frame.itertuples():
        least, most = row.parts_least, row.parts_most
        span = "{:.0f}" if least == most else "{:.0f} to {:.0f}"
        lines[row.title] = {
            "gIoU": with_deviation(row.giou, row.giou_sd),
            "gIoU, the second": with_deviation(row.giou_second, row.giou_second_sd),
            "second less first, 95%": signed_interval(row.difference, row.low, row.high),
            "part at": number_text(span, least, most),
            "two processors": number_text("{:.3f}", row.two_processors),
            "two seeds": number_text("{:.3f}", row.two_seeds),
            "seeds": str(row.seeds),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")


def less_dapo(
    first: dict[Run, Measured], second: dict[Run, Measured], rows: Sequence[Row]
) -> pd.DataFrame:
    """Each trained row's gIoU less DAPO's on each processor and over the runs of both, as text.

    With its 95% interval over plates and seeds; without a line where either has no run of the two.
    """
    lines = {}
    for row in rows:
        own, dapo = ([_answers(runs, name) for runs in (first, second)] for name in (row, DAPO))
        if row.trained and row != DAPO and all((*own, *dapo)):
            columns = zip(WHERE, (*own, sum(own, [])), (*dapo, sum(dapo, [])), strict=True)
            lines[f"{row.title} less DAPO"] = {
                name: signed_interval(*paired_difference(*runs)) for name, *runs in columns
            }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("difference")


def _answers(runs: dict[Run, Measured], row: Row) -> list[list[Prediction]]:
    return [one.answers for run, one in runs.items() if run.row == row]


def origin(runs: dict[Run, Measured]) -> pd.DataFrame:
    """Commit, processor, torch and adapter of every run."""
    lines = {}
    for run, one in runs.items():
        flat = one.outcome | one.outcome["versions"]
        lines[run.title] = [flat[name] or NOTHING for name in ORIGIN]
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=[*ORIGIN])
    return frame.rename_axis("run")


def write_page(preset: Preset, rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """Write the page and its numbers from both folders of records; returns the page's path.

    Of these rows and seeds alone: the second folder may have others of yet another processor.

    Raises DataError where nothing can be compared.
    """
    second = measured(preset, OTHERS, runs_of(rows, seeds))
    first = measured(preset, RECORDS, list(second))
    frame, table = rounding_frame(first, second, rows), less_dapo(first, second, rows)
    if frame.empty:
        fix = f"`make PRESET={preset.name}`, then this again"
        raise DataError(f"{preset.figures / OTHERS}: no run that {RECORDS} has too; {fix}.")
    names = {"first": _processors(first), "second": _processors(second)}
    written = [
        "# The same seeds on two processors",
        caption(preset),
        READING.format(**names),
        to_markdown(readable(frame)),
        *([to_markdown(table)] if len(table) else []),
        "Made by `python -m foodseg.ablations.rounding`, after `make`.",
        "## Where each run of the first comes from",
        to_markdown(origin(first)),
        "## Where each run of the second comes from",
        to_markdown(origin(second)),
    ]
    path = preset.figures / "rounding"
    write_markdown(path.with_suffix(".md"), written)
    write_csv(path.with_suffix(".csv"), frame)
    return f"{path}.md"


def _processors(runs: dict[Run, Measured]) -> str:
    return ", ".join(sorted({one.outcome["processor"] for one in runs.values()}))


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 if a run failed or the input can't be used."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.ablations.rounding")
    parser.description = "Compare this processor's runs with the records' same seeds."
    parser.add_argument("--preset", default="kitchen", help="smoke or kitchen (default)")
    parser.add_argument("--rows", default=ROWS, help=f"separated by commas (default: {ROWS})")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, help="runs at once (default: one for each core)")
    options = parser.parse_args(arguments)
    try:
        runs, seeds = Runs(get_preset(options.preset)), parse_seeds(options.seeds)
        rows = choose_rows(options.rows)
        wanted = runs_of(rows, seeds)
        failed = run_all(runs, wanted, options.jobs)
        keep(runs, wanted, runs.preset.figures / OTHERS)
        print(write_page(runs.preset, rows, seeds))
    except DataError as error:
        print(f"rounding: {error}", file=sys.stderr)
        return 1
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
