"""The first of two stages: a fine-tuned model, merged, as the base of a training by rewards."""

from __future__ import annotations

from pathlib import Path

from foodseg.ablations.runs import Run, Runs
from foodseg.merge import merge
from foodseg.supervised.training import train_baseline


def make_base(runs: Runs, run: Run) -> None:
    """Train and merge what this run goes on from, as far as that is not done.

    Raises as `train_baseline` and `merge`.
    """
    first = run.first
    if first is None:
        return
    train_baseline(runs.preset, first.method, first.seed, runs.samples(first.split)[0])
    base = Path(runs.preset_of(run).mllm)
    if not base.exists():
        merge(runs.run_folder(first), base, runs.preset)
