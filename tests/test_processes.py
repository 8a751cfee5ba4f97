"""Several processes that train one adapter: the same adapter as one process makes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import kitchen_folder
from safetensors.torch import load_file

from foodseg.ablations import execute
from foodseg.ablations.__main__ import main
from foodseg.ablations.runs import Runs
from foodseg.common.errors import DataError
from foodseg.common.files import load_json, read_lines
from foodseg.common.lock import alone
from foodseg.common.processes import Processes
from foodseg.models.mllm import ADAPTER_WEIGHTS
from foodseg.presets import SMOKE
from foodseg.recipes import DAPO, GRPO
from foodseg.supervised.targets import SFT
from foodseg.supervised.training import train_baseline
from foodseg.training import launch as launch_module
from foodseg.training import run_folder
from foodseg.training.launch import train_on_all_gpus
from foodseg.training.run_folder import finish
from foodseg.training.trainer import train

SCRIPT = str(Path(__file__).with_name("train_in_processes.py"))
# What `accelerate launch` starts on several GPUs; for CPUs alone it starts a single process.
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def train_with(home: Path, processes: int, *arguments: str) -> Path:
    """Run the script in a FOODSEG_HOME of its own; returns the run's folder."""
    kitchen_folder(home)
    launch = LAUNCH if processes == 2 else []
    done = subprocess.run(
        [sys.executable, *launch, SCRIPT, *arguments],
        env=os.environ | {"FOODSEG_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [run] = (home / "runs").glob("*/run-seed3")
    assert done.stdout.splitlines() == [f"process {i} of {processes}" for i in range(processes)]
    return run


def distance(one: Path, other: Path) -> float:
    """Relative, in norm, of two files of weights."""
    ours, theirs = (load_file(path) for path in (one, other))
    assert ours.keys() == theirs.keys()
    flat = [torch.cat([w[n].flatten().double() for n in sorted(w)]) for w in (ours, theirs)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@pytest.mark.parametrize("recipe, tool", [("DAPO", False), ("GRPO", True)])
def test_two_processes_make_the_adapter_that_one_makes(tmp_path, recipe, tool, knowing):
    arguments = [recipe, knowing] if tool else [recipe]
    alone = train_with(tmp_path / "one", 1, *arguments)
    both = train_with(tmp_path / "two", 2, *arguments)
    name = "adapter/adapter_model.safetensors"
    assert distance(alone / name, both / name) < 1e-9
    ours, theirs = (read_lines(run / "log.jsonl") for run in (alone, both))
    if tool:
        # In float32. It moves by 4e-3, but its keys' biases, whose gradient is rounding, by 7e-6.
        name = "adapter/decoder.safetensors"
        assert distance(alone / name, both / name) < 5e-5
        assert all(row["tool_references"] for row in ours)
    assert [row["step"] for row in theirs] == [1, 2, 3, 4, 5]
    for a, b in zip(ours, theirs, strict=True):
        for name, value in a.items():
            if isinstance(value, float) and not name.startswith(("seconds", "peak", "sampler")):
                # float64, but for the tool's float32. Held to an older processor's instructions,
                # one process has figures that differ by 2e-7 of themselves, near 0 by 5e-9.
                near = {"rel": 1e-5 if name.startswith("tool") else 1e-6, "abs": 2e-8}
                assert b[name] == pytest.approx(value, **near), name
    if not tool:  # one of the first round's four groups was dropped
        assert ours[0]["rounds"] == 2 and 0 < ours[0]["zero_variance"] < 1
    # One set of files, as one process leaves them.
    assert {p.name for p in alone.iterdir()} == {p.name for p in both.iterdir()}


def test_a_notebook_starts_one_process_a_gpu(tmp_path, monkeypatch):
    started = []

    def launch(function, arguments, num_processes):
        started.append((function, num_processes))
        folder = arguments[0].run_folder(arguments[1].name, arguments[2])
        config = load_json(folder / "config.json")
        learner = SimpleNamespace(sampled=0, save=lambda to: (to / ADAPTER_WEIGHTS).touch())
        finish(folder, config, 5, [], learner)

    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))
    monkeypatch.setattr(launch_module, "notebook_launcher", launch)
    monkeypatch.setattr(run_folder, "provenance", lambda device: {})  # there is no GPU to name
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 16)
    preset = replace(SMOKE, device="cuda")
    with alone(preset.run_folder("grpo", 0)), pytest.raises(DataError, match="another process"):
        train_on_all_gpus(preset, GRPO, 0, [])
    assert train_on_all_gpus(preset, GRPO, 0, [])["steps"] == 5
    assert started == [(train, SMOKE.prompts_per_step)]
    assert train_on_all_gpus(preset, GRPO, 0, [])["steps"] == 5 and len(started) == 1


def test_every_question_has_one_process_and_more_are_refused(monkeypatch):
    for count in (1, 2, 3, 5, 8):
        parts = [Processes(index, count).part(8) for index in range(count)]
        assert [place for part in parts for place in part] == list(range(8))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    monkeypatch.setattr(Processes, "find", classmethod(lambda cls, device: cls(0, 9)))
    with pytest.raises(ValueError, match="9 processes, but prompts_per_step"):
        train(SMOKE, GRPO, 0, [])
    with pytest.raises(ValueError, match="sft: a supervised baseline trains in one process"):
        train_baseline(SMOKE, SFT, 0, [])


def test_the_others_only_train(monkeypatch):
    """Under `accelerate launch -m foodseg.ablations` the main process alone evaluates."""
    trained = []
    monkeypatch.setattr(Processes, "find", classmethod(lambda cls, device: cls(1, 2)))
    monkeypatch.setattr(execute, "train", lambda *arguments: trained.append(arguments[1:3]))
    monkeypatch.setattr(Runs, "samples", lambda runs, split: ([], []))
    assert main(["dapo", "--seed", "1"]) == 0
    assert trained == [(DAPO, 1)]
    assert main(["sft"]) == 1
