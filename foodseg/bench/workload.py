"""What all trainers of the benchmark are given: one policy, one preset, the same questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from foodseg.models.mllm import Mllm
from foodseg.presets import KITCHEN, Preset
from foodseg.system import load_policy

SEED = 0
# The kitchen's step with every completion of one length. TRL's learning rate is constant, so no
# side has a warm-up.
STEP = replace(
    KITCHEN,
    prompts_per_step=8,
    group_size=8,
    max_new_tokens=64,
    groups_per_update=2,
    warmup_steps=0,
)
Load = Callable[[Preset], Mllm]


def make_policy(preset: Preset, load: Load = load_policy) -> Mllm:
    """The preset's MLLM with a fresh adapter."""
    mllm = load(preset)
    mllm.add_lora(preset.lora_rank, preset.lora_alpha, SEED)
    return mllm


def ban_end_token(mllm: Mllm) -> None:
    """From here on no completion ends before the length limit."""
    mllm.banned_token_ids = [*mllm.banned_token_ids, mllm.eos_token_id]


def randomise_adapter(mllm: Mllm, scale: float = 0.02) -> None:
    """LoRA's B starts at zero, and with it the KL; give every adapter weight a small value."""
    generator = torch.Generator().manual_seed(SEED)
    for parameter in mllm.lora_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(noise * scale)
