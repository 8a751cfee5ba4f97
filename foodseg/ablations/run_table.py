"""Run what is missing, then write the table and the picture."""

from __future__ import annotations

from collections.abc import Sequence

from foodseg.ablations.page import figure_path, write_table
from foodseg.ablations.picture import ablation_curves, read_curves
from foodseg.ablations.rows import Row, all_rows
from foodseg.ablations.runner import run_all
from foodseg.ablations.runs import Runs, runs_of
from foodseg.ablations.table import ablations_frame, missing_sentence
from foodseg.report.style import save


def run_table(
    runs: Runs, rows: Sequence[Row], seeds: Sequence[int], *, split: str = "test", jobs: int
) -> int:
    """Carry out what is not finished and write what there is; returns 1 where a run failed.

    That a recipe found no signal is a result, and counts as no failure of the runner's.
    """
    failed = run_all(runs, runs_of(rows, seeds, split), jobs)
    print(write_results(runs, rows, seeds, split))
    return int(any(runs.outcome(run).get("again") for run in failed))


def write_results(
    runs: Runs, rows: Sequence[Row], seeds: Sequence[int], split: str = "test"
) -> str:
    """Write table and curves from what the runs have left; says what is there and what is missing.

    A row that was not asked for stays in the table if it has results.
    """
    rows = [row for row in all_rows() if row in rows or _has_results(runs, row, seeds, split)]
    rows = [row for row in rows if runs_of([row], seeds, split)]
    frame = ablations_frame(runs, rows, seeds, split)
    path = write_table(runs.preset, frame, split)
    logs = read_curves(runs, rows, seeds, split)
    if logs:
        curves = ablation_curves(rows, logs, runs.preset.steps)
        save(curves, figure_path(runs.preset, split))
    measured = f"{(frame['seeds'] > 0).sum()} of {len(frame)} rows measured: {path.name}"
    return " ".join([measured + ".", missing_sentence(frame, split)]).strip()


def _has_results(runs: Runs, row: Row, seeds: Sequence[int], split: str) -> bool:
    outcomes = [runs.outcome(run) for run in runs_of([row], seeds, split)]
    return any(outcome and "giou" in outcome for outcome in outcomes)
