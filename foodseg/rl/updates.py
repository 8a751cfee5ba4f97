"""One rollout's updates: advantages, objective, gradient steps on the adapter, and their log row.

Each rollout serves `updates_per_rollout` gradient steps over all of its groups, since with a
single one the ratio is 1 and no clip range matters. The old log-probs are the sampler's own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch

from foodseg.models.mllm import Mllm
from foodseg.presets import Preset
from foodseg.recipes import Recipe
from foodseg.rl.advantages import group_advantages
from foodseg.rl.dynamic_sampling import has_signal
from foodseg.rl.groups import TEMPERATURE, Batch, Group
from foodseg.rl.objectives import loss_normaliser, policy_loss
from foodseg.rl.rollouts import Rollout
from foodseg.rl.shared_prefix import completion_mask, pad_rows, score_groups

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, eq=False)
class Microbatch:
    """Some groups of a batch with what stays fixed over the updates; tensors are (R, L), (R,)."""

    rollouts: list[Rollout]
    old_log_probs: torch.Tensor
    advantages: torch.Tensor
    reference_log_probs: torch.Tensor


class PolicyUpdater:
    """AdamW on the adapter, constant learning rate after a linear warm-up."""

    def __init__(self, mllm: Mllm, preset: Preset, recipe: Recipe):
        self.mllm, self.preset, self.objective = mllm, preset, recipe.objective
        self.parameters = mllm.lora_parameters()
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=preset.learning_rate, weight_decay=0.01
        )
        warmup = preset.warmup_steps * preset.updates_per_rollout
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / max(warmup, 1))
        )

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def update(self, groups: Sequence[Group]) -> dict:
        """All updates of one rollout; returns the means of their diagnostics as log fields."""
        start = time.perf_counter()
        advantages = group_advantages([group.rewards for group in groups])
        microbatches = self._microbatches(groups, advantages)
        mask = completion_mask([group.rollout for group in groups])
        normaliser = loss_normaliser(self.objective.normalisation, mask, self.preset.max_new_tokens)
        passes = [
            self._gradient_step(microbatches, normaliser)
            for _ in range(self.preset.updates_per_rollout)
        ]
        row = {key: fmean(one[key] for one in passes) for key in passes[0]}
        return row | {"seconds_update": time.perf_counter() - start}

    def _microbatches(self, groups, advantages) -> list[Microbatch]:
        size = self.preset.groups_per_forward
        return [
            self._microbatch(groups[i : i + size], advantages[i : i + size])
            for i in range(0, len(groups), size)
        ]

    def _microbatch(self, groups, advantages) -> Microbatch:
        rollouts = [group.rollout for group in groups]
        rows = [log_probs for rollout in rollouts for log_probs in rollout.log_probs]
        flat = torch.tensor([a for group in advantages for a in group], dtype=torch.float32)
        return Microbatch(
            rollouts,
            pad_rows(rows, completion_mask(rollouts)),
            flat.to(self.mllm.device),
            self._reference_log_probs(rollouts),
        )

    def _reference_log_probs(self, rollouts) -> torch.Tensor:
        """Also where the KL has no weight: the log shows how far the policy has moved."""
        with torch.no_grad(), self.mllm.reference_policy():
            return score_groups(self.mllm, rollouts, TEMPERATURE).log_probs

    def _gradient_step(self, microbatches: Sequence[Microbatch], normaliser: float) -> dict:
        self.optimizer.zero_grad()
        parts = [self._backward(microbatch, normaliser) for microbatch in microbatches]
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, MAX_GRADIENT_NORM, error_if_nonfinite=True
        )
        self.optimizer.step()
        self.schedule.step()
        tokens = sum(part["tokens"] for part in parts)
        means = ("clip_low_fraction", "clip_high_fraction", "kl", "ratio", "entropy")
        row = {k: sum(part[k] * part["tokens"] for part in parts) / tokens for k in means}
        return row | {"loss": sum(part["loss"] for part in parts), "gradient_norm": norm.item()}

    def _backward(self, microbatch: Microbatch, normaliser: float) -> dict:
        scores = score_groups(self.mllm, microbatch.rollouts, TEMPERATURE)
        loss = policy_loss(
            scores.log_probs,
            microbatch.old_log_probs,
            microbatch.advantages,
            scores.mask,
            reference_log_probs=microbatch.reference_log_probs,
            normaliser=normaliser,
            **asdict(self.objective),
        )
        loss.loss.backward()
        fields = ("tokens", "clip_low_fraction", "clip_high_fraction", "kl", "ratio")
        return {name: getattr(loss, name) for name in fields} | {
            "loss": loss.loss.item(),
            "entropy": scores.entropies[scores.mask].mean().item(),
        }


def step_row(batch: Batch, update: dict) -> dict:
    """A step's log row: what was sampled (all of it, kept or not) and what the updates did."""
    scores = [score for group in batch.seen for score in group.scores]
    lengths = [len(tokens) for group in batch.seen for tokens in group.rollout.tokens]
    terms = (
        "total thinking_format segmentation_format accuracy iou box_l1 point_l2 non_repeat"
    ).split()
    example = batch.seen[0]
    return (
        {f"reward_{term}": fmean(getattr(score, term) for score in scores) for term in terms}
        | {
            "parse_rate": fmean(p for group in batch.seen for p in group.parsed),
            "zero_variance": fmean(not has_signal(group.rewards) for group in batch.seen),
            "rounds": batch.rounds,
            "length": fmean(lengths),
            "ended": fmean(end for group in batch.seen for end in group.rollout.ended),
        }
        | update
        | {f"seconds_{phase}": seconds for phase, seconds in batch.seconds.items()}
        | {"question": example.sample.question, "completion": example.rollout.texts[0]}
    )
