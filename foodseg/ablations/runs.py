"""One run of one row: its folders, what decides its scores, and its outcome.

runs/<preset>/ablations/<run>/ holds output.txt (what its process printed) and outcome.json: its
scores, their origin, seconds and memory, or why it failed. The training's folder is the one that
notebooks 04 and 05 use, so what they have trained is not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from foodseg.ablations.rows import BOUND, Row, choose_rows
from foodseg.ablations.validation import validation_split
from foodseg.common.errors import DataError
from foodseg.common.files import load_json
from foodseg.data.samples import Sample, load_samples, samples_hash
from foodseg.evaluation.predictions import Prediction, load_predictions
from foodseg.evaluation.unfinished import EVALUATION_FIELDS
from foodseg.presets import KITCHEN, Preset, require
from foodseg.recipes import Recipe
from foodseg.supervised.targets import Baseline
from foodseg.supervised.training import baseline_config
from foodseg.training.identity import as_json, run_config, used_code

SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Run:
    """A row with one seed, evaluated on the test plates or on the validation plates."""

    row: Row
    seed: int = 0
    split: str = "test"

    @property
    def method(self) -> Recipe | Baseline | None:
        """The row's method; for validation under a name of its own, so in a folder of its own."""
        if self.row.method is None or self.split == "test":
            return self.row.method
        return replace(self.row.method, name=f"{self.row.name}-{self.split}")

    @property
    def name(self) -> str:
        """Names the run's folder and its predictions."""
        if self.method:
            return f"{self.method.name}-seed{self.seed}"
        return self.row.name if self.split == "test" else f"{self.row.name}-{self.split}"

    @property
    def title(self) -> str:
        return f"{self.row.title}, seed {self.seed}" if self.row.trained else self.row.title

    @property
    def first(self) -> Run | None:
        """The run whose trained model is this one's base; None where that is the preset's."""
        if not self.row.after:
            return None
        (row,) = choose_rows(self.row.after)
        return Run(row, self.seed, self.split)

    def arguments(self, preset: Preset) -> list[str]:
        """What `python -m foodseg.ablations` takes for this run, without its defaults."""
        seed = ["--seed", str(self.seed)] if self.row.trained else []
        split = ["--split", self.split] if self.split != "test" else []
        scale = ["--preset", preset.name] if preset.name != KITCHEN.name else []
        return [self.row.name, *seed, *split, *scale]

    def command(self, preset: Preset) -> str:
        """The shell command of this run, from the checkout's folder."""
        return " ".join(["python -m foodseg.ablations", *self.arguments(preset)])


def runs_of(rows: list[Row], seeds: list[int], split: str = "test") -> list[Run]:
    """Every row with every seed, seed by seed, so that each row has a result early on."""
    # The bound is the test questions' own.
    untrained = [row for row in rows if not row.trained and (split == "test" or row != BOUND)]
    trained = [row for row in rows if row.trained]
    # A run of many times the length is made once.
    long = [row for row in trained if isinstance(row.method, Recipe) and row.method.budget > 1]
    once = [Run(row, split=split) for row in untrained]
    seeded = [Run(row, seed, split) for seed in seeds for row in trained if row not in long]
    return [*once, *seeded, *(Run(row, seed, split) for row in long for seed in seeds[:1])]


