"""One supervised gradient step: next-token loss on the targets, and LISA's loss on their masks.

    loss = cross-entropy (mean over target tokens) + 2 BCE + 0.5 Dice (means over masks)

The weights, AdamW's settings, and a linear warm-up and decay of the learning rate are LISA's
(`train_ds.py`); rank and alpha of LoRA, its place on all projections, the learning rate and the
length of the warm-up are the preset's. Of LISA's trained parts we leave out the token embedding and
the head, which are frozen and tied here. As in its code, the state that becomes a mask is the one
from which [SEG] is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from foodseg.data.samples import Sample
from foodseg.models.fast.layers import training_layers
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import Rollout
from foodseg.models.shared_prefix import completion_tokens, predicting_states
from foodseg.presets import Preset
from foodseg.supervised.batches import target_rollouts
from foodseg.supervised.mask_head import MaskHead, mask_losses
from foodseg.supervised.photos import PhotoFeatures
from foodseg.supervised.targets import Baseline, seg_token_id
from foodseg.training.memory import (
    GroupTokens,
    MemoryPlan,
    available_bytes,
    checkpointed_layers,
    plan_memory,
)
from foodseg.training.model_sizes import ModelSizes

BETAS = (0.9, 0.95)
MAX_GRADIENT_NORM = 1.0
BCE_WEIGHT, DICE_WEIGHT = 2.0, 0.5
# Left free beside a forward on a GPU: one photo's image encoder and mask decoder.
SEGMENTER_BYTES = 2 * 2**30
# On a CPU, where memory is no question: targets in a forward (the kitchen's step took 2.0 s with
# 8, 2.1 s with 4, 2.1 to 2.8 s with 16 and 2.8 s with 1).
CPU_TARGETS = 8


class SupervisedUpdater:
    """AdamW on the adapter and, with a mask head, on that."""

    def __init__(self, mllm: Mllm, preset: Preset, baseline: Baseline, head: MaskHead | None):
        self.mllm, self.preset, self.baseline, self.head = mllm, preset, baseline, head
        self.parameters = mllm.lora_parameters() + (head.trained() if head else [])
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=preset.supervised_learning_rate, betas=BETAS, weight_decay=0.0
        )
        total = preset.steps * preset.updates_per_rollout
        warmup = min(preset.warmup_steps * preset.updates_per_rollout, total)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min((step + 1) / max(warmup, 1), (total - step) / max(total - warmup, 1)),
        )
        self.sizes = ModelSizes.of(mllm)
        self.photos = PhotoFeatures(mllm, preset, head and head.segmenter)

    def state_dict(self) -> dict:
        """Trained tensors, moments and schedule."""
        return {
            "parameters": [parameter.detach().cpu() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        for parameter, value in zip(self.parameters, state["parameters"], strict=True):
            parameter.data.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def gradient_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Learn from these samples at once; returns the losses and the gradient's norm."""
        rollouts = target_rollouts(self.photos, self.baseline, samples)
        self.optimizer.zero_grad()
        losses = self._backward_all(samples, rollouts)
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, MAX_GRADIENT_NORM, error_if_nonfinite=True
        )
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        return losses | {"gradient_norm": norm.item(), "learning_rate": rate}

    def _backward_all(self, samples, rollouts: Sequence[Rollout]) -> dict[str, float]:
        everything = completion_tokens(rollouts)
        masks = int((everything == seg_token_id(self.mllm)).sum()) if self.head else 0
        plan = self._plan(rollouts)
        sums = {"cross_entropy": 0.0} | ({"bce": 0.0, "dice": 0.0} if self.head else {})
        model = self.mllm.language_model
        with training_layers(model), checkpointed_layers(model, plan.checkpointed):
            for part in plan.row_ranges([1] * len(rollouts)):
                inside = slice(part.start, part.stop)
                losses = self._backward(samples[inside], rollouts[inside], len(everything), masks)
                sums = {name: sums[name] + losses[name] for name in sums}
        loss = sums["cross_entropy"]
        loss += BCE_WEIGHT * sums.get("bce", 0.0) + DICE_WEIGHT * sums.get("dice", 0.0)
        return {"loss": loss} | sums

    def _plan(self, rollouts: Sequence[Rollout]) -> MemoryPlan:
        missing = 2 * (not self.optimizer.state) + 1  # moments, and the gradients
        held = missing * sum(p.nbytes for p in self.parameters)
        free = available_bytes(self.mllm.device, held + (SEGMENTER_BYTES if self.head else 0))
        plan = plan_memory(self.sizes, [GroupTokens.of(rollout) for rollout in rollouts], free)
        return plan if free is not None else replace(plan, groups=CPU_TARGETS)

    def _backward(self, samples, rollouts, tokens: int, masks: int) -> dict[str, float]:
        """One row's share of the step's losses, `tokens` and `masks` being the whole step's."""
        states, targets = predicting_states(self.mllm, rollouts), completion_tokens(rollouts)
        log_probs, _ = self.mllm.token_log_probabilities(states, targets)
        cross_entropy = -log_probs.sum() / tokens
        if not self.head:
            cross_entropy.backward()
            return {"cross_entropy": cross_entropy.item()}
        marked = states[targets == seg_token_id(self.mllm)]
        gradient, bce, dice = self._mask_gradient(samples, rollouts, marked.detach(), masks)
        torch.autograd.backward([cross_entropy, marked], [None, gradient])
        return {"cross_entropy": cross_entropy.item(), "bce": bce, "dice": dice}

    def _mask_gradient(self, samples, rollouts, states: Tensor, masks: int):
        """Backward through the mask head alone, one photo at a time; the gradient of `states`."""
        seg, start, sums = seg_token_id(self.mllm), 0, [0.0, 0.0]
        gradient = torch.zeros_like(states)
        for sample, rollout in zip(samples, rollouts, strict=True):
            stop = start + int((rollout.tokens[0] == seg).sum())
            leaf = states[start:stop].requires_grad_()
            bce, dice = (loss / masks for loss in self._mask_losses(sample, leaf))
            (BCE_WEIGHT * bce + DICE_WEIGHT * dice).backward()
            gradient[start:stop] = leaf.grad
            sums, start = [sums[0] + bce.item(), sums[1] + dice.item()], stop
        return gradient, *sums

    def _mask_losses(self, sample: Sample, states: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(self.photos.embedding(sample.image), states)
        truth = torch.from_numpy(self.baseline.masks(sample)).to(logits)
        return mask_losses(logits, truth)
