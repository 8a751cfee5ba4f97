"""Train on all GPUs of this machine from a notebook.

From a shell, a row of the ablation table trains on them by

    accelerate launch -m foodseg.ablations dapo --seed 0 --preset paper
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import notebook_launcher

from foodseg.common.lock import alone
from foodseg.data.samples import Sample
from foodseg.presets import Preset
from foodseg.training.identity import goes_on, run_config
from foodseg.training.run_folder import claim
from foodseg.training.trainer import train

if TYPE_CHECKING:  # a training loads only the methods that its recipe uses
    from foodseg.recipes import Recipe


def train_on_all_gpus(
    preset: Preset,
    recipe: Recipe,
    seed: int,
    samples: Sequence[Sample],
    on_step: Callable[[Path], None] | None = None,
) -> dict:
    """`trainer.train`, by one process a GPU where there are several; returns its result.

    Those processes can't draw in the notebook: with several GPUs `on_step` is not called, and
    log.jsonl tells how far they are. Raises RuntimeError if this process has used a GPU before, and
    else as `trainer.train`.
    """
    gpus = torch.cuda.device_count() if preset.device == "cuda" else 1
    if gpus < 2:
        return train(preset, recipe, seed, samples, on_step)
    count = min(gpus, preset.prompts_per_step)
    folder, config = preset.run_folder(recipe.name, seed), run_config(preset, recipe, seed, samples)
    with alone(folder):
        if result := claim(folder, config, goes_on):
            return result
    notebook_launcher(train, (preset, recipe, seed, samples), num_processes=count)
    with alone(folder):
        return claim(folder, config)
