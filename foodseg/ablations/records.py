"""What finished runs left, a small file each: enough for every table and claim, not for a model.

python -m foodseg.ablations.records keep       runs of today's settings -> figures/records
python -m foodseg.ablations.records restore    the other way; `make ablations` goes on from there

A record has the outcome with its commit and processor, the training's log, and every answer with
its intersection and union; masks, which are most of the bytes, are left out. So a table of hundreds
of trainings can be made in several sittings, on several machines. Code moves on meanwhile: a
record names the commit that made it. `restore` takes today's code alone, `make pages` any. To go on
with an earlier commit's runs: `restore --any-code`, FOODSEG_HOME naming a checkout of that commit.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from foodseg.ablations.rows import choose_rows
from foodseg.ablations.runs import SPLITS, Run, Runs, RunsOfAnyCode, runs_of
from foodseg.common.errors import DataError
from foodseg.common.files import (
    file_hash,
    home,
    load_json,
    read_lines,
    write_atomically,
    write_json,
    write_lines,
)
from foodseg.presets import Preset, get_preset, parse_seeds
from foodseg.supervised.evaluation import teacher_forced_row_name
from foodseg.supervised.targets import Baseline

# Fields of an answer that are not kept, and what stands in their place when it is restored.
LEFT_OUT = {"mask": {}, "references": []}
ANSWERS = "predictions.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 where the input can't be used."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.ablations.records")
    parser.description = "Keep what finished runs left, or put it back on another machine."
    parser.add_argument("direction", choices=("keep", "restore"))
    parser.add_argument("--preset", default="kitchen", help="smoke, kitchen (default) or paper")
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7", help="of the runs to look for")
    parser.add_argument("--folder", type=Path, help="instead of the preset's figures/records")
    parser.add_argument("--any-code", action="store_true", help="restore records of any commit")
    options = parser.parse_args(arguments)
    try:
        runs, seeds = Runs(get_preset(options.preset)), parse_seeds(options.seeds)
        folder = options.folder or runs.preset.figures / "records"
        if options.direction == "keep" or options.any_code:
            runs = RunsOfAnyCode(runs.preset)
        done = (keep if options.direction == "keep" else restore)(runs, all_runs(seeds), folder)
    except DataError as error:
        print(f"records: {error}", file=sys.stderr)
        return 1
    print(f"{options.direction}: {len(done)} runs, {folder}")
    return 0


def keep(runs: Runs, wanted: Sequence[Run], folder: Path) -> list[Run]:
    """Write a record of each finished run that has none of it; returns those runs."""
    kept = []
    for run in wanted:
        if runs.finished(run) and read_record(folder, run).get("outcome") != runs.outcome(run):
            record = {"outcome": runs.outcome(run), "files": dict(_files(runs, run))}
            write_record(folder, run, record)
            kept.append(run)
    return kept


def write_record(folder: Path, run: Run, record: dict) -> None:
    """Write a run's record, whole or not at all."""
    content = lzma.compress(json.dumps(record).encode(), preset=9 | lzma.PRESET_EXTREME)
    write_atomically(_path(folder, run), content)


def restore(runs: Runs, wanted: Sequence[Run], folder: Path) -> list[Run]:
    """Put the records that `runs` takes for today's back; returns the runs that were not there.

    A training's weights are not in a record: what needs them trains again. Says how many records
    are of other settings or code, and so were left where they are.
    """
    restored, others = [], 0
    for run in wanted:
        record = {} if runs.finished(run) else read_record(folder, run)
        todays = record and runs.same(record["outcome"]["identity"], runs.identity(run))
        others += bool(record) and not todays
        if todays:
            for name, content in record["files"].items():
                _put_back(runs.preset.runs_folder / name, content)
            # The last: it says that the others are there.
            write_json(runs.folder(run) / "outcome.json", record["outcome"])
            restored.append(run)
    if others:
        print(f"{others} records are of other settings or code than today's: left out.")
    return restored


@contextmanager
def restored(preset: Preset, folder: Path, wanted: Sequence[Run]) -> Iterator[RunsOfAnyCode]:
    """The records' runs in a work folder of their own, so that no training takes them for its own.

    Whichever code made them. Inside, FOODSEG_HOME names that folder.
    """
    before = os.environ.get("FOODSEG_HOME")
    with TemporaryDirectory(prefix="foodseg-") as own:
        (Path(own) / "datasets").symlink_to(home() / "datasets")
        os.environ["FOODSEG_HOME"] = own
        try:
            runs = RunsOfAnyCode(preset)
            restore(runs, wanted, folder)
            yield runs
        finally:
            os.environ.pop("FOODSEG_HOME")
            if before is not None:
                os.environ["FOODSEG_HOME"] = before


def all_runs(seeds: Sequence[int]) -> list[Run]:
    """Every row with every seed, on the test plates and on the validation plates."""
    return [run for split in SPLITS for run in runs_of(choose_rows(""), seeds, split)]


def _path(folder: Path, run: Run) -> Path:
    return folder / f"{run.name}.json.xz"


def read_record(folder: Path, run: Run) -> dict:
    """A run's record; empty if there is none. Raises DataError for a broken one."""
    path = _path(folder, run)
    if not path.exists():
        return {}
    try:
        return json.loads(lzma.decompress(path.read_bytes()))
    except (lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path}: it was cut or changed ({error}); put a copy back.") from None


def _files(runs: Runs, run: Run) -> Iterator[tuple[str, Any]]:
    """Each file of the run below the preset's folder: its path and its content."""
    names = [run.name]
    if isinstance(run.method, Baseline) and run.method.masks:
        names.append(teacher_forced_row_name(run.method, run.seed))
    for name in names:
        folder = runs.preset.predictions_folder(name)
        if not (folder / ANSWERS).exists():  # of a run that failed
            continue
        answers = read_lines(folder / ANSWERS)
        kept = [{k: v for k, v in one.items() if k not in LEFT_OUT} for one in answers]
        yield f"predictions/{name}/{ANSWERS}", kept
        yield f"predictions/{name}/result.json", load_json(folder / "result.json")
    if run.row.trained and runs.log(run).exists():
        yield f"{run.name}/log.jsonl", read_lines(runs.log(run))
    if run.row.trained and (result := runs.run_folder(run) / "result.json").exists():
        yield f"{run.name}/result.json", load_json(result)


def _put_back(path: Path, content: Any) -> None:
    if path.name == ANSWERS:
        write_lines(path, [one | LEFT_OUT for one in content])
    elif path.suffix == ".jsonl":
        write_lines(path, content)
    elif (answers := path.with_name(ANSWERS)).exists():  # the hash of what was put back
        write_json(path, content | {"predictions": file_hash(answers)})
    else:
        write_json(path, content)


if __name__ == "__main__":
    sys.exit(main())
