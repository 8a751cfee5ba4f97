"""A batch goes through the model by a memory plan, and again with less when memory runs out."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from foodseg.common.progress import tqdm
from foodseg.models.fast.layers import training_layers
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import Rollout
from foodseg.training.memory import (
    SHARE_AFTER_FAILURE,
    GroupTokens,
    MemoryPlan,
    ModelSizes,
    available_bytes,
    plan_memory,
)
from foodseg.training.optimizer import Optimizer


class PlannedForwards:
    """Forwards and backwards of a gradient step, as many and as large as memory allows.

    reserve_bytes: left free beside a forward on a GPU. cpu_groups: groups in a forward on a CPU,
    where memory is no question.
    """

    def __init__(
        self, mllm: Mllm, optimizer: Optimizer, reserve_bytes: int = 0, cpu_groups: int = 1
    ) -> None:
        self.mllm, self.optimizer = mllm, optimizer
        self.reserve_bytes, self.cpu_groups = reserve_bytes, cpu_groups
        self.sizes = ModelSizes.of(mllm)
        self.plan: MemoryPlan | None = None
        self.most_bytes: int | None = None  # what a forward may take since one ran out of memory
        self.printed_plans: set[tuple[int, int, int]] = set()

    def make_plan(self, rollouts: Sequence[Rollout]) -> None:
        """Plan memory for these completions; print the plan when it changes."""
        groups = [GroupTokens.of(rollout) for rollout in rollouts]
        missing = self.optimizer.missing_bytes + self.reserve_bytes
        limits = (available_bytes(self.mllm.device, missing), self.most_bytes)
        limits = [limit for limit in limits if limit is not None]
        self.plan = plan_memory(self.sizes, groups, min(limits, default=None))
        if not limits:
            self.plan = replace(self.plan, groups=self.cpu_groups)
        elif self.plan.choice not in self.printed_plans:
            self.printed_plans.add(self.plan.choice)
            tqdm.write(self.plan.sentence(len(groups), self.sizes.layers))

    def run(self, rollouts: Sequence[Rollout], backward: Callable[[range], dict]) -> list[dict]:
        """`backward` of each forward's completions, numbered through all rollouts.

        Every plan adds up to the same gradient, so after an out-of-memory error all of them begin
        again under a smaller plan. Raises torch.OutOfMemoryError if the smallest does not fit.
        """
        sizes, model = [len(rollout.tokens) for rollout in rollouts], self.mllm.language_model
        while True:
            self.optimizer.zero_gradients()
            try:
                with training_layers(model), checkpointed_layers(model, self.plan.checkpointed):
                    return [backward(part) for part in self.plan.row_ranges(sizes)]
            except torch.OutOfMemoryError as error:
                failure = error.with_traceback(None)  # its frames hold the forward's tensors
            self._shrink_plan(rollouts, failure)

    def _shrink_plan(self, rollouts: Sequence[Rollout], failure: torch.OutOfMemoryError) -> None:
        self.optimizer.zero_gradients()
        gc.collect()
        torch.cuda.empty_cache()
        failed = self.plan
        tqdm.write(
            f"Out of memory in a forward counted at {failed.forward_bytes / 1e9:.2f} GB; this "
            "gradient step begins again with less in a forward, for the same result."
        )
        self.most_bytes = int(SHARE_AFTER_FAILURE * failed.forward_bytes)
        self.make_plan(rollouts)
        if self.plan.choice == failed.choice:
            raise torch.OutOfMemoryError(
                "Out of memory with one completion in a forward and all layers checkpointed: "
                "reduce image_side, max_new_tokens or lora_rank of the preset, or free the GPU."
            ) from failure


@contextlib.contextmanager
def checkpointed_layers(language_model: nn.Module, count: int) -> Iterator[None]:
    """Within this context the first `count` decoder layers keep only their input.

    The first, since their recomputation begins when the later layers' activations are gone.
    """
    layers = language_model.layers[:count]
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(
            checkpoint, use_reentrant=False, preserve_rng_state=False
        )
        # transformers asks for it; set on the layer alone, so that nothing in it changes mode.
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
