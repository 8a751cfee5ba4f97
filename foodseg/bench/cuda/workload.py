"""What is measured on a GPU: Qwen2.5-VL-3B with random weights, drawn plates, long questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig

from foodseg.bench.workload import SEED
from foodseg.data.samples import Sample
from foodseg.data.single import build_single
from foodseg.kitchen.dataset import write_kitchen
from foodseg.models import prompts
from foodseg.models.mllm import Mllm
from foodseg.models.random_mllm import random_mllm
from foodseg.presets import KITCHEN, PAPER, Preset
from foodseg.recipes import GRPO

# The shape whose floor is known (`cuda.page`): 8 x 8, 840 x 840 pixels, 1,100 + 150 tokens.
STEP = replace(
    PAPER,
    mllm="random weights",
    prompt_template=prompts.KITCHEN,
    prompts_per_step=8,
    group_size=8,
    max_new_tokens=150,
    groups_per_update=8,
    warmup_steps=0,
)
PROMPT_TOKENS = 1100
FILLER = " please" * 48  # makes a question about a photo of 840 x 840 so many tokens long
WITHOUT_KL = replace(GRPO, objective=replace(GRPO.objective, kl_weight=0.0))  # the floor has none


def random_policy(config: Qwen2_5_VLConfig, preset: Preset) -> Mllm:
    """A model of this configuration with random weights and the kitchen's tokenizer."""
    dtype = getattr(torch, preset.dtype)
    side, template = preset.image_side, preset.prompt_template
    return random_mllm(config, KITCHEN.mllm, side, preset.device, dtype, SEED, template)


def draw_questions(folder: Path, count: int) -> list[Sample]:
    """A long question about each of `count` plates, which are drawn into `folder`."""
    root = folder.absolute() / "FoodSeg103"
    write_kitchen(root, count, 0, SEED, workers=1)
    samples, _ = build_single(root, "train")
    one_a_plate = {sample.dish_id: sample for sample in samples}.values()
    return [
        replace(sample, image=str(root / sample.image), question=sample.question + FILLER)
        for sample in one_a_plate
    ]
