"""Train a supervised baseline; a run's folder is like one of RL's.

adapter/ holds the LoRA adapter with its prompt template and, for a baseline that writes [SEG],
mask_head.safetensors. A log row is one step of the preset, with as many gradient steps as RL takes
in one, each on samples of its own, so steps count the same in all curves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from foodseg.common.errors import DataError
from foodseg.common.lock import alone
from foodseg.common.processes import Processes
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.presets import Preset
from foodseg.supervised.batches import draw_batches
from foodseg.supervised.mask_head import MaskHead
from foodseg.supervised.own_answers import own_answers
from foodseg.supervised.targets import Baseline, allow_seg
from foodseg.supervised.updates import SupervisedUpdater
from foodseg.system import load_policy, load_segmenter, one_thread
from foodseg.training.identity import (
    check_learnable,
    payable,
    payable_told,
    preset_values,
    used_code,
    what_it_learns_from,
)
from foodseg.training.memory import peak_memory_mb
from foodseg.training.run_folder import claim, finish, restore, take_steps


def train_baseline(
    preset: Preset, baseline: Baseline, seed: int, samples: Sequence[Sample]
) -> dict:
    """Train one baseline, or go on where an interrupted run stopped; returns its result.

    As `training.trainer.train`: a finished run is returned as it is, one of another configuration
    is moved aside; on a CPU it computes in one thread. Raises ValueError in one of several
    processes, and DataError if another training is at this folder, or if there is nothing to learn
    from.
    """
    if Processes.find(preset.device).world_size > 1:
        raise ValueError(
            f"{baseline.name}: a supervised baseline trains in one process; start one."
        )
    samples = payable_told(baseline.title, samples, baseline.nothing)
    check_learnable(preset, samples)
    _check_answers(baseline, samples)
    folder = preset.run_folder(baseline.name, seed)
    config = baseline_config(preset, baseline, seed, samples)
    with alone(folder), one_thread(preset.device):
        if finished := claim(folder, config):
            return finished
        updater, sampled = start(preset, baseline, seed), 0
        if baseline.own:  # its adapter is new, so what it samples is the base's
            samples = own_answers(folder, preset, seed, samples, updater.mllm)
            sampled = preset.steps * preset.round_size
        learner = BaselineLearner(updater, seed, samples, sampled)
        rows = restore(folder, learner)
        rows = take_steps(folder, f"{baseline.title}, seed {seed}", preset, learner, rows)
        return finish(folder, config, len(rows), rows, learner)


def _check_answers(baseline: Baseline, samples: Sequence[Sample]) -> None:
    """The data's answers are what a baseline is taught to think, unless it has its own."""
    silent = sum(not sample.answer.strip() for sample in samples)
    if silent and not baseline.own:
        raise DataError(
            f"samples: {silent} of {len(samples)} have no answer, and {baseline.name} would learn "
            "an empty thought; write the field answer of your questions, or train a recipe."
        )


@dataclass(frozen=True)
class BaselineLearner:
    """A baseline in training, as a run's folder sees it."""

    updater: SupervisedUpdater
    seed: int
    samples: Sequence[Sample]
    sampled: int = 0

    def ends(self, steps: int) -> bool:
        """Whether the run ends with so many steps."""
        return steps >= self.updater.preset.steps

    def step(self, index: int) -> dict:
        """One step of the preset, each of its gradient steps on samples of its own."""
        began = time.perf_counter()
        batches = draw_batches(self.samples, self.seed, index, self.updater.preset)
        updates = [self.updater.gradient_step(batch) for batch in batches]
        taken = [one for one in updates if one]
        means = {name: fmean(one[name] for one in taken) for name in taken[0]} if taken else {}
        return means | {
            "skipped_steps": len(updates) - len(taken),
            "seconds_update": time.perf_counter() - began,
            "peak_memory_mb": peak_memory_mb(self.updater.mllm.device),
        }

    def state_dict(self) -> dict:
        """All that the next step needs."""
        return self.updater.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.updater.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """Write the adapter and, if it was trained, the mask head."""
        self.updater.mllm.save_adapter(folder, self.updater.preset.name)
        if self.updater.head:
            self.updater.head.save(folder)


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


def baseline_config(
    preset: Preset, baseline: Baseline, seed: int, samples: Sequence[Sample]
) -> dict:
    """All that decides the run's result, as JSON values."""
    named = {"name": baseline.name, "title": baseline.title, "template": baseline.template}
    named |= {"own": True} if baseline.own else {}
    named |= {"nothing": True} if baseline.nothing else {}
    rate = {"learning_rate": preset.supervised_learning_rate}
    return {
        "preset": preset_values(preset) | rate,
        "recipe": named,
        **what_it_learns_from(preset, seed, payable(samples, baseline.nothing)),
        "code": used_code(["foodseg.supervised.training"]),
    }
