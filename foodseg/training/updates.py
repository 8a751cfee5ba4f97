"""One rollout's updates: advantages, objective, gradient steps on the adapter.

A rollout serves one gradient step for each mini-batch of `groups_per_update` groups, and each
group one step. With a single mini-batch the ratio is 1 and no clip range matters. What can't change
the gradient is not computed:

- until the first gradient step the policy is the one that sampled: that step's old log-probs are
  those of its own forward, so its ratio is exactly 1, also where the sampler's kernels round
  otherwise; the log's `sampler_gap` says by how much. Later steps take the sampler's log-probs;
- without a KL term a group whose advantages are all 0 has a gradient of exactly 0: it is left out,
  while its tokens still count in its mini-batch's normaliser. A mini-batch of such groups alone
  takes no step: AdamW would move on by its momentum and weight decay, with nothing to learn from.
  Nor does one whose gradient is not finite;
- without a KL term the reference scores only the first group, for the log's `kl`.

How many groups share a forward is planned from the free memory (`training.forwards`), in each
process for itself; the processes' gradients are summed (`common.processes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

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
from foodseg.training.diagnostics import (
    GradientStep,
    MiniBatch,
    gain_figures,
    gain_sums,
    mean,
    ratio_ranges,
    sampler_gaps,
    step_figures,
)
from foodseg.training.forwards import PlannedForwards
from foodseg.training.memory import peak_memory_mb, take_rows
from foodseg.training.optimizer import Optimizer, warm_up

if TYPE_CHECKING:  # a training loads only the methods that its recipe uses
    from foodseg.recipes import Recipe

Item = TypeVar("Item")
# A group's rollout, and for each completion a number or (L_i,) of its tokens.
Judged = tuple[Rollout, Sequence[float | np.ndarray]]


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
            factor=warm_up(preset.warmup_steps * preset.updates_per_step),
        )
        self.forwards = PlannedForwards(mllm, self.optimizer)

    def state_dict(self) -> dict:
        """The optimizer's state; the adapter is the model's."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.optimizer.load_state_dict(state)

    def update(self, groups: Sequence[Group | None], watched: Group | None = None) -> dict:
        """All gradient steps of one rollout; returns their diagnostics as log fields.

        groups: those of all processes in the order sampled, None for another process's. The fields
        are explained in `training.log`; those of tokens are None if no step was taken. watched: one
        of this process's, whose `group_ratios` (`training.watched`) are among the fields.
        Raises torch.OutOfMemoryError if even the smallest forward does not fit.
        """
        start, steps, skipped = time.perf_counter(), [], self.optimizer.skipped
        for judged in mini_batches(self._judged(groups), self.preset.groups_per_update):
            if step := self._gradient_step(self._collate(judged), on_policy=not steps):
                steps.append(step)
        figures = step_figures(steps) | self._log_prob_figures(steps)
        if watched:
            figures |= {"group_ratios": ratio_ranges(steps, watched.rollout)}
        return figures | {
            "skipped_steps": self.optimizer.skipped - skipped,
            "seconds_update": time.perf_counter() - start,
        }

    def backward(self, batch: MiniBatch, part: range, *, on_policy: bool) -> dict:
        """Forward and backward of some of the rows; returns their diagnostics.

        on_policy: whether the policy is still the one that sampled.
        """
        rollouts = take_rows(batch.rollouts, part)
        # These rows are padded to their own longest completion, not to the mini-batch's.
        width = max(len(tokens) for rollout in rollouts for tokens in rollout.tokens)
        inside = slice(part.start, part.stop), slice(width)
        reference = self._reference_log_probs(rollouts) if self.objective.kl_weight else None
        scores = self.score(self.mllm, rollouts, TEMPERATURE)
        batch.log_probs[inside].copy_(scores.log_probs.detach())
        loss = policy_loss(
            scores.log_probs,
            None if on_policy else batch.sampler_log_probs[inside],
            batch.advantages[inside],
            scores.mask,
            self.objective,
            reference_log_probs=reference,
            normaliser=batch.normaliser,  # the whole one's, so parts add up to its gradient
        )
        loss.loss.backward()
        figures = loss.figures() | {"loss": loss.loss.item()}
        # The entropy is logged of the policy that sampled.
        entropy = scores.entropies[scores.mask].mean().item() if on_policy else None
        return figures | {"entropy": entropy}

    def _gradient_step(self, batch: MiniBatch | None, on_policy: bool) -> GradientStep | None:
        """None if no step was taken: no process has a row, or the gradient is not finite."""
        self.optimizer.zero_gradients()
        forwards = []
        if batch:
            self.forwards.make_plan(batch.rollouts)
            backward = partial(self.backward, batch, on_policy=on_policy)
            forwards = self.forwards.run(batch.rollouts, backward)
        forwards = self.processes.gather(forwards)
        if not forwards:
            return None
        # A process without a row still takes part in the sum.
        self.processes.sum_gradients(self.optimizer.parameters)
        norm = self.optimizer.step()
        return None if norm is None else GradientStep(forwards, norm, batch)

    def _judged(self, groups: Sequence[Group | None]) -> list[Judged | None]:
        mine = [group for group in groups if group]
        advantages = iter(self.advantages(mine, self.mllm.tokenizer))
        return [(group.rollout, next(advantages)) if group else None for group in groups]

    def _collate(self, judged: Sequence[Judged | None]) -> MiniBatch | None:
        """What this process learns from in one mini-batch; None if nothing."""
        mine = [one for one in judged if one]
        normaliser = self._normaliser([rollout for rollout, _ in mine])
        if not self.objective.kl_weight:
            mine = [one for one in mine if any(map(np.any, one[1]))]
        if not mine:
            return None
        rollouts = [rollout for rollout, _ in mine]
        mask = completion_mask(rollouts)
        dtype = torch.promote_types(self.mllm.model.dtype, torch.float32)
        return MiniBatch(
            rollouts,
            mask,
            _advantage_rows([a for _, group in mine for a in group], mask),
            pad_rows([row for rollout in rollouts for row in rollout.log_probs], mask),
            torch.zeros(mask.shape, dtype=dtype, device=mask.device),
            normaliser,
        )

    def _normaliser(self, rollouts: Sequence[Rollout]) -> float:
        """The loss's, over the rollouts of all processes."""
        lengths = [len(tokens) for rollout in rollouts for tokens in rollout.tokens]
        lengths = torch.tensor(self.processes.gather(lengths))
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return loss_normaliser(self.objective.normalisation, mask, self.preset.max_new_tokens)

    def _log_prob_figures(self, steps: Sequence[GradientStep]) -> dict:
        """What compares log-probs of the sampler, the policy and the reference."""
        gather, clip_high = self.processes.gather, self.objective.clip_high
        first, *later = [step.mini_batch for step in steps] or [None]
        row = {}
        if not self.objective.kl_weight:
            kl = gather([self._first_groups_kl(first)] if first else [])
            row["kl"] = kl[0] if kl else None
        row["sampler_gap"] = mean(gather(sampler_gaps(first) if first else []))
        row |= gain_figures(gather([gain_sums(batch, clip_high) for batch in later if batch]))
        return row | {"peak_memory_mb": max(gather([peak_memory_mb(self.mllm.device)]))}

    def _first_groups_kl(self, batch: MiniBatch) -> float:
        with training_layers(self.mllm.language_model):
            reference = self._reference_log_probs(batch.rollouts[:1])
        inside = slice(len(reference)), slice(reference.shape[1])
        difference = reference - batch.log_probs[inside]
        return k3(difference[batch.mask[inside]]).mean().item()

    def _reference_log_probs(self, rollouts: Sequence[Rollout]) -> torch.Tensor:
        with torch.no_grad(), self.mllm.reference_policy():
            return self.score(self.mllm, rollouts, TEMPERATURE).log_probs


def mini_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Deal a rollout's groups out to mini-batches of `size`, the last of which may be smaller.

    In turn, as cards are dealt: processes hold neighbouring groups, so each has its share of every
    mini-batch, and the mini-batches are the same for any number of processes.
    """
    count = -(-len(items) // size)
    return (items[index::count] for index in range(count))


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
