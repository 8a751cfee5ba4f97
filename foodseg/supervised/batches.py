"""Samples in a seeded order, and their targets as completions of an embedded prompt.

A target takes the form of a rollout's completion, so the packed rows that score completions
(`foodseg.rl.shared_prefix`) score it too. A photo asked about twice is embedded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.presets import Preset
from foodseg.rl.groups import read_photos
from foodseg.rl.rollouts import Rollout
from foodseg.supervised.targets import Baseline, to_tokens


def samples_in_a_step(preset: Preset) -> int:
    """Targets in one gradient step: as many as RL learns from completions in one of its own.

    With as many gradient steps (`steps` of `updates_per_rollout` each) both see the same number of
    completions, times the same number of updates. What RL spends on sampling is not made up for.
    """
    return preset.prompts_per_step * preset.group_size


def draw_samples(samples: Sequence[Sample], seed: int, cursor: int, count: int) -> list[Sample]:
    """`count` samples from the `cursor`-th on: epoch after epoch, each in an order of its own."""
    chosen = []
    for index in range(cursor, cursor + count):
        epoch, position = divmod(index, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        chosen.append(samples[order[position]])
    return chosen


def target_rollouts(
    mllm: Mllm, preset: Preset, baseline: Baseline, samples: Sequence[Sample]
) -> list[Rollout]:
    """Each sample's prompt with its target as the only completion (log-probs 0)."""
    rollouts = []
    for start in range(0, len(samples), preset.prompts_per_step):
        rollouts += _embed(mllm, preset, baseline, samples[start : start + preset.prompts_per_step])
    return rollouts


def _embed(mllm, preset, baseline: Baseline, samples: Sequence[Sample]) -> list[Rollout]:
    photos = read_photos(mllm, preset, samples)
    visual = dict(zip(photos, mllm.embed_images(list(photos.values())), strict=True))
    questions = [sample.question for sample in samples]
    prompts = mllm.embed_prompts(questions, [visual[sample.image] for sample in samples])
    texts = [baseline.write(sample, preset.image_side) for sample in samples]
    targets = [to_tokens(mllm, text) for text in texts]
    return [
        Rollout(prompt, (tokens,), (torch.zeros(len(tokens)),), (text,), (True,))
        for prompt, tokens, text in zip(prompts, targets, texts, strict=True)
    ]
