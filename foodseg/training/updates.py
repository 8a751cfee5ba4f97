"""One rollout's updates: advantages, objective, gradient steps on the adapter.

Each rollout serves `updates_per_rollout` gradient steps over its groups, since with a single one
the ratio is 1 and no clip range matters. What can't change the gradient is not computed:

- the old log-probs are those of the first gradient step's own forward, so its ratio is exactly 1,
  also where the sampler's kernels round otherwise; the log's `sampler_gap` says by how much;
- without a KL term a group whose advantages are all 0 has a gradient of exactly 0: it is left out,
  while its tokens still count in the normaliser (if no group has signal, the first is kept);
- without a KL term the reference scores only the first group, for the log's `kl`.

How many groups share a forward is planned from the free memory (`training.forwards`), in each
process for itself; the processes' gradients are summed (`common.processes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch

from foodseg.common.processes import ALONE, Processes
from foodseg.models.fast.layers import training_layers
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE, Rollout
from foodseg.models.shared_prefix import TokenScores, completion_mask, pad_rows, score_groups
from foodseg.presets import Preset
from foodseg.rl.groups import Group
from foodseg.rl.objectives import k3, loss_normaliser, policy_loss
from foodseg.training.forwards import PlannedForwards
from foodseg.training.memory import peak_memory_mb, take_rows
from foodseg.training.optimizer import Optimizer, warm_up

if TYPE_CHECKING:  # a training loads only the methods that its recipe uses
    from foodseg.recipes import Recipe


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
    """Gradient steps on the adapter, at a constant learning rate after a linear warm-up.

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
        self.mllm, self.preset, self.processes, self.score = mllm, preset, processes, score
        self.objective, self.advantages = recipe.objective, recipe.advantages
        self.optimizer = Optimizer(
            mllm.lora_parameters(),
            preset.learning_rate,
            weight_decay=0.01,
            factor=warm_up(preset.warmup_steps * preset.updates_per_rollout),
        )
        self.forwards = PlannedForwards(mllm, self.optimizer)
        self.reference_rows_done = 0  # of the batch's completions, from the first

    def state_dict(self) -> dict:
        """The optimizer's state; the adapter is the model's."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.optimizer.load_state_dict(state)

    def update(self, groups: Sequence[Group]) -> dict:
        """All updates of one rollout; returns the means of their diagnostics as log fields.

        The diagnostics are means over the tokens trained on; without a KL term `kl` is that of the
        sampling policy, over the first group. `sampler_gap` is the mean distance between the
        sampler's log-probs and the old ones; `peak_memory_mb` is the step's on a GPU, on a CPU the
        process's so far. `groups` may be empty in one of several processes.
        Raises torch.OutOfMemoryError if even the smallest forward does not fit.
        """
        start, normaliser = time.perf_counter(), self._normaliser(groups)
        rows, self.reference_rows_done = self._trained_rows(groups, normaliser), 0
        if rows:
            self.forwards.make_plan(rows.rollouts)
        steps = []
        for index in range(self.preset.updates_per_rollout):
            backward, parts = partial(self.backward, rows, first=index == 0), []
            self.optimizer.zero_gradients()
            if rows:  # a process without a group still takes part in the sum
                parts = self.forwards.run(rows.rollouts, backward)
            parts = self.processes.gather(parts)
            self.processes.sum_gradients(self.optimizer.parameters)
            steps.append(_diagnostics(parts) | {"gradient_norm": self.optimizer.step()})
        row = {name: fmean(one[name] for one in steps) for name in steps[0]}
        return row | self._once(rows) | {"seconds_update": time.perf_counter() - start}

    def backward(self, rows: TrainedRows, part: range, *, first: bool) -> dict:
        """Forward and backward of some of the rows; returns their diagnostics.

        first: whether this is the rollout's first gradient step, which fixes the old log-probs.
        """
        rollouts, inside = take_rows(rows.rollouts, part), slice(part.start, part.stop)
        # These rows are padded to their own longest completion, not to the batch's.
        width = max(len(tokens) for rollout in rollouts for tokens in rollout.tokens)
        old = rows.old_log_probs[inside, :width]
        reference = rows.reference_log_probs[inside, :width] if self.objective.kl_weight else None
        # The reference policy never moves: it scores each row once, not in every gradient step.
        if reference is not None and part.stop > self.reference_rows_done:
            reference.copy_(self._reference_log_probs(rollouts))
            self.reference_rows_done = part.stop
        scores = self.score(self.mllm, rollouts, TEMPERATURE)
        if first:  # the policy that sampled is still this one, so the ratio is exactly 1
            old.copy_(scores.log_probs.detach())
        loss = policy_loss(
            scores.log_probs,
            old,
            rows.advantages[inside, :width],
            scores.mask,
            self.objective,
            reference_log_probs=reference,
            normaliser=rows.normaliser,  # the whole batch's, so parts add up to its gradient
        )
        loss.loss.backward()
        entropy = scores.entropies[scores.mask].mean().item()
        return loss.figures() | {"loss": loss.loss.item(), "entropy": entropy}

    def _normaliser(self, groups: Sequence[Group]) -> float:
        """The loss's, over the groups of all processes."""
        lengths = [len(tokens) for group in groups for tokens in group.rollout.tokens]
        lengths = torch.tensor(self.processes.gather(lengths))
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return loss_normaliser(self.objective.normalisation, mask, self.preset.max_new_tokens)

    def _trained_rows(self, groups: Sequence[Group], normaliser: float) -> TrainedRows | None:
        if not groups:
            return None
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

    def _once(self, rows: TrainedRows | None) -> dict:
        """What is measured once for all updates of a rollout."""
        row = {}
        if not self.objective.kl_weight:
            row["kl"] = self.processes.gather([self._first_groups_kl(rows)] if rows else [])[0]
        gaps = torch.cat(self.processes.gather([_sampler_gaps(rows)] if rows else []))
        row["sampler_gap"] = float(gaps.mean())
        row["peak_memory_mb"] = max(self.processes.gather([peak_memory_mb(self.mllm.device)]))
        return row

    def _first_groups_kl(self, rows: TrainedRows) -> float:
        with training_layers(self.mllm.language_model):
            reference = self._reference_log_probs(rows.rollouts[:1])
        inside = slice(rows.group_sizes[0]), slice(reference.shape[1])
        difference = reference - rows.old_log_probs[inside]
        return k3(difference[rows.mask[inside]]).mean().item()

    def _reference_log_probs(self, rollouts: Sequence[Rollout]) -> torch.Tensor:
        with torch.no_grad(), self.mllm.reference_policy():
            return self.score(self.mllm, rollouts, TEMPERATURE).log_probs


def _diagnostics(parts: Sequence[dict]) -> dict:
    """Those of one gradient step: means over the tokens of all its forwards, and the loss."""
    tokens = sum(part["tokens"] for part in parts)
    names = ("clip_low_fraction", "clip_high_fraction", "kl", "ratio", "entropy")
    row = {name: sum(part[name] * part["tokens"] for part in parts) / tokens for name in names}
    return row | {"loss": sum(part["loss"] for part in parts)}


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
