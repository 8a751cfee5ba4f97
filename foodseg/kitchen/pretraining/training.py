"""What the stages of the kitchen MLLM's curriculum share: batches, optimisers, the inner loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from foodseg.kitchen.pretraining.mllm import SIDE
from foodseg.kitchen.pretraining.pictures import Pictures
from foodseg.kitchen.scene import DAYLIGHT_LEVELS


def take_pictures(pictures: Pictures, rows: np.ndarray, rng: np.random.Generator) -> Pictures:
    """Rows of a set, each mirrored or transposed at random; daylight stays as it falls.

    Daylight is the model's cue for absolute places, so a turned plate gets the difference between
    the daylight that belongs there and the one that came with it.
    """
    turned = [_turn(pictures, row, *(rng.random(3) < (0.5, 0.3, 0.3))) for row in rows]
    return Pictures(*(np.stack(column) for column in zip(*turned, strict=True)))


def _turn(pictures: Pictures, row: int, across: bool, down: bool, swap: bool):
    image = pictures.images[row].astype(np.float32)
    cells, foods = pictures.cells[row], pictures.foods[row]
    references = pictures.references[row].copy()
    light = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32) * DAYLIGHT_LEVELS
    image[..., 0] -= light[None, :]
    image[..., 2] -= light[:, None]
    if across:
        image, cells = image[:, ::-1], cells[:, ::-1]
        references = _mirror(references, (2, 1, 0, 3, 4, 5), (0, 2, 4))
    if down:
        image, cells = image[::-1], cells[::-1]
        references = _mirror(references, (0, 3, 2, 1, 4, 5), (1, 3, 5))
    if swap:
        image, cells = image.swapaxes(0, 1), cells.swapaxes(0, 1)
        references = references[:, [1, 0, 3, 2, 5, 4]]
    image = image.copy()
    image[..., 0] += light[None, :]
    image[..., 2] += light[:, None]
    count = int((foods > 0).sum())
    order = np.argsort(references[:count, 0] + references[:count, 2], kind="stable")
    foods, sorted_references = foods.copy(), np.zeros_like(references)
    foods[:count], sorted_references[:count] = foods[order], references[order]
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return image, cells, foods, sorted_references


def _mirror(references: np.ndarray, order: tuple, columns: tuple) -> np.ndarray:
    mirrored = references[:, list(order)]
    mirrored[:, list(columns)] = SIDE - 1 - mirrored[:, list(columns)]
    return mirrored


def build_optimiser(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)


def run_steps(
    title: str,
    steps: int,
    optimiser: torch.optim.Optimizer,
    losses_of: Callable[[int], dict[str, torch.Tensor]],
    weights: dict[str, float],
    device: torch.device,
    warmup: int = 50,
) -> dict:
    """Minimise the weighted sum of `losses_of(step)`; warm-up, then cosine decay to 2%.

    bfloat16 autocast around float32 weights. Returns steps, seconds and the last mean losses.
    """
    groups = optimiser.param_groups
    rates = [group["lr"] for group in groups]
    parameters = [p for group in groups for p in group["params"]]
    means: dict[str, float] = {}
    began = time.perf_counter()
    bar = tqdm(range(steps), desc=title, mininterval=10)
    for step in bar:
        factor = min((step + 1) / warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses = losses_of(step)
        total = sum(weights.get(name, 0.0) * loss for name, loss in losses.items())
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for name, loss in losses.items():
            means[name] = 0.98 * means.get(name, loss.item()) + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix_str(" ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
    return {"steps": steps, "seconds": round(time.perf_counter() - began), "losses": means}
