"""The training loop of every stage of the kitchen MLLM's curriculum."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from foodseg.common.progress import tqdm
from foodseg.kitchen.pretraining.precision import autocast_dtype
from foodseg.kitchen.pretraining.work_folder import load, save_whole

WARMUP = 50  # steps
CHECKPOINT_EVERY = 100


def run_steps(
    title: str,
    steps: int,
    rates: Iterable[tuple[float, list[nn.Parameter]]],
    losses_of_step: Callable[[int], dict[str, torch.Tensor]],
    weights: dict[str, float],
    checkpoint: Path,
) -> dict:
    """Minimise the weighted sum of losses by AdamW; warm-up, then cosine decay to 2%.

    rates: a learning rate and the parameters that it holds for. losses_of_step: its randomness
    comes from the step's number alone. Float32 weights, under `autocast_dtype`. An interrupted
    call goes on from `checkpoint` when it is made again, and then removes it. Returns steps,
    seconds and running means of the losses.
    """
    groups = [{"params": parameters, "lr": rate, "rate": rate} for rate, parameters in rates]
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02)
    first, seconds, means = _restore(checkpoint, parameters, optimiser)
    device, began = parameters[0].device, time.perf_counter() - seconds
    dtype = autocast_dtype(device)
    bar = tqdm(range(first, steps), desc=title, initial=first, total=steps, mininterval=10)
    for step in bar:
        factor = min((step + 1) / WARMUP, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = factor * group["rate"]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            losses = losses_of_step(step)
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        for name, loss in losses.items():
            means[name] = 0.98 * means.get(name, loss.item()) + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix_str(" ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
        if (step + 1) % CHECKPOINT_EVERY == 0:
            seconds = time.perf_counter() - began
            _save(checkpoint, parameters, optimiser, step + 1, seconds, means)
    checkpoint.unlink(missing_ok=True)
    return {"steps": steps, "seconds": round(time.perf_counter() - began), "losses": means}


def _save(checkpoint, parameters, optimiser, step, seconds, means) -> None:
    state = {"step": step, "seconds": seconds, "means": means, "optimiser": optimiser.state_dict()}
    save_whole(state | {"parameters": [one.detach() for one in parameters]}, checkpoint)


def _restore(checkpoint: Path, parameters, optimiser) -> tuple[int, float, dict[str, float]]:
    """The first step to take, the seconds and the means so far."""
    if not checkpoint.is_file():
        return 0, 0.0, {}
    state = load(checkpoint)
    for parameter, value in zip(parameters, state["parameters"], strict=True):
        parameter.data.copy_(value)
    optimiser.load_state_dict(state["optimiser"])
    return state["step"], state["seconds"], state["means"]
