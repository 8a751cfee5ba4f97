"""The benchmark on a GPU: Qwen2.5-VL-3B in true sizes, random bfloat16 weights, known floor.

    python -m foodseg.bench.cuda                     # all stages, some 10 minutes on an H200
    python -m foodseg.bench.cuda step memory --figures figures --commit 0123456789ab

Stages, each with a part of figures/benchmark_cuda.json, which is written after every trial
(minutes are estimates, not measured):

    segmenter  SAM2 Hiera-L in float32, TF32 and bfloat16: time, and whether masks stay (1 minute)
    step    every phase beside its floor, the whole step with one update and with two (3 minutes)
    memory  the step where PyTorch may take 24, 48 or 80 GB (3 minutes)
    trl     TRL's GRPOTrainer at the same shape (3 to 6 minutes; needs the `bench` extra)

It needs a CUDA GPU with bfloat16 and 24 GB; no network, weights or data. `--commit` names the
commit where git's history is not at hand. `python -m foodseg.bench.cuda.check FOLDER` is the first
look, at most eight minutes, in which the tests on the device come first;
`python -m foodseg.bench.page` writes the page afterwards.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from foodseg.bench.cuda.precision import precisions
from foodseg.bench.cuda.rollout import rollout_by_phase
from foodseg.bench.cuda.workload import STEP, WITHOUT_KL, draw_questions, random_policy
from foodseg.bench.paired_timing import Side, SideFailedError, take_turns
from foodseg.bench.this_trainer import this_trainer
from foodseg.bench.workload import Load
from foodseg.common.files import PROJECT, write_json
from foodseg.common.provenance import provenance
from foodseg.data.samples import Sample
from foodseg.models.random_mllm import qwen2_5_vl_3b
from foodseg.models.shared_prefix import score_groups
from foodseg.presets import Preset

RESULT = "benchmark_cuda.json"
STAGES = ("segmenter", "step", "memory", "trl")
# In GB (10^9 bytes). A card's 24 GB are 25.8 of these, so a cap of 24 leaves what CUDA takes.
CAPS = (24, 48, 80)
# Completions a forward and whether layers are checkpointed: what a user of TRL would try.
TRL_TRIALS = ((8, False), (8, True), (16, True))
ROUNDS, TRL_ROUNDS = 5, 2  # a step of TRL's may take 20 s
PATIENCE = 180.0  # seconds

Trial = tuple[Side, tuple]  # with its arguments


def run_stages(
    figures: Path,
    stages: Sequence[str] = STAGES,
    commit: str | None = None,
    preset: Preset = STEP,
    load: Load | None = None,
) -> None:
    """Run these stages one after another; what a trial has found is written at once.

    load: makes the preset's model, by default Qwen2.5-VL-3B with random weights.
    """
    path, load = figures / RESULT, load or partial(random_policy, qwen2_5_vl_3b())
    with tempfile.TemporaryDirectory() as folder:
        samples = draw_questions(Path(folder), preset.prompts_per_step)
        for stage in stages:
            facts = provenance(preset.device) | {"date": time.strftime("%Y-%m-%d")}
            facts["commit"] = commit or facts["commit"]
            part = {"measured": {key: facts[key] for key in ("date", "commit", "device")}}
            for title, trial in list_trials(stage, load, preset, samples).items():
                part[title] = measure(title, trial, TRL_ROUNDS if stage == "trl" else ROUNDS)
                before = json.loads(path.read_text()) if path.exists() else {}
                write_json(path, before | facts | {"preset": asdict(preset), stage: part})


def list_trials(
    stage: str, load: Load, preset: Preset, samples: Sequence[Sample]
) -> dict[str, Trial]:
    """What the stage measures, by title."""
    work = (load, preset, samples)
    if stage == "segmenter":
        return {"precisions": (precisions, (preset, samples))}
    if stage == "step":
        halves = (load, replace(preset, groups_per_update=preset.groups_per_update // 2), samples)
        return {
            "rollout": (rollout_by_phase, work),
            "one update, no KL": (this_trainer, (*work, WITHOUT_KL)),
            "one update, KL": (this_trainer, work),
            "two updates of half the groups, KL (the paper's preset)": (this_trainer, halves),
        }
    if stage == "memory":
        total = torch.cuda.get_device_properties(0).total_memory
        without = (*work, WITHOUT_KL, score_groups)
        return {
            f"one update, no KL, in {cap} GB": (this_trainer, (*without, cap))
            for cap in CAPS
            if cap * 1e9 <= total
        }
    from foodseg.bench.trl_trainer import trl_trainer  # an optional package

    return {
        f"TRL, micro-batch {size}{', checkpointed' * kept}": (trl_trainer, (*work, size, kept))
        for size, kept in TRL_TRIALS
    }


def measure(title: str, trial: Trial, rounds: int) -> list[dict] | dict:
    """A row for each round, or {"error": what stopped it}: running out of memory is a result."""
    try:
        return take_turns({title: trial}, rounds, title, PATIENCE)[title]
    except SideFailedError as error:
        return {"error": str(error).removeprefix(f"{title}: ").split(". ")[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m foodseg.bench.cuda")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--figures", type=Path, default=PROJECT / "figures")
    parser.add_argument("--commit")
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"stage {min(unknown)} is unknown; use some of {', '.join(STAGES)}.")
    if not torch.cuda.is_available():
        print("No CUDA GPU here: the GPU benchmark is left out, its last table stays as it is.")
        return
    stages = options.stages or list(STAGES)
    if "trl" in stages and find_spec("trl") is None:
        print("TRL is not installed (`make bench` does it): the stage trl is left out.")
        stages.remove("trl")
    run_stages(options.figures, stages, options.commit)


if __name__ == "__main__":
    main()
