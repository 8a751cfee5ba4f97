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


def samples_in_a_step(preset: Preset) -> int:
    """Targets in one gradient step: as many as RL learns from completions in one of its own.

    With as many gradient steps (`steps` of `updates_per_rollout` each) both see the same number of
    completions, times the same number of updates. What RL spends on sampling is not made up for.
    """
    return preset.prompts_per_step * preset.group_size


def target_rollouts(
    photos: PhotoFeatures, baseline: Baseline, samples: Sequence[Sample]
) -> list[Rollout]:
    """Each sample's prompt with its target as the only completion (log-probs 0)."""
    mllm, preset = photos.mllm, photos.preset
    visual_tokens = [photos.visual_tokens(sample.image) for sample in samples]
    prompts = mllm.embed_prompts([sample.question for sample in samples], visual_tokens)
    texts = [baseline.write(sample, preset.image_side) for sample in samples]
    targets = [to_tokens(mllm, text) for text in texts]
    return [
        Rollout(prompt, (tokens,), (torch.zeros(len(tokens)),), (text,), (True,))
        for prompt, tokens, text in zip(prompts, targets, texts, strict=True)
    ]
