"""Train and evaluate one run in this process, and write its outcome.json."""

from __future__ import annotations

import time
from collections.abc import Sequence

from foodseg.ablations.rows import BOUND
from foodseg.ablations.runs import Run, Runs
from foodseg.ablations.two_stages import make_base
from foodseg.common.errors import DataError
from foodseg.common.files import read_lines, write_json, writing
from foodseg.common.lock import alone
from foodseg.data.samples import Sample
from foodseg.evaluation.evaluate import evaluate, evaluate_bound
from foodseg.presets import Preset
from foodseg.recipes import Recipe
from foodseg.report.cards.model import write_card
from foodseg.rl.dynamic_sampling import NoSignalError
from foodseg.supervised.evaluation import evaluate_baseline
from foodseg.supervised.targets import Baseline
from foodseg.supervised.training import train_baseline
from foodseg.system import find_decoder, load_policy, load_segmenter
from foodseg.training.trainer import train

# What an outcome has of its evaluation's result.
KEPT = ("giou", "ciou", "parse_rate", "foods_right", "adapter", "commit")
KEPT += ("device", "processor", "versions")


def execute(runs: Runs, run: Run) -> dict:
    """Train or go on, evaluate, write outcome.json; returns the outcome.

    A NoSignalError is a result, written as a failure. Any other error is written and raised, and
    the run is to be tried again. Raises DataError if another process is at this run.
    """
    started = time.perf_counter()
    folder, identity = runs.folder(run), runs.identity(run)
    with alone(folder):
        with writing(folder / "outcome.json"):
            (folder / "outcome.json").unlink(missing_ok=True)
        outcome = {"row": run.row.name, "seed": run.seed, "identity": identity}
        try:
            outcome |= _train_and_evaluate(runs, run)
        except NoSignalError as error:
            outcome |= {"failure": f"NoSignalError: {error}"}
        except Exception as error:
            write_failure(runs, run, f"{type(error).__name__}: {error}")
            raise
        outcome["wall_seconds"] = round(time.perf_counter() - started, 1)
        write_json(folder / "outcome.json", outcome)
    return outcome


def train_as_worker(runs: Runs, run: Run) -> None:
    """This rank's part of a multi-GPU training of a recipe; rank 0 calls `execute` instead."""
    if not isinstance(run.method, Recipe) or run.first:
        fix = "only recipes on the preset's base train in several processes; start one"
        raise DataError(f"{run.row.name}: {fix}.")
    train(runs.preset, run.method, run.seed, runs.samples(run.split)[0])


def write_failure(runs: Runs, run: Run, reason: str) -> None:
    """Write an outcome.json with the reason, for a run that is to be tried again."""
    outcome = {"row": run.row.name, "seed": run.seed, "identity": runs.identity(run)}
    write_json(runs.folder(run) / "outcome.json", outcome | {"failure": reason, "again": True})


def _train_and_evaluate(runs: Runs, run: Run) -> dict:
    learning, asked = runs.samples(run.split)
    training, peak = {}, None
    make_base(runs, run)
    preset = runs.preset_of(run)
    if run.method:
        train_one = train_baseline if isinstance(run.method, Baseline) else train
        training = train_one(preset, run.method, run.seed, learning)
        peak = max(row["peak_memory_mb"] for row in read_lines(runs.log(run)))
    evaluation = _evaluate(preset, run, asked)
    if isinstance(run.method, Recipe) and not run.first:  # a card names a base that others have
        write_card(runs.run_folder(run))
    costs = {"seconds": training.get("seconds"), "steps": training.get("steps", 0)}
    return {name: evaluation[name] for name in KEPT} | costs | {"peak_memory_mb": peak}


def _evaluate(preset: Preset, run: Run, samples: Sequence[Sample]) -> dict:
    if run.row == BOUND:
        return evaluate_bound(preset, samples, load_segmenter(preset))
    if isinstance(run.method, Baseline):
        return evaluate_baseline(preset, run.method, run.seed, samples)[0]
    if run.method is None:
        return evaluate(preset, run.name, samples, load_policy(preset), load_segmenter(preset))
    adapter = preset.run_folder(run.method.name, run.seed) / "adapter"
    mllm = load_policy(preset, run.method.prompt)
    mllm.load_adapter(adapter)
    segmenter = load_segmenter(preset, find_decoder(adapter))
    return evaluate(preset, run.name, samples, mllm, segmenter, run.method.labelled_points)
