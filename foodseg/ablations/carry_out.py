"""Train and evaluate one run in this process, and write down what came of it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foodseg.ablations.rows import BOUND
from foodseg.ablations.runs import Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.files import read_lines, write_json
from foodseg.data.samples import Sample
from foodseg.evaluation.evaluate import evaluate, evaluate_bound
from foodseg.models.segmenter import DECODER, load_decoder
from foodseg.presets import Preset
from foodseg.recipes import Recipe
from foodseg.report.cards.model import write_card
from foodseg.rl.dynamic_sampling import NoSignalError
from foodseg.supervised.evaluation import evaluate_baseline
from foodseg.supervised.targets import Baseline
from foodseg.supervised.training import train_baseline
from foodseg.system import load_policy, load_segmenter
from foodseg.training.trainer import train


def carry_out(runs: Runs, run: Run) -> dict:
    """The run's outcome, written to outcome.json; an interrupted training goes on.

    A run that fails leaves its reason and the error goes on to the caller, but for NoSignalError:
    that a recipe finds nothing to learn from is a result, and is not tried again. Raises DataError
    when another process is at this run.
    """
    started = time.perf_counter()
    folder, identity = runs.folder(run), runs.identity(run)
    with _alone(folder):
        (folder / "outcome.json").unlink(missing_ok=True)
        outcome = {"row": run.row.name, "seed": run.seed, "identity": identity}
        try:
            outcome |= _train_and_evaluate(runs, run)
        except NoSignalError as error:
            outcome |= {"failure": f"NoSignalError: {error}"}
        except Exception as error:
            note_failure(runs, run, f"{type(error).__name__}: {error}")
            raise
        outcome["wall_seconds"] = round(time.perf_counter() - started, 1)
        write_json(folder / "outcome.json", outcome)
    return outcome


def help_training(runs: Runs, run: Run) -> None:
    """What a process beside the main one does under `accelerate launch`: its part of the training.

    Raises DataError for a row that only one process can train.
    """
    if not isinstance(run.method, Recipe):
        raise DataError(f"{run.row.name}: only recipes train in several processes; start one.")
    train(runs.preset, run.method, run.seed, runs.samples(run.split)[0])


def note_failure(runs: Runs, run: Run, reason: str) -> None:
    """Write a reason into outcome.json for a run that is to be tried again."""
    outcome = {"row": run.row.name, "seed": run.seed, "identity": runs.identity(run)}
    write_json(runs.folder(run) / "outcome.json", outcome | {"failure": reason, "again": True})


def _train_and_evaluate(runs: Runs, run: Run) -> dict:
    preset = runs.preset
    learning, asked = runs.samples(run.split)
    if run.row == BOUND:
        return _result(evaluate_bound(preset, asked, load_segmenter(preset)), {}, None)
    if run.method is None:
        evaluation = evaluate(preset, run.name, asked, load_policy(preset), load_segmenter(preset))
        return _result(evaluation, {}, None)
    carry = _baseline if isinstance(run.method, Baseline) else _recipe
    training, evaluation = carry(preset, run, learning, asked)
    return _result(evaluation, training, _peak_memory(runs.log(run)))


def _baseline(preset: Preset, run: Run, learning: list[Sample], asked: list[Sample]):
    training = train_baseline(preset, run.method, run.seed, learning)
    return training, evaluate_baseline(preset, run.method, run.seed, asked)[0]


def _recipe(preset: Preset, run: Run, learning: list[Sample], asked: list[Sample]):
    recipe, folder = run.method, preset.run_folder(run.method.name, run.seed)
    training = train(preset, recipe, run.seed, learning)
    mllm, segmenter = load_policy(preset, recipe.prompt_suffix), load_segmenter(preset)
    mllm.load_adapter(folder / "adapter")
    if recipe.tool:
        load_decoder(segmenter, folder / "adapter" / DECODER)
    evaluation = evaluate(preset, run.name, asked, mllm, segmenter)
    write_card(folder)
    return training, evaluation


def _peak_memory(log: Path) -> float:
    """The most that the training took, in MB, as its log has it."""
    return max(row["peak_memory_mb"] for row in read_lines(log))


def _result(evaluation: dict, training: dict, peak: float | None) -> dict:
    kept = ("giou", "ciou", "parse_rate", "foods_right", "adapter", "commit", "device", "versions")
    return {name: evaluation[name] for name in kept} | {
        "seconds": training.get("seconds"),
        "steps": training.get("steps", 0),
        "peak_memory_mb": peak,
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two processes must not train in one folder; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder.name}: another process is at this run; wait for it."
            ) from None
        yield
