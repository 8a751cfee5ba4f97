"""One run of one row: which folder it has, what decides its result, and what came of it.

runs/<preset>/ablations/<run>/ holds output.txt (what its process said) and outcome.json: its
scores' origin, seconds and memory, or why it failed. The training's own folder is beside it, as
notebooks 04 and 05 leave it, so what they have trained is not trained again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from foodseg.ablations.rows import BOUND, Row
from foodseg.ablations.validation import validation_split
from foodseg.common.files import file_hash
from foodseg.data.samples import Sample, load_samples
from foodseg.presets import KITCHEN, Preset, require
from foodseg.recipes import Recipe
from foodseg.supervised.targets import Baseline
from foodseg.supervised.training import baseline_config
from foodseg.training.identity import run_config, used_code

SPLITS = ("test", "validation")
# What evaluates a row, by whether it is a supervised baseline.
_EVALUATIONS = {False: "foodseg.evaluation.evaluate", True: "foodseg.supervised.evaluation"}


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

    def arguments(self, preset: Preset) -> list[str]:
        """What `python -m foodseg.ablations` takes for this run, without its defaults."""
        seed = ["--seed", str(self.seed)] if self.row.trained else []
        split = ["--split", self.split] if self.split != "test" else []
        scale = ["--preset", preset.name] if preset.name != KITCHEN.name else []
        return [self.row.name, *seed, *split, *scale]

    def command(self, preset: Preset) -> str:
        """What makes this run, typed in the checkout."""
        return " ".join(["python -m foodseg.ablations", *self.arguments(preset)])


def runs_of(rows: list[Row], seeds: list[int], split: str = "test") -> list[Run]:
    """Every row with every seed, a seed after the other: early on, each row has one result."""
    # The bound is the test questions' own.
    untrained = [row for row in rows if not row.trained and (split == "test" or row != BOUND)]
    trained = [row for row in rows if row.trained]
    once = [Run(row, split=split) for row in untrained]
    return [*once, *(Run(row, seed, split) for seed in seeds for row in trained)]


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
        return self.preset.predictions_folder(run.name).parents[1] / "ablations" / run.name

    def log(self, run: Run) -> Path:
        """The training's row for each step; there is none for a row that is not trained."""
        return self.preset.run_folder(run.name.rpartition("-seed")[0], run.seed) / "log.jsonl"

    def outcome(self, run: Run) -> dict | None:
        """What came of the run, current or not; None before it ended."""
        path = self.folder(run) / "outcome.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finished(self, run: Run) -> bool:
        """Whether its outcome is there, of today's configuration, and need not be tried again."""
        outcome = self.outcome(run)
        if outcome is None or outcome.get("again"):
            return False
        kept = (
            "failure" in outcome
            or (self.preset.predictions_folder(run.name) / "result.json").exists()
        )
        return kept and outcome["identity"] == self.identity(run)

    def identity(self, run: Run) -> dict:
        """All that decides the run's scores, as JSON values."""
        train, _ = self._samples[run.split]
        config = baseline_config if isinstance(run.method, Baseline) else run_config
        training = run.method and config(self.preset, run.method, run.seed, train)
        evaluation = self._evaluation[run.split, isinstance(run.method, Baseline)]
        return json.loads(json.dumps({"training": training} | evaluation))

    @cached_property
    def _samples(self) -> dict[str, tuple[list[Sample], list[Sample]]]:
        return {split: self.samples(split) for split in SPLITS}

    @cached_property
    def _evaluation(self) -> dict[tuple[str, bool], dict]:
        """What decides the evaluation, by split and by whether a supervised baseline is asked."""
        shared = {
            "segmenter": self.preset.weights["segmenter"],
            "test data": file_hash(self.preset.samples_file("test")),
            "prompt": self.preset.prompt_template,
        }
        return {
            (split, baseline): shared
            | {"split": split, "questions": len(self._samples[split][1])}
            | {"evaluation code": used_code([_EVALUATIONS[baseline]])}
            for split in SPLITS
            for baseline in (False, True)
        }
