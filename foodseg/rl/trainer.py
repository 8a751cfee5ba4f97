"""The loop: sample, score, filter, update, log, checkpoint.

A run lives in one folder (`Preset.run`, `foodseg.run_folder`): config.json, log.jsonl (a row a
step, from which every curve is drawn), state.pt (all that the next step needs), and at the end
adapter/ and result.json. Where the mask decoder is trained as well, tool.jsonl has a row for each
step that it took before the policy's first, and adapter/ has its weights too. Kill it anywhere
and start it again: it goes on from state.pt and, on a CPU, ends with the bits that it would have
had. The checkpoint that counts is always the last step's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.presets import PACKAGE, Preset
from foodseg.progress import tqdm
from foodseg.provenance import (
    as_json,
    file_hash,
    files_hash,
    provenance,
    read_lines,
    write_json,
    write_lines,
)
from foodseg.recipes import Recipe
from foodseg.rl.groups import GroupSampler
from foodseg.rl.log import step_row
from foodseg.rl.processes import Processes
from foodseg.rl.tool import ToolUpdater, save_decoder, train_tool_off_policy
from foodseg.rl.updates import PolicyUpdater
from foodseg.run_folder import (
    append_row,
    claim,
    load_state,
    save_adapter,
    save_state,
    start_log,
)

# What decides a run's bits; the rest of a preset is paths and evaluation.
PRESET_FIELDS = (
    "name image_side prompt_template lora_rank lora_alpha learning_rate warmup_steps steps "
    "prompts_per_step group_size updates_per_rollout max_new_tokens dtype device"
).split()

# Modules of foodseg.rl of one method each: only runs of recipes that use them depend on them.
METHODS = ("dr_seg", "sam_r1", "seg_zero", "segments", "tool")

DECODER = "decoder.safetensors"  # in adapter/, of a recipe with a tool
TOOL_LOG = "tool.jsonl"


def load_policy(preset: Preset, prompt_suffix: str = "") -> Mllm:
    """The preset's MLLM, without an adapter; the suffix follows the preset's prompt template.

    On a CPU this sets PyTorch to one thread: the same bits on any number of cores, in training
    and in evaluation, and two runs fit side by side on two.
    """
    if preset.device == "cpu":
        torch.set_num_threads(1)
    return Mllm.load(
        preset.mllm,
        revision=preset.mllm_revision,
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
    Under `accelerate launch` every process calls this alike and gets the same result; the first of
    them writes the folder. Raises ValueError for more processes than questions in a step.
    """
    processes = _processes(preset)
    folder = preset.run(recipe.name, seed)
    config = run_config(preset, recipe, seed, samples)
    if result := processes.from_main(claim(folder, config) if processes.main else None):
        return result
    mllm, parts = _start(preset, recipe, seed, samples, processes)
    rows = _restore(folder, mllm, parts)
    if processes.main:
        start_log(folder, rows)
    if recipe.tool and not rows:
        tool_rows = train_tool_off_policy(parts["tool"], parts["sampler"])
        if processes.main:
            write_lines(folder / TOOL_LOG, tool_rows)
    label = f"{recipe.title}, seed {seed}"
    left, quiet = range(len(rows), preset.steps), not processes.main
    for step in tqdm(left, label, preset.steps, initial=len(rows), disable=quiet):
        rows.append({"step": step + 1} | _step(**parts))
        if processes.main:
            append_row(folder, rows[-1])
            if (step + 1) % preset.checkpoint_every == 0:
                _checkpoint(folder, rows, mllm, parts)
            if on_step:
                on_step(folder / "log.jsonl")
    return processes.from_main(
        _finish(folder, config, rows, mllm, parts) if processes.main else None
    )


def _processes(preset: Preset) -> Processes:
    processes = Processes.find(preset.device)
    if processes.count > preset.prompts_per_step:
        raise ValueError(
            f"{processes.count} processes, but prompts_per_step of preset {preset.name!r} is "
            f"{preset.prompts_per_step}: a group is not divided; start fewer."
        )
    return processes


