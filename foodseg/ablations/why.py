"""`python -m foodseg.ablations.why`: which trainings on disk are today's, and why others aren't.

A run is made again when what decides its bits has changed (`training.identity`). What differs is
named: a setting with its two values, data, weights, or the files whose code changed since.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from foodseg.ablations.rows import choose_rows
from foodseg.ablations.runs import Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.files import PROJECT, load_json
from foodseg.common.imports import bare_code, module_file
from foodseg.presets import get_preset
from foodseg.recipes import Recipe
from foodseg.training.identity import recipe_modules, used_modules

MISSING = "nothing"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 where there is nothing to tell about."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.ablations.why")
    parser.description = "Which trainings are today's, and why the others would be made again."
    parser.add_argument("--preset", default="kitchen", help="smoke, kitchen (default) or paper")
    try:
        runs = Runs(get_preset(parser.parse_args(arguments).preset))
        lines = [f"{folder.name}: {reason(runs, folder)}" for folder in folders(runs)]
    except DataError as error:
        print(f"why: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines) or f"preset {runs.preset.name}: nothing has been trained.")
    return 0


def folders(runs: Runs) -> list[Path]:
    """The folders of trainings that are there, finished or not."""
    return sorted(path.parent for path in runs.preset.runs_folder.glob("*-seed*/config.json"))


def reason(runs: Runs, folder: Path) -> str:
    """Whether the folder's run is today's, in words; else what it differs in."""
    run = run_of(folder.name)
    if run is None:
        return "no row of `make ablations` has this name: nothing makes it again"
    try:
        before = load_json(folder / "config.json")
    except DataError as error:
        return str(error)
    try:
        today = json.loads(json.dumps(runs.config(run, runs.preset_of(run))))
    except DataError as error:  # what it goes on from is not there
        return str(error)
    found = list(differences(before, today))
    if not found:
        return "today's" if (folder / "result.json").exists() else "today's, unfinished"
    if "code" in found:
        found[found.index("code")] = changed_code(run, folder)
    return f"made again when asked for, since it differs: {'; '.join(found)}"


def run_of(name: str) -> Run | None:
    """The run of a folder's name, such as "dapo-seed0" or "dapo-validation-seed0"."""
    row, _, seed = name.rpartition("-seed")
    split = "validation" if row.endswith("-validation") else "test"
    try:
        (found,) = choose_rows(row.removesuffix("-validation"))
        return Run(found, int(seed), split)
    except (DataError, ValueError):  # of another version, or moved aside
        return None


def differences(before: dict, today: dict, path: str = "") -> Iterator[str]:
    """Each setting that differs, as "recipe.objective.clip_high: 0.2, now 0.28"; hashes by name."""
    for name in sorted(before.keys() | today.keys()):
        old, new, where = before.get(name, MISSING), today.get(name, MISSING), f"{path}{name}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{where}.")
        elif old != new:
            is_short = len(f"{old}{new}") < 80 and name not in ("code", "data", "base", "segmenter")
            yield f"{where}: {old}, now {new}" if is_short else where


def changed_code(run: Run, folder: Path) -> str:
    """The files of the run's code that differ from its commit's, if git still has that."""
    result = folder / "result.json"
    commit = load_json(result).get("commit", "") if result.exists() else ""
    roots = ["foodseg.supervised.training"]
    if isinstance(run.method, Recipe):
        roots = ["foodseg.training.trainer", *recipe_modules(run.method)]
    files = [str(module_file(module).relative_to(PROJECT)) for module in used_modules(roots)]
    then = {file: _at(commit.rstrip("+"), file) for file in files}
    if not any(then.values()):
        return "code"
    changed = [file for file in files if not _same(then[file], (PROJECT / file).read_text())]
    return f"code ({', '.join(changed) or 'files that it no longer has'}, since {commit})"


def _same(before: str | None, today: str) -> bool:
    return before is not None and bare_code(before) == bare_code(today)


@cache
def _at(commit: str, file: str) -> str | None:
    """A file's text at a commit; None if git does not have it."""
    if not commit:
        return None
    command = ["git", "-C", str(PROJECT), "show", f"{commit}:{file}"]
    try:
        shown = subprocess.run(command, capture_output=True)
    except FileNotFoundError:  # no git here
        return None
    return shown.stdout.decode() if shown.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
