"""One rollout's updates: advantages, objective, gradient steps on the adapter.

Each rollout serves `updates_per_rollout` gradient steps over its groups, since with a single one
the ratio is 1 and no clip range matters. What can't change the gradient is not computed:

- the old log-probs are those of the first step's own forward, so its ratio is exactly 1, also
  where the sampler's kernels round otherwise; the log's `sampler_gap` says by how much they do;
- without a KL term a group whose advantages are all 0 has a gradient of exactly 0: it is left out,
  while its tokens still count in the normaliser (of groups that are all so, the first is kept);
- without a KL term the reference is only asked about the first group, to draw the KL's curve.

How many groups share a forward is planned from the memory there is (`training.memory`), in each
process for itself; the processes' gradients are summed (`common.processes`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch

from foodseg.common.processes import ALONE, Processes
from foodseg.common.progress import tqdm
from foodseg.models.fast.layers import training_layers
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE, Rollout
from foodseg.models.shared_prefix import TokenScores, completion_mask, pad_rows, score_groups
from foodseg.presets import Preset
from foodseg.rl.groups import Group
from foodseg.rl.objectives import k3, loss_normaliser, policy_loss
from foodseg.training.memory import (
    SHARE_AFTER_FAILURE,
    GroupTokens,
    MemoryPlan,
    available_bytes,
    checkpointed_layers,
    peak_memory_mb,
    plan_memory,
    take_rows,
)
from foodseg.training.model_sizes import ModelSizes

if TYPE_CHECKING:
    from foodseg.recipes import Recipe

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, eq=False)
class TrainedRows:
    """The completions that learn, one a row, and what stays fixed over a rollout's updates.

    advantages: (R, 1), or (R, L) where a completion's tokens differ; the log-probs: (R, L). All
    are 0 beyond a completion's end. The first gradient step fills `old_log_probs` and
    `reference_log_probs` in.
    """

    rollouts: list[Rollout]
    mask: torch.Tensor
    advantages: torch.Tensor
    old_log_probs: torch.Tensor
    reference_log_probs: torch.Tensor
    normaliser: float

    @property
    def group_sizes(self) -> list[int]:
        return [len(rollout.tokens) for rollout in self.rollouts]


class PolicyUpdater:
    """AdamW on the adapter, constant learning rate after a linear warm-up.

    score: what computes the log-probs of groups; the bench measures others beside ours.
    """

    def __init__(
        self,
        mllm: Mllm,
        preset: Preset,
        recipe: Recipe,
        processes: Processes = ALONE,
        score: Callable[[Mllm, Sequence[Rollout], float], TokenScores] = score_groups,
    ) -> None:
        self.mllm, self.preset, self.objective = mllm, preset, recipe.objective
        self.processes, self.score = processes, score
        self.advantages = recipe.advantages
        self.parameters = mllm.lora_parameters()
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=preset.learning_rate, weight_decay=0.01
        )
        warmup = preset.warmup_steps * preset.updates_per_rollout
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / max(warmup, 1))
        )
        self.sizes = ModelSizes.of(mllm)
        self.most_bytes: int | None = None  # what a forward may take since one ran out of memory
        self.plan: MemoryPlan | None = None
        self.referenced = 0  # rows of the batch that the reference has scored, from the first
        self.told: set[tuple[int, int, int]] = set()

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def update(self, groups: Sequence[Group]) -> dict:
        """All updates of one rollout; returns the means of their diagnostics as log fields.

        The diagnostics are means over the tokens trained on; without a KL term `kl` is that of the
        sampling policy, over the first group. `sampler_gap` is the mean distance between the
        sampler's log-probs and the old ones; `peak_memory_mb` is the step's on a GPU, on a CPU the
        process's so far.
        Raises torch.OutOfMemoryError if even the smallest forward does not fit.
        """
        start = time.perf_counter()
        normaliser = self._normaliser(groups)
        rows, self.referenced = self._trained_rows(groups, normaliser) if groups else None, 0
        self.plan = self._plan(rows) if rows else None
        passes = [
            self._gradient_step(rows, first=step == 0)
            for step in range(self.preset.updates_per_rollout)
        ]
        row = {key: fmean(one[key] for one in passes) for key in passes[0]}
        if not self.objective.kl_weight:
            row["kl"] = self.processes.gather([self._first_groups_kl(rows)] if rows else [])[0]
        gaps = torch.cat(self.processes.gather([_sampler_gaps(rows)] if rows else []))
        peak = max(self.processes.gather([peak_memory_mb(self.mllm.device)]))
        return row | {
            "sampler_gap": float(gaps.mean()),
            "seconds_update": time.perf_counter() - start,
            "peak_memory_mb": peak,
        }

    def _normaliser(self, groups: Sequence[Group]) -> float:
        """The loss's, over the groups of all processes."""
        lengths = [len(tokens) for group in groups for tokens in group.rollout.tokens]
        lengths = torch.tensor(self.processes.gather(lengths))
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return loss_normaliser(self.objective.normalisation, mask, self.preset.max_new_tokens)

    def _trained_rows(self, groups: Sequence[Group], normaliser: float) -> TrainedRows:
        advantages = self.advantages(groups, self.mllm.tokenizer)
        pairs = [(group.rollout, a) for group, a in zip(groups, advantages, strict=True)]
        if not self.objective.kl_weight:
            pairs = [pair for pair in pairs if any(map(np.any, pair[1]))] or pairs[:1]
        rollouts = [rollout for rollout, _ in pairs]
        mask = completion_mask(rollouts)
        scores = torch.promote_types(self.mllm.model.dtype, torch.float32)
        return TrainedRows(
            rollouts,
            mask,
            _advantage_rows([a for _, group in pairs for a in group], mask),
            torch.zeros(mask.shape, dtype=scores, device=mask.device),
            torch.zeros(mask.shape, dtype=scores, device=mask.device),
            normaliser,
        )

    def _plan(self, rows: TrainedRows) -> MemoryPlan:
        """A plan for these very completions, told when it is a new one."""
        groups = [GroupTokens.of(rollout) for rollout in rows.rollouts]
        limits = (available_bytes(self.mllm.device, self._missing_bytes()), self.most_bytes)
        limits = [limit for limit in limits if limit is not None]
        plan = plan_memory(self.sizes, groups, min(limits, default=None))
        if limits and plan.choice not in self.told:
            self.told.add(plan.choice)
            tqdm.write(plan.sentence(len(groups), self.sizes.layers))
        return plan

    def _missing_bytes(self) -> int:
        """Of the adapter's gradients and AdamW's two moments, those still to be allocated."""
        missing = 2 * (not self.optimizer.state) + (self.parameters[0].grad is None)
        return missing * self.sizes.adapter_bytes

    def _gradient_step(self, rows: TrainedRows | None, first: bool) -> dict:
        """One step of every process; rows: this one's, None if it has no group to learn from."""
        self.optimizer.zero_grad()
        parts = self.processes.gather(self._gradients(rows, first) if rows else [])
        self.processes.sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, MAX_GRADIENT_NORM, error_if_nonfinite=True
        )
        self.optimizer.step()
        self.schedule.step()
        row = {
            name: _mean(parts, name)
            for name in ("clip_low_fraction", "clip_high_fraction", "kl", "ratio", "entropy")
        }
        return row | {"loss": sum(part["loss"] for part in parts), "gradient_norm": norm.item()}

    def _gradients(self, rows: TrainedRows, first: bool) -> list[dict]:
        """The whole batch's gradients, begun again with a smaller plan when memory runs out."""
        while True:
            self.optimizer.zero_grad()
            try:
                return self._backward_all(rows, first)
            except torch.OutOfMemoryError as error:
                failure = error.with_traceback(None)  # its frames hold the forward's tensors
            self.optimizer.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
            self._plan_for_less(rows, failure)

    def _backward_all(self, rows: TrainedRows, first: bool) -> list[dict]:
        model, parts = self.mllm.language_model, self.plan.row_ranges(rows.group_sizes)
        with training_layers(model), checkpointed_layers(model, self.plan.checkpointed):
            return [self._backward(rows, part, first) for part in parts]

    def _plan_for_less(self, rows: TrainedRows, failure: torch.OutOfMemoryError) -> None:
        failed = self.plan
        tqdm.write(
            f"Out of memory in a forward counted at {failed.forward_bytes / 1e9:.2f} GB; this "
            "gradient step begins again with less in a forward, for the same result."
        )
        self.most_bytes = int(SHARE_AFTER_FAILURE * failed.forward_bytes)
        self.plan = self._plan(rows)
        if self.plan.choice == failed.choice:
            raise torch.OutOfMemoryError(
                "Out of memory with one completion in a forward and all layers checkpointed: "
                "reduce image_side, max_new_tokens or lora_rank of the preset, or free the GPU."
            ) from failure

    def _backward(self, rows: TrainedRows, part: range, first: bool) -> dict:
        rollouts, inside = take_rows(rows.rollouts, part), slice(part.start, part.stop)
        width = max(len(tokens) for rollout in rollouts for tokens in rollout.tokens)
        old = rows.old_log_probs[inside, :width]
        reference = rows.reference_log_probs[inside, :width] if self.objective.kl_weight else None
        if reference is not None and part.stop > self.referenced:
            reference.copy_(self._reference_log_probs(rollouts))
            self.referenced = part.stop
        scores = self.score(self.mllm, rollouts, TEMPERATURE)
        if first:
            old.copy_(scores.log_probs.detach())
        loss = policy_loss(
            scores.log_probs,
            old,
            rows.advantages[inside, :width],
            scores.mask,
            reference_log_probs=reference,
            normaliser=rows.normaliser,
            **asdict(self.objective),
        )
        loss.loss.backward()
        fields = ("tokens", "clip_low_fraction", "clip_high_fraction", "ratio", "kl")
        return {name: getattr(loss, name) for name in fields} | {
            "loss": loss.loss.item(),
            "entropy": scores.entropies[scores.mask].mean().item(),
        }

    def _first_groups_kl(self, rows: TrainedRows) -> float:
        with training_layers(self.mllm.language_model):
            reference = self._reference_log_probs(rows.rollouts[:1])
        inside = slice(rows.group_sizes[0]), slice(reference.shape[1])
        difference = reference - rows.old_log_probs[inside]
        return k3(difference[rows.mask[inside]]).mean().item()

    def _reference_log_probs(self, rollouts: Sequence[Rollout]) -> torch.Tensor:
        with torch.no_grad(), self.mllm.reference_policy():
            return self.score(self.mllm, rollouts, TEMPERATURE).log_probs


def _mean(parts: Sequence[dict], name: str) -> float:
    """Over the tokens of all parts."""
    tokens = sum(part["tokens"] for part in parts)
    return sum(part[name] * part["tokens"] for part in parts) / tokens


def _advantage_rows(advantages: Sequence[float | np.ndarray], mask: torch.Tensor) -> torch.Tensor:
    """float32, (R, 1) if every completion has one number, else (R, L) with 0 outside the mask."""
    if all(np.ndim(one) == 0 for one in advantages):
        return torch.tensor(advantages, dtype=torch.float32, device=mask.device)[:, None]
    lengths = mask.sum(1).tolist()
    rows = [
        torch.tensor(np.broadcast_to(one, length), dtype=torch.float32)
        for one, length in zip(advantages, lengths, strict=True)
    ]
    return pad_rows([row.to(mask.device) for row in rows], mask)


def _sampler_gaps(rows: TrainedRows) -> torch.Tensor:
    """(N,), of the tokens learnt from: how far the sampler's log-prob is from the old one."""
    sampled = [row for rollout in rows.rollouts for row in rollout.log_probs]
    return (pad_rows(sampled, rows.mask) - rows.old_log_probs)[rows.mask].abs().cpu()
