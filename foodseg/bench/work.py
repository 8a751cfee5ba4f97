"""The work that every side of the benchmark does: model, questions, sizes, reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from foodseg.data.references import scale_reference
from foodseg.data.samples import Sample, load_samples
from foodseg.models.mllm import Mllm
from foodseg.presets import KITCHEN, Preset
from foodseg.recipes import GRPO
from foodseg.rl.answers import parse_answer
from foodseg.rl.rewards import RewardThresholds, score_answer
from foodseg.system import load_policy
from foodseg.training.sampler import GroupSampler, draw_samples

SEED = 0


@dataclass(frozen=True)
class Shape:
    """One step: `prompts` x `group_size` completions of exactly `length` tokens, then `updates`."""

    prompts: int = 8
    group_size: int = 8
    length: int = 64
    updates: int = 2

    @property
    def rows(self) -> int:
        return self.prompts * self.group_size


def bench_preset(shape: Shape) -> Preset:
    """The kitchen with this step; a constant learning rate, so that all sides share it."""
    return replace(
        KITCHEN,
        prompts_per_step=shape.prompts,
        group_size=shape.group_size,
        updates_per_rollout=shape.updates,
        max_new_tokens=shape.length,
        warmup_steps=0,
    )


def bench_policy(preset: Preset) -> Mllm:
    """The kitchen MLLM with a fresh adapter, on one thread."""
    torch.set_num_threads(1)  # a side's process does nothing else
    mllm = load_policy(preset)
    mllm.add_lora(preset.lora_rank, preset.lora_alpha, SEED)
    return mllm


def ban_end_token(mllm: Mllm) -> None:
    """From here on no completion ends before the length limit."""
    mllm.banned_token_ids = [*mllm.banned_token_ids, mllm.eos_token_id]


def training_questions(preset: Preset) -> list[Sample]:
    """The training split, as notebook 01 wrote it; DataError if it is missing."""
    return load_samples(preset.samples_file("train"))


def make_sampler(mllm: Mllm, preset: Preset, samples: Sequence[Sample]) -> GroupSampler:
    """The trainer's own source of scored groups."""
    return GroupSampler(mllm, preset, GRPO, samples, SEED)


def in_drawing_order(sampler: GroupSampler, count: int) -> list[Sample]:
    """The first `count` questions that the sampler will draw."""
    return draw_samples(sampler.samples, sampler.seed, 0, count)


def reward(text: str, sample: Sample, image_side: int) -> float:
    """The paper's reward of one completion, as `foodseg.rl.groups.score_group` gives it."""
    references = [
        scale_reference(r, sample.size, (image_side, image_side)) for r in sample.references
    ]
    thresholds = RewardThresholds().scaled(image_side)
    return score_answer(parse_answer(text), references, thresholds).total


def randomise_adapter(parameters: Sequence[torch.nn.Parameter], scale: float = 0.02) -> None:
    """LoRA's B starts at zero, and with it the KL; give every adapter weight a small value."""
    generator = torch.Generator().manual_seed(SEED)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(noise * scale)
