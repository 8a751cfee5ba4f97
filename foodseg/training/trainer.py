"""The loop: sample, score, filter, update, log, checkpoint.

A run lives in one folder (`Preset.run_folder`, `training.run_folder`): config.json, log.jsonl (a
row a step, from which every curve is drawn), state.pt (all that the next step needs), and at the
end adapter/ and result.json. Where the mask decoder is trained as well, tool.jsonl has a row for
each step that it took before the policy's first, and adapter/ has its weights too. Kill it anywhere
and start it again: it goes on from state.pt and, on a CPU, ends with the bits that it would have
had. The checkpoint that counts is always the last step's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from foodseg.common.files import file_hash, read_lines, write_json, write_lines
from foodseg.common.processes import Processes
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.data.samples import Sample
from foodseg.models.mllm import ADAPTER_WEIGHTS, Mllm
from foodseg.models.segmenter import DECODER, save_decoder
from foodseg.presets import Preset
from foodseg.recipes import Recipe
from foodseg.system import load_policy, one_thread
from foodseg.training.identity import run_config
from foodseg.training.log import step_row
from foodseg.training.run_folder import (
    append_row,
    claim,
    load_state,
    save_adapter,
    save_state,
    start_log,
)
from foodseg.training.sampler import GroupSampler
from foodseg.training.tool import ToolUpdater, train_tool_off_policy
from foodseg.training.updates import PolicyUpdater

TOOL_LOG = "tool.jsonl"


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
    them writes the folder. On a CPU it computes in one thread (`system.one_thread`). Raises
    ValueError for more processes than questions in a step.
    """
    with one_thread(preset.device):
        return _train(preset, recipe, seed, samples, on_step)


def _train(preset: Preset, recipe: Recipe, seed: int, samples, on_step) -> dict:
    processes = _processes(preset)
    folder = preset.run_folder(recipe.name, seed)
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
        "adapter": file_hash(adapter / ADAPTER_WEIGHTS),
        "decoder": file_hash(adapter / DECODER) if "tool" in parts else None,
        **provenance(config["preset"]["device"]),
    }
    write_json(folder / "result.json", result)
    return result