@dataclass(frozen=True)
class Runs:
    """The runs of one preset on disk."""

    preset: Preset

    def samples(self, split: str) -> tuple[list[Sample], list[Sample]]:
        """(to learn from, to evaluate on), for the test plates or for the validation plates."""
        notebook = "01_build_foodreasonseg_single"
        train = load_samples(require(self.preset.samples_file("train"), notebook))
        if split == "validation":
            return validation_split(train)
        return train, load_samples(require(self.preset.samples_file("test"), notebook))

    def folder(self, run: Run) -> Path:
        """Where outcome.json and output.txt are."""
        return self.preset.runs_folder / "ablations" / run.name

    def run_folder(self, run: Run) -> Path:
        """Where the training is; there is none of a row that is not trained."""
        return self.preset.runs_folder / run.name

    def log(self, run: Run) -> Path:
        """The training's row for each step."""
        return self.run_folder(run) / "log.jsonl"

    def predictions(self, runs: Sequence[Run]) -> list[list[Prediction]]:
        """The answers of runs that were evaluated."""
        return [load_predictions(self.preset.predictions_folder(run.name)) for run in runs]

    def preset_of(self, run: Run) -> Preset:
        """The preset, with the model that the run goes on from as its base.

        Raises DataError if that is not trained yet.
        """
        first = run.first
        if first is None:
            return self.preset
        result = self.run_folder(first) / "result.json"
        if not result.exists():
            raise DataError(f"{result.parent}: not trained yet; `{first.command(self.preset)}`.")
        # Trained anew, it is another base.
        merged = f"{first.name}-{load_json(result)['adapter']}"
        return replace(self.preset, mllm=str(self.preset.runs_folder / "merged" / merged))

    def outcome(self, run: Run) -> dict | None:
        """The run's outcome.json, current or not; None before it ended, or if it is broken."""
        path = self.folder(run) / "outcome.json"
        try:
            return load_json(path) if path.exists() else None
        except DataError:  # a broken one is made again, which trains nothing
            return None

    def finished(self, run: Run) -> bool:
        """Whether its outcome is there, of today's configuration, and need not be tried again."""
        outcome = self.outcome(run)
        if outcome is None or outcome.get("again"):
            return False
        result = self.preset.predictions_folder(run.name) / "result.json"
        kept = "failure" in outcome or result.exists()
        return kept and self.same(outcome["identity"], self.identity(run))

    def same(self, before: dict, today: dict) -> bool:
        """Whether a run of the identity `before` stands for one of today's."""
        return before == today

    def identity(self, run: Run) -> dict:
        """All that decides the run's scores, as JSON values; trained weights follow from it."""
        baseline = isinstance(run.method, Baseline)
        training = run.method and self.config(run, self.preset)
        if run.first:
            base = {"run": run.first.name, "training": self.config(run.first, self.preset)}
            training |= {"base": base}
        asked = self._samples[run.split][1]
        evaluation = {
            "preset": {name: as_json(getattr(self.preset, name)) for name in EVALUATION_FIELDS},
            **self.preset.weights,
            "questions": samples_hash(asked),
            "code": _evaluation_code(baseline),
        }
        return json.loads(json.dumps({"training": training, "evaluation": evaluation}))

    def config(self, run: Run, preset: Preset) -> dict:
        """What the run's training on that preset writes to its config.json."""
        config = baseline_config if isinstance(run.method, Baseline) else run_config
        return config(preset, run.method, run.seed, self._samples[run.split][0])

    @cached_property
    def _samples(self) -> dict[str, tuple[list[Sample], list[Sample]]]:
        return {split: self.samples(split) for split in SPLITS}


class RunsOfAnyCode(Runs):
    """The same, where a run of today's settings is current whichever commit's code made it."""

    def same(self, before: dict, today: dict) -> bool:
        return same_settings(before, today)


def same_settings(before: Any, today: Any) -> bool:
    """Whether two identities differ in nothing but hashes of code.

    A setting that only one of them has must be off there: the other's code did without it.
    """
    if isinstance(before, dict) and isinstance(today, dict):
        names = (before.keys() | today.keys()) - {"code", "source"}
        both = before.keys() & today.keys()
        return all(
            same_settings(before[name], today[name])
            if name in both
            else not (before.get(name) or today.get(name))
            for name in names
        )
    if isinstance(before, list) and isinstance(today, list) and len(before) == len(today):
        return all(map(same_settings, before, today))
    return before == today


@cache
def _evaluation_code(baseline: bool) -> str:
    """Hashed once: a process keeps the code that it has loaded."""
    module = "foodseg.supervised.evaluation" if baseline else "foodseg.evaluation.evaluate"
    return used_code([module])
