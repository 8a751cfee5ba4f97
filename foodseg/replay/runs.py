"""The finished runs of a preset, as their logs have them: one of each method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import load_json, read_lines
from foodseg.presets import Preset
from foodseg.recipes import DAPO, GRPO

FIRST = (GRPO.name, DAPO.name)
AGAIN = "Its log has no answers of earlier steps, since an older version wrote it: train it again."


@dataclass(frozen=True, eq=False)
class Run:
    """A run of reinforcement. recipe: as its config.json has it. rows: of its log."""

    folder: Path
    recipe: dict
    seed: int
    result: dict
    rows: list[dict]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        return self.recipe["title"]

    @property
    def looks(self) -> list[dict]:
        """The log's rows that have answers or a group (`training.watched`)."""
        return [row for row in self.rows if "watched" in row or "watched_after" in row]

    @property
    def problem(self) -> str:
        """Why it can't be seen again, in a sentence; "" if it can."""
        return "" if self.looks and "watched_after" in self.rows[-1] else AGAIN


def find_runs(preset: Preset) -> list[Run]:
    """Of each method the run of the lowest seed that can be seen again, else of the lowest.

    GRPO and DAPO first. Raises DataError if no run is finished, or if none can be seen again.
    """
    found: dict[str, Run] = {}
    for run in sorted(_finished(preset), key=lambda run: (bool(run.problem), run.seed)):
        found.setdefault(run.recipe["name"], run)
    if not found:
        fix = "no run of reinforcement is finished; `make` trains GRPO, DAPO"
        raise DataError(f"{preset.runs_folder}: {fix}.")
    if all(run.problem for run in found.values()):
        names = ", ".join(sorted(run.name for run in found.values()))
        raise DataError(f"{names}: no log has answers of earlier steps; train again: `make`.")
    first = [name for name in FIRST if name in found]
    return [found[name] for name in (*first, *sorted(found.keys() - set(FIRST)))]


def _finished(preset: Preset) -> list[Run]:
    runs = []
    for file in sorted(preset.runs_folder.glob("*/result.json")):
        folder = file.parent
        if (folder / "log.jsonl").exists():
            rows, result = read_lines(folder / "log.jsonl"), load_json(file)
            recipe, seed = result.get("recipe"), result.get("seed")
            # Supervised runs have no reward; notebook 04's of one step has nothing to go through.
            steps = len(rows) > 1 and "reward_total" in rows[0]
            # A run that was moved aside has another name.
            if steps and folder.name == f"{recipe['name']}-seed{seed}":
                runs.append(Run(folder, recipe, seed, result, rows))
    return runs
