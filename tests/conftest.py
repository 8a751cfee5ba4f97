"""Shared fixtures: the shipped kitchen model, loaded once for each session and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from foodseg.models.mllm import Mllm
from foodseg.presets import SMOKE


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture()
def kitchen_mllm():
    """A fresh float32 kitchen model (each test may add its own adapter)."""
    return load_kitchen(torch.float32)


def load_kitchen(dtype: torch.dtype) -> Mllm:
    return Mllm.load(
        SMOKE.mllm, image_side=SMOKE.image_side, template=SMOKE.prompt_template, dtype=dtype
    )


def toy_prompts(mllm: Mllm, count: int = 3):
    """Prompts of different lengths about random pictures."""
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 255, (60 + 20 * i, 90, 3), dtype=np.uint8))
        for i in range(count)
    ]
    questions = [f"Which food is rich in iron{' and fibre' * i}?" for i in range(count)]
    return mllm.embed_prompts(questions, mllm.embed_images(images))
