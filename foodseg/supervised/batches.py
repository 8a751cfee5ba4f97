"""Samples' targets as completions of an embedded prompt.

A target takes the form of a rollout's completion, so the packed rows that score completions
(`foodseg.models.shared_prefix`) score it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foodseg.data.samples import Sample
from foodseg.models.rollouts import Rollout
from foodseg.presets import Preset
from foodseg.supervised.targets import Baseline, to_tokens
from foodseg.training.photos import PhotoFeatures
from foodseg.training.sampler import draw_samples


def draw_batches(
    samples: Sequence[Sample], seed: int, step: int, preset: Preset
) -> list[list[Sample]]:
    """What each gradient step of training step `step`, from 0, learns from.

    Like RL's completions: as many in a gradient step and as many gradient steps, so both learn from
    the same number, each once. What RL spends on sampling is not made up for.
    """
    count = preset.prompts_per_step * preset.group_size
    size = preset.groups_per_update * preset.group_size
    drawn = draw_samples(samples, seed, step * count, count)
    return [drawn[first : first + size] for first in range(0, count, size)]


def target_rollouts(
    photos: PhotoFeatures, baseline: Baseline, samples: Sequence[Sample]
) -> list[Rollout]:
    """Each sample's prompt with its target as the only completion (log-probs 0)."""
    mllm, preset = photos.mllm, photos.preset
    visual_tokens = [photos.visual_tokens(sample.image, sample.image_sha256) for sample in samples]
    prompts = mllm.embed_prompts([sample.question for sample in samples], visual_tokens)
    texts = [baseline.write(sample, preset.image_side) for sample in samples]
    targets = [to_tokens(mllm, text) for text in texts]
    return [
        Rollout(prompt, (tokens,), (torch.zeros(len(tokens)),), (text,), (True,))
        for prompt, tokens, text in zip(prompts, targets, texts, strict=True)
    ]
