"""One supervised gradient step: next-token loss on the targets, and LISA's loss on their masks.

    loss = cross-entropy (mean over target tokens) + 2 BCE + 0.5 Dice (means over masks)

The weights, AdamW's settings, and a linear warm-up and decay of the learning rate are LISA's
(`train_ds.py`); rank and alpha of LoRA, its place on all projections, the learning rate and the
length of the warm-up are the preset's. Of LISA's trained parts we leave out the token embedding and
the head, which are frozen and tied here. As in its code, the state that becomes a mask is the one
from which [SEG] is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foodseg.data.samples import Sample
from foodseg.models.mask_loss import mask_losses
from foodseg.models.mllm import Mllm
from foodseg.models.shared_prefix import completion_tokens, predicting_states
from foodseg.presets import Preset
from foodseg.supervised.batches import target_rollouts
from foodseg.supervised.mask_head import MaskHead
from foodseg.supervised.targets import Baseline, seg_token_id
from foodseg.training.forwards import PlannedForwards
from foodseg.training.optimizer import Optimizer
from foodseg.training.photos import PhotoFeatures

BETAS = (0.9, 0.95)
BCE_WEIGHT, DICE_WEIGHT = 2.0, 0.5
# Left free beside a forward on a GPU: one photo's image encoder and mask decoder.
SEGMENTER_BYTES = 2 * 2**30
# On a CPU, where memory is no question: targets in a forward (the kitchen's step took 2.0 s with
# 8, 2.1 s with 4, 2.1 to 2.8 s with 16 and 2.8 s with 1).
CPU_TARGETS = 8


class SupervisedUpdater:
    """Gradient steps on the adapter and, with a mask head, on that."""

    def __init__(self, mllm: Mllm, preset: Preset, baseline: Baseline, head: MaskHead | None):
        self.mllm, self.preset, self.baseline, self.head = mllm, preset, baseline, head
        self.optimizer = Optimizer(
            mllm.lora_parameters() + (head.trained() if head else []),
            preset.supervised_learning_rate,
            betas=BETAS,
            factor=_rise_and_fall(preset),
        )
        reserve = SEGMENTER_BYTES if head else 0
        self.forwards = PlannedForwards(mllm, self.optimizer, reserve, cpu_groups=CPU_TARGETS)
        self.photos = PhotoFeatures(mllm, preset, head and head.segmenter)

    def state_dict(self) -> dict:
        """Trained tensors, moments and schedule."""
        trained = [parameter.detach().cpu() for parameter in self.optimizer.parameters]
        return {"parameters": trained, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        pairs = zip(self.optimizer.parameters, state["parameters"], strict=True)
        for parameter, value in pairs:
            parameter.data.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])

    def gradient_step(self, samples: Sequence[Sample]) -> dict[str, float] | None:
        """Learn from these samples at once; returns the losses and the gradient's norm.

        None for a gradient that is not finite: no step was taken.
        """
        losses, rate = self.gradients(samples), self.optimizer.learning_rate
        norm = self.optimizer.step()
        return None if norm is None else losses | {"gradient_norm": norm, "learning_rate": rate}

    def gradients(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Fill in the gradients of these samples' mean losses; returns the losses."""
        rollouts = target_rollouts(self.photos, self.baseline, samples)
        tokens = completion_tokens(rollouts)
        masks = int((tokens == seg_token_id(self.mllm)).sum()) if self.head else 0

        def backward(part: range) -> dict[str, float]:
            inside = slice(part.start, part.stop)
            return self._backward(samples[inside], rollouts[inside], len(tokens), masks)

        self.optimizer.zero_gradients()
        self.forwards.make_plan(rollouts)
        parts = self.forwards.run(rollouts, backward)
        losses = {name: sum(part[name] for part in parts) for name in parts[0]}
        masked = BCE_WEIGHT * losses.get("bce", 0.0) + DICE_WEIGHT * losses.get("dice", 0.0)
        return {"loss": losses["cross_entropy"] + masked} | losses

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
        """Sums over one photo's masks of BCE and Dice, the latter smoothed as in LISA's code."""
        embedding = self.photos.embedding(sample.image, sample.image_sha256)
        logits = self.head(embedding, states)
        truth = torch.from_numpy(self.baseline.masks(sample)).to(logits)
        bce, dice = mask_losses(logits, truth, smooth=1e-6, scale=1000)
        return bce.sum(), dice.sum()


def _rise_and_fall(preset: Preset) -> Callable[[int], float]:
    """LISA's schedule: a linear warm-up, then a linear decay to 0 at the run's end."""
    total = preset.steps * preset.updates_per_step
    warmup = min(preset.warmup_steps * preset.updates_per_step, total)
    return lambda step: min((step + 1) / max(warmup, 1), (total - step) / max(total - warmup, 1))
