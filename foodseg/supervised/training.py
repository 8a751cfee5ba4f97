"""The supervised loop: draw, learn, log, checkpoint; a run's folder is like one of RL's.

adapter/ holds the LoRA adapter with its prompt template and, for a baseline that writes [SEG],
mask_head.safetensors. A log row is one step of the preset, `updates_per_rollout` gradient steps,
each on samples of its own, so steps count the same in all curves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from foodseg.common.files import file_hash, write_json
from foodseg.common.processes import Processes
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.data.samples import Sample
from foodseg.models.mllm import ADAPTER_WEIGHTS, Mllm
from foodseg.presets import Preset
from foodseg.supervised.batches import samples_in_a_step
from foodseg.supervised.mask_head import MaskHead
from foodseg.supervised.targets import Baseline, allow_seg
from foodseg.supervised.updates import SupervisedUpdater
from foodseg.system import load_policy, load_segmenter, one_thread
from foodseg.training.identity import preset_values, used_code, what_it_learns_from
from foodseg.training.memory import peak_memory_mb
from foodseg.training.run_folder import (
    append_row,
    claim,
    load_state,
    save_adapter,
    save_state,
    start_log,
)
from foodseg.training.sampler import draw_samples


def train_baseline(
    preset: Preset,
    baseline: Baseline,
    seed: int,
    samples: Sequence[Sample],
    on_step: Callable[[Path], None] | None = None,
) -> dict:
    """Train one baseline, or go on where an interrupted run stopped; returns its result.

    As `training.trainer.train`: on_step is called after each step with the path of log.jsonl; a
    finished run is returned as it is, one of another configuration is moved aside; on a CPU it
    computes in one thread. Raises ValueError in one of several processes.
    """
    with one_thread(preset.device):
        return _train(preset, baseline, seed, samples, on_step)


def _train(preset: Preset, baseline: Baseline, seed: int, samples, on_step) -> dict:
    if Processes.find(preset.device).count > 1:
        raise ValueError(
            f"{baseline.name}: a supervised baseline trains in one process; start one."
        )
    folder = preset.run_folder(baseline.name, seed)
    config = baseline_config(preset, baseline, seed, samples)
    if finished := claim(folder, config):
        return finished
    updater = start(preset, baseline, seed)
    rows, state = load_state(folder)
    start_log(folder, rows)
    if state:
        updater.load_state_dict(state)
    label = f"{baseline.title}, seed {seed}"
    for step in tqdm(range(len(rows), preset.steps), label, preset.steps, initial=len(rows)):
        rows.append({"step": step + 1} | _step(updater, seed, samples, step))
        append_row(folder, rows[-1])
        if (step + 1) % preset.checkpoint_every == 0:
            save_state(folder, rows, updater.state_dict())
        if on_step:
            on_step(folder / "log.jsonl")
    return _finish(folder, config, rows, updater)


def start(preset: Preset, baseline: Baseline, seed: int) -> SupervisedUpdater:
    """A baseline before its first step: the preset's models, a new adapter and MLP."""
    mllm = load_policy(preset)
    mllm.add_lora(preset.lora_rank, preset.lora_alpha, seed)
    mllm.template = baseline.template or mllm.template
    head = new_head(preset, mllm, seed) if baseline.masks else None
    return SupervisedUpdater(mllm, preset, baseline, head)


def new_head(preset: Preset, mllm: Mllm, seed: int) -> MaskHead:
    """The mask head over the preset's SAM2; from here on the model may write [SEG]."""
    allow_seg(mllm)
    return MaskHead(load_segmenter(preset), mllm.model.config.text_config.hidden_size, seed)


def _step(updater: SupervisedUpdater, seed: int, samples: Sequence[Sample], step: int) -> dict:
    began, preset = time.perf_counter(), updater.preset
    count, updates = samples_in_a_step(preset), preset.updates_per_rollout
    passes = []
    for update in range(step * updates, (step + 1) * updates):
        passes.append(updater.gradient_step(draw_samples(samples, seed, update * count, count)))
    row = {name: fmean(one[name] for one in passes) for name in passes[0]}
    return row | {
        "seconds_update": time.perf_counter() - began,
        "peak_memory_mb": peak_memory_mb(updater.mllm.device),
    }


def baseline_config(
    preset: Preset, baseline: Baseline, seed: int, samples: Sequence[Sample]
) -> dict:
    """All that decides the run's result, as JSON values."""
    named = {"name": baseline.name, "title": baseline.title, "template": baseline.template}
    rate = {"learning_rate": preset.supervised_learning_rate}
    return {
        "preset": preset_values(preset) | rate,
        "recipe": named,
        **what_it_learns_from(preset, seed, samples),
        "code": used_code(["foodseg.supervised.training"]),
    }


def _finish(folder: Path, config: dict, rows: list[dict], updater: SupervisedUpdater) -> dict:
    def save(into: Path) -> None:
        updater.mllm.save_adapter(into)
        if updater.head:
            updater.head.save(into)

    adapter = save_adapter(folder, save)
    result = config | {
        "steps": len(rows),
        "seconds": round(sum(row["seconds_update"] for row in rows), 1),
        "adapter": file_hash(adapter / ADAPTER_WEIGHTS),
        **provenance(updater.preset.device),
    }
    write_json(folder / "result.json", result)
    return result
