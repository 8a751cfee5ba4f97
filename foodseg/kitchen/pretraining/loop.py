"""The training loop of every stage of the kitchen MLLM's curriculum."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn

from foodseg.common.progress import tqdm

WARMUP = 50  # steps


def run_steps(
    title: str,
    steps: int,
    rates: Iterable[tuple[float, list[nn.Parameter]]],
    losses_of_step: Callable[[], dict[str, torch.Tensor]],
    weights: dict[str, float],
    device: torch.device,
) -> dict:
    """Minimise the weighted sum of losses by AdamW; warm-up, then cosine decay to 2%.

    rates: a learning rate and the parameters that it holds for. bfloat16 autocast around float32
    weights. Returns steps, seconds and running means of the losses.
    """
    groups = [{"params": parameters, "lr": rate, "rate": rate} for rate, parameters in rates]
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02)
    means: dict[str, float] = {}
    began = time.perf_counter()
    bar = tqdm(range(steps), desc=title, mininterval=10)
    for step in bar:
        factor = min((step + 1) / WARMUP, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = factor * group["rate"]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses = losses_of_step()
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        for name, loss in losses.items():
            means[name] = 0.98 * means.get(name, loss.item()) + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix_str(" ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
    return {"steps": steps, "seconds": round(time.perf_counter() - began), "losses": means}
