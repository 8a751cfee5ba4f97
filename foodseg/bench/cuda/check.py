"""The first look at a GPU, in at most eight minutes: does all of it run, and how fast?

    python -m foodseg.bench.cuda.check FOLDER

One part after another, each in processes of its own that are ended when its time is up: the
equalities of tests/test_gpu.py, the dry run's notebooks 02, 04 and 05 in the paper's sizes on
random weights, SAM2's precisions, the phases of a step. FOLDER/gpu_check.json is written after each
part and the benchmark's part after each trial, so what was measured stays if this is cut off.
What a part printed is in FOLDER/gpu_check.log. It needs no network, weights or data.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from foodseg.common.files import PROJECT, read_lines, write_json
from foodseg.common.provenance import provenance

SECONDS = 8 * 60
RESULT, LOG = "gpu_check.json", "gpu_check.log"


@dataclass(frozen=True)
class Part:
    """A command of this Python's, and the most seconds that it may take."""

    name: str
    arguments: tuple[str, ...]
    seconds: float


def list_parts(folder: Path) -> list[Part]:
    """What is done, in order; the scratch files go to folder/home, which may be deleted."""
    figures = ("--figures", str(folder))

    def notebook(name: str, seconds: float, *parameters: str) -> Part:
        target = folder / "home" / "executed" / f"{name}.ipynb"
        source = PROJECT / "notebooks" / f"{name}.ipynb"
        run = ("-m", "foodseg.common.run_notebook", str(source), str(target), "PRESET=dry-run")
        return Part(name[:2], (*run, *parameters), seconds)

    return [
        Part("equalities", ("-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"), 120),
        Part("weights", ("-m", "foodseg.dry_run"), 60),
        notebook("01_build_foodreasonseg_single", 45),
        notebook("02_model_and_zero_shot", 80),
        notebook("04_train_grpo", 75, "SEEDS=0"),
        notebook("05_train_dapo", 60, "SEEDS=0"),
        Part("bench", ("-m", "foodseg.bench.cuda", "segmenter", "step", *figures), 240),
    ]


def run_part(part: Part, folder: Path, left: float) -> dict:
    """Runs it for at most `left` seconds; {"seconds", "outcome", "tail": its last lines}."""
    environment = os.environ | {"FOODSEG_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    limit, start = min(part.seconds, left), time.monotonic()
    if limit <= 0:
        return {"seconds": 0.0, "outcome": "left out: no time", "tail": []}
    log = folder / LOG
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *part.arguments],
            cwd=PROJECT, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            outcome = {0: "done"}.get(process.wait(limit), "failed")
        except subprocess.TimeoutExpired:
            outcome = f"cut off after {limit:.0f} s"
        finally:
            _end(process)
    said = log.read_bytes()[before:].decode(errors="replace").splitlines()
    return {"seconds": round(time.monotonic() - start, 1), "outcome": outcome, "tail": said[-12:]}


def _end(process: subprocess.Popen) -> None:
    """A part's whole process group, kernels and workers included."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it has ended
    process.wait()


def steps_logged(home: Path) -> dict[str, list[dict]]:
    """Of each training the numbers of its steps: seconds by phase, memory, and all else."""
    logs = sorted(home.glob("runs/dry-run/*/log.jsonl"))
    return {
        log.parent.name: [
            {key: value for key, value in row.items() if not isinstance(value, str)}
            for row in read_lines(log)
        ]
        for log in logs
    }


def check(folder: Path, parts: Sequence[Part], device: str, seconds: float = SECONDS) -> dict:
    """Runs the parts until the seconds are over; the result stands in the folder after each."""
    deadline = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    result = provenance(device) | {"parts": {}, "steps": {}}
    for part in parts:
        result["parts"][part.name] = run_part(part, folder, deadline - time.monotonic())
        result["steps"] = steps_logged(folder / "home")
        write_json(folder / RESULT, result)
        outcome = result["parts"][part.name]
        print(f"{part.name}: {outcome['outcome']}, {outcome['seconds']} s", flush=True)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if every part was done."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.bench.cuda.check")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder.absolute()
    if not torch.cuda.is_available():
        print("No CUDA GPU here: there is nothing to check.", file=sys.stderr)
        return 1
    result = check(folder, list_parts(folder), "cuda")
    return int(any(part["outcome"] != "done" for part in result["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
