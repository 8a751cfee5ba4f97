"""The loop: sample, score, filter, update, log, checkpoint.

A run lives in one folder (`Preset.run`): config.json, log.jsonl (a row a step, from which every
curve is drawn), state.pt (all that the next step needs), and at the end adapter/ and result.json.
Kill it anywhere and start it again: it goes on from state.pt and, on a CPU, ends with the bits
that it would have had. The checkpoint that counts is always the last step's.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.presets import PACKAGE, Preset
from foodseg.progress import tqdm
from foodseg.provenance import (
    file_hash,
    files_hash,
    provenance,
    write_atomically,
    write_json,
    write_lines,
)
from foodseg.recipes import Recipe, as_json
from foodseg.rl.groups import GroupSampler
from foodseg.rl.log import step_row
from foodseg.rl.updates import PolicyUpdater

# What decides a run's bits; the rest of a preset is paths and evaluation.
PRESET_FIELDS = (
    "name image_side prompt_template lora_rank lora_alpha learning_rate warmup_steps steps "
    "prompts_per_step group_size updates_per_rollout max_new_tokens dtype device"
).split()

PHASES = ("rollout", "scoring", "update")


def load_policy(preset: Preset, prompt_suffix: str = "") -> Mllm:
    """The preset's MLLM, without an adapter; the suffix follows the preset's prompt template.

    On a CPU this sets PyTorch to one thread: the same bits on any number of cores, in training
    and in evaluation, and two runs fit side by side on two.
    """
    if preset.device == "cpu":
        torch.set_num_threads(1)
    return Mllm.load(
        preset.mllm,
        image_side=preset.image_side,
        template=preset.prompt_template + prompt_suffix,
        device=preset.device,
        dtype=getattr(torch, preset.dtype),
    )


def train(
    preset: Preset,
    recipe: Recipe,
    seed: int,
    samples: Sequence[Sample],
    on_step: Callable[[Path], None] | None = None,
) -> dict:
    """Train one adapter, or go on where an interrupted run stopped; returns its result.

    on_step: called after each step with the path of log.jsonl (for live curves). A finished run
    of the same configuration is returned as it is; one of another configuration is moved aside.
    """
    folder = preset.run(recipe.name, seed)
    config = run_config(preset, recipe, seed, samples)
    _claim(folder, config)
    result_file = folder / "result.json"
    if result_file.exists() and (folder / "adapter").exists():
        return json.loads(result_file.read_text())
    mllm = load_policy(preset, recipe.prompt_suffix)
    mllm.add_lora(preset.lora_rank, preset.lora_alpha, seed)
    sampler = GroupSampler(mllm, preset, recipe, samples, seed)
    updater = PolicyUpdater(mllm, preset, recipe)
    rows = _restore(folder, mllm, sampler, updater)
    label = f"{recipe.title}, seed {seed}"
    for step in tqdm(range(len(rows), preset.steps), label, preset.steps, initial=len(rows)):
        batch = sampler.next_batch()
        rows.append({"step": step + 1} | step_row(batch, updater.update(batch.groups)))
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(rows[-1]) + "\n")
        if (step + 1) % preset.checkpoint_every == 0:
            _checkpoint(folder, rows, mllm, sampler, updater)
        if on_step:
            on_step(folder / "log.jsonl")
    return _finish(folder, config, rows, mllm, preset.device)


def run_config(preset: Preset, recipe: Recipe, seed: int, samples: Sequence[Sample]) -> dict:
    """All that decides the run's result, as JSON values."""
    kept = {name: getattr(preset, name) for name in PRESET_FIELDS}
    weights, segmenter = Path(preset.mllm) / "model.safetensors", Path(preset.segmenter)
    return {
        "preset": kept,
        "recipe": as_json(recipe),
        "seed": seed,
        "samples": len(samples),
        "data": file_hash(preset.single("train")),
        "base": file_hash(weights) if weights.exists() else preset.mllm,
        "segmenter": file_hash(segmenter) if segmenter.exists() else preset.segmenter,
        "code": files_hash(_training_code()),
    }


def _training_code() -> list[Path]:
    """The package's files that a run's bits depend on; a finished run of others is stale."""
    models = [p for p in PACKAGE.glob("models/*.py") if not p.name.startswith("kitchen_")]
    return [*PACKAGE.glob("rl/*.py"), *models, PACKAGE / "data" / "references.py"]


def _claim(folder: Path, config: dict) -> None:
    """Make the folder this configuration's, moving a run of another configuration aside."""
    config_file = folder / "config.json"
    if config_file.exists():
        if json.loads(config_file.read_text()) == config:
            return
        aside = folder.with_name(f"{folder.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(folder, aside)
        tqdm.write(f"{folder.name}: other settings than before; the old run is in {aside.name}.")
    write_json(config_file, config)


def _checkpoint(
    folder: Path, rows: list[dict], mllm: Mllm, sampler: GroupSampler, updater: PolicyUpdater
) -> None:
    state = {
        "rows": rows,
        "cursor": sampler.cursor,
        "rounds": sampler.rounds,
        "adapter": [p.detach().cpu() for p in mllm.lora_parameters()],
        "updater": updater.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / "state.pt", buffer.getvalue())


def _restore(folder: Path, mllm: Mllm, sampler: GroupSampler, updater: PolicyUpdater) -> list[dict]:
    """Load the last checkpoint if there is one; returns the log's rows up to it."""
    log, path = folder / "log.jsonl", folder / "state.pt"
    if not path.exists():
        write_lines(log, [])
        return []
    state = torch.load(path, weights_only=True)
    for parameter, value in zip(mllm.lora_parameters(), state["adapter"], strict=True):
        parameter.data.copy_(value)
    sampler.cursor, sampler.rounds = state["cursor"], state["rounds"]
    updater.load_state_dict(state["updater"])
    # Rows after the checkpoint belong to steps that are taken again; the last may be half written.
    write_lines(log, state["rows"])
    return state["rows"]


def _finish(folder: Path, config: dict, rows: list[dict], mllm: Mllm, device: str) -> dict:
    partial = folder / "adapter.partial"
    shutil.rmtree(partial, ignore_errors=True)
    mllm.save_adapter(partial)
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    os.replace(partial, folder / "adapter")
    seconds = sum(row[f"seconds_{phase}"] for row in rows for phase in PHASES)
    result = config | {
        "steps": len(rows),
        "seconds": round(seconds, 1),
        "adapter": file_hash(folder / "adapter" / "adapter_model.safetensors"),
        **provenance(device),
    }
    write_json(folder / "result.json", result)
    return result