def _start(preset: Preset, recipe: Recipe, seed: int, samples, processes: Processes):
    """The policy with a new adapter, and all that a step needs: (mllm, parts by name)."""
    mllm = load_policy(preset, recipe.prompt_suffix)
    mllm.add_lora(preset.lora_rank, preset.lora_alpha, seed)
    sampler = GroupSampler(mllm, preset, recipe, samples, seed, processes=processes)
    parts = {"sampler": sampler, "updater": PolicyUpdater(mllm, preset, recipe, processes)}
    if recipe.tool:
        segmenter = sampler.load_segmenter()
        parts["tool"] = ToolUpdater(segmenter, recipe.tool, sampler.embed, processes)
    return mllm, parts


def _step(sampler: GroupSampler, updater: PolicyUpdater, tool: ToolUpdater | None = None) -> dict:
    """One step's log row. The tool learns after the policy, from the same groups."""
    batch = sampler.next_batch()
    row = step_row(batch, updater.update(batch.groups), sampler.processes)
    return row | tool.update(batch.groups) if tool else row


def run_config(preset: Preset, recipe: Recipe, seed: int, samples: Sequence[Sample]) -> dict:
    """All that decides the run's result, as JSON values."""
    kept = {name: getattr(preset, name) for name in PRESET_FIELDS}
    return {
        "preset": kept,
        "recipe": as_json(recipe),
        "seed": seed,
        "samples": len(samples),
        "data": samples_hash(samples),
        **preset.weights,
        "code": files_hash(_training_code(recipe)),
    }


def samples_hash(samples: Sequence[Sample]) -> str:
    """First 16 hexadecimal digits of a SHA-256 over the samples, in their order."""
    return hashlib.sha256(repr(list(samples)).encode()).hexdigest()[:16]


def _training_code(recipe: Recipe) -> list[Path]:
    """The package's files that a run's bits depend on; a finished run of others is stale."""
    functions = [getattr(one, "func", one) for one in (*recipe.reward, recipe.advantages)]
    used = {function.__module__.rpartition(".")[2] for function in functions}
    used |= {"dr_seg"} if recipe.ranked else set()
    used |= {"tool"} if recipe.tool else set()
    rl = [p for p in PACKAGE.glob("rl/*.py") if p.stem in used or p.stem not in METHODS]
    models = [p for p in PACKAGE.glob("models/*.py") if not p.name.startswith("kitchen_")]
    return [*rl, *models, PACKAGE / "data" / "references.py"]


def _checkpoint(folder: Path, rows: list[dict], mllm: Mllm, parts: dict) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    state["adapter"] = [p.detach().cpu() for p in mllm.lora_parameters()]
    save_state(folder, rows, state)


def _restore(folder: Path, mllm: Mllm, parts: dict) -> list[dict]:
    """Load the last checkpoint if there is one; returns the log's rows up to it."""
    rows, state = load_state(folder)
    if state:
        for parameter, value in zip(mllm.lora_parameters(), state["adapter"], strict=True):
            parameter.data.copy_(value)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    return rows


def _finish(folder: Path, config: dict, rows: list[dict], mllm: Mllm, parts: dict) -> dict:
    def save(into: Path) -> None:
        mllm.save_adapter(into)
        if "tool" in parts:
            save_decoder(parts["tool"].segmenter, into / DECODER)

    adapter = save_adapter(folder, save)
    everything = rows + read_lines(folder / TOOL_LOG) if (folder / TOOL_LOG).exists() else rows
    seconds = sum(v for row in everything for k, v in row.items() if k.startswith("seconds_"))
    result = config | {
        "steps": len(rows),
        "seconds": round(seconds, 1),
        "adapter": file_hash(adapter / "adapter_model.safetensors"),
        "decoder": file_hash(adapter / DECODER) if "tool" in parts else None,
        **provenance(config["preset"]["device"]),
    }
    write_json(folder / "result.json", result)
    return result
