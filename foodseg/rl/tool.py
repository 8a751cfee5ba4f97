"""GRTO and B-GRTO: SAM2's mask decoder, the tool, learns from the rollouts that teach the policy.

Of these methods we know the abstract alone: the policy is trained by GRPO, the tool by a
differentiable objective of its own on the same rollouts, with a stop gradient between the two;
B-GRTO first trains the tool alone, on a buffer of the reference policy's rollouts. Our reading:

- The loss is BCE + Dice between the decoder's mask for a predicted reference and the true mask of
  the part that it means. Of SAM2's three masks it is the one of the highest predicted IoU, the one
  that `Segmenter.predict` hands to rewards and evaluation. The head that predicts the IoU is not
  trained, since the objective has no term for it; the tokens that it reads do move.
- Which part a reference means is what the reward's matching says. A pair that meets none of the
  three criteria was matched for want of a better one, and a reference beyond the number of parts
  has no true mask: neither teaches anything, or the decoder would learn to ignore its prompts.
- Masks are compared at the decoder's resolution, a quarter of the model image's: a cell's logit
  with the share of the cell that the true mask covers. For logits that are constant over a cell,
  this BCE is the mean over the photo's pixels.
- All that makes an image's embedding stays as it was: the image encoder, and the decoder's
  `conv_s0` and `conv_s1`, which SAM2 applies while it embeds. So does the prompt encoder.
- The decoder takes one step for each step of the trainer, after the policy's gradient steps.

The gradient stops by itself: from policy to tool go numbers parsed from a text, and what comes
back are rewards, numbers as well. Nothing here draws a random number.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from foodseg.data.references import Reference, decode_mask
from foodseg.data.samples import Sample
from foodseg.models.segmenter import (
    ImageEmbedding,
    Segmenter,
    decode_prompts,
    load_weights,
    read_weights,
    scale_prompts,
)
from foodseg.progress import tqdm
from foodseg.provenance import file_hash, write_atomically
from foodseg.rl.evidence import to_original
from foodseg.rl.processes import ALONE, Processes
from foodseg.rl.rewards import match_answer

if TYPE_CHECKING:  # `foodseg.recipes` imports this module, and `groups` imports that
    from foodseg.rl.groups import Group, GroupSampler

MAX_GRADIENT_NORM = 1.0
# In one decoder call; at SAM2's own size each keeps 0.1 GB for the gradients.
PROMPTS_PER_CALL = 16
# Stage 1 asks its questions in another order than the run that follows.
OFF_POLICY_SEED = 1_000_003


@dataclass(frozen=True)
class ToolTraining:
    """How the mask decoder is trained; frozen values, so that a recipe can hold it.

    The loss is `bce_weight` * BCE + `dice_weight` * Dice, LISA's weights by default; AdamW with a
    constant learning rate and no weight decay. B-GRTO's stage 1 takes `off_policy_steps` decoder
    steps (0: GRTO, no such stage), over a buffer of `off_policy_rounds` rounds of base rollouts.
    """

    learning_rate: float = 1e-4
    bce_weight: float = 2.0
    dice_weight: float = 0.5
    off_policy_steps: int = 0
    off_policy_rounds: int = 8


@dataclass(frozen=True, eq=False)
class Lesson:
    """What the matched references of one question teach: each distinct one once.

    corners (P, 3, 2): prompts in pixels of the segmenter's image; part (P,) int64: the row of
    `shares` (N, h, w), 0..1, that each is to cover; weights (P,): completions that wrote it.
    """

    embedding: ImageEmbedding
    corners: Tensor
    part: Tensor
    shares: Tensor
    weights: Tensor


class ToolUpdater:
    """AdamW on the mask decoder of `segmenter`, which is changed in place.

    embed: the embedding of a sample's photo, made by this segmenter without a gradient; it may be
    kept between steps. processes: whose lessons count as one.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        training: ToolTraining,
        embed: Callable[[Sample], ImageEmbedding],
        processes: Processes = ALONE,
    ) -> None:
        self.segmenter, self.training, self.embed = segmenter, training, embed
        self.processes = processes
        self.decoder = segmenter.model.sam_mask_decoder
        # What the loss does not reach (see the module's text) gets no gradient and stays.
        self.parameters = list(self.decoder.requires_grad_(True).parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=training.learning_rate, weight_decay=0.0
        )

    def state_dict(self) -> dict:
        """The decoder's weights and the optimiser's state."""
        return {"decoder": self.decoder.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])

    def update(self, groups: Sequence[Group]) -> dict:
        """One decoder step on all matched references of these groups; returns log fields.

        tool_loss and tool_iou are the means, before the step, of the loss and of the IoU in
        decoder cells over `tool_references` references; None if there is none: then no step is
        taken. seconds_tool: all of it. Raises RuntimeError for a gradient that is not finite.
        """
        start = time.perf_counter()
        row = self.step([lesson for group in groups for lesson in self.lessons(group)])
        return row | {"seconds_tool": time.perf_counter() - start}

    def lessons(self, group: Group) -> list[Lesson]:
        """What one group teaches: one lesson, or none if no reference meets a criterion."""
        counted = matched_references(group)
        if not counted:
            return []
        sample = group.evidence[0].sample
        references, parts = zip(*counted, strict=True)
        device, side = self.segmenter.device, self.segmenter.config.image_size
        shares = torch.stack([mask_shares(decode_mask(mask), side // 4) for mask in sample.masks])
        return [
            Lesson(
                self.embed(sample),
                scale_prompts(references, sample.size, side).to(device),
                torch.tensor(parts, device=device),
                shares.to(device),
                torch.tensor(list(counted.values()), dtype=torch.float32, device=device),
            )
        ]

    def step(self, lessons: Sequence[Lesson]) -> dict:
        """One decoder step on the weighted mean loss of all lessons, those of other processes
        included; see `update`."""
        weights = self.processes.gather([lesson.weights.sum().item() for lesson in lessons])
        total = sum(weights)
        if not total:
            return {"tool_loss": None, "tool_iou": None, "tool_references": 0}
        sums = sum(self.processes.gather([self.gradients(lessons, total).cpu()]))
        self.processes.sum_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM, error_if_nonfinite=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss, iou = sums.tolist()
        return {"tool_loss": loss, "tool_iou": iou, "tool_references": int(total)}

    def gradients(self, lessons: Sequence[Lesson], total: float) -> Tensor:
        """Fill in the decoder's gradients of the mean loss; returns mean loss and IoU, (2,)."""
        self.optimizer.zero_grad()
        sums = torch.zeros(2, device=self.segmenter.device)
        for lesson in lessons:
            for first in range(0, len(lesson.corners), PROMPTS_PER_CALL):
                inside = slice(first, first + PROMPTS_PER_CALL)
                weights = lesson.weights[inside] / total
                losses, ious = self._losses(lesson, inside)
                (weights * losses).sum().backward()
                sums += torch.stack([weights @ losses.detach(), weights @ ious])
        return sums

    def _losses(self, lesson: Lesson, inside: slice) -> tuple[Tensor, Tensor]:
        """Loss and IoU, (P,) each, of the masks that `Segmenter.predict` would hand out."""
        embedding = lesson.embedding
        logits, predicted, _ = decode_prompts(
            self.segmenter.model,
            embedding.features,
            embedding.high_resolution,
            lesson.corners[inside],
        )
        chosen = logits[torch.arange(len(logits)), predicted.argmax(dim=1)].float()
        shares = lesson.shares[lesson.part[inside]]
        return mask_losses(chosen, shares, self.training), cell_iou(chosen.detach(), shares)


def matched_references(group: Group) -> Counter[tuple[Reference, int]]:
    """How many of the group's completions wrote a reference (original pixels) for a true part.

    Only pairs of the reward's matching that meet at least one of its criteria.
    """
    counted: Counter[tuple[Reference, int]] = Counter()
    for evidence in group.evidence:
        matching = match_answer(evidence.answer, evidence.references, evidence.thresholds)
        predicted = to_original(evidence.answer, evidence.sample, evidence.side)
        for (row, column), terms in zip(matching.pairs, matching.terms, strict=True):
            if predicted and terms.any():
                counted[predicted[row], int(column)] += 1
    return counted


def mask_losses(logits: Tensor, shares: Tensor, training: ToolTraining) -> Tensor:
    """BCE + Dice, (P,), of mask logits (P, h, w) against shares (P, h, w) in 0..1.

    Dice counts cells and is smoothed by one of them: 1 - (2 sum pq + 1) / (sum p + sum q + 1).
    """
    bce = F.binary_cross_entropy_with_logits(logits, shares, reduction="none").mean((-2, -1))
    chance = logits.sigmoid()
    overlap = (chance * shares).sum((-2, -1))
    sizes = chance.sum((-2, -1)) + shares.sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    return training.bce_weight * bce + training.dice_weight * dice


def cell_iou(logits: Tensor, shares: Tensor) -> Tensor:
    """IoU, (P,), in cells: logits above 0 against shares above one half; 1 if both are empty."""
    mask, truth = logits > 0, shares > 0.5
    intersection, union = (mask & truth).sum((-2, -1)), (mask | truth).sum((-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def mask_shares(mask: np.ndarray, side: int) -> Tensor:
    """Share in 0..1 of each of (side, side) cells that a boolean mask (H, W) covers."""
    return F.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), side)[0]


def train_tool_off_policy(updater: ToolUpdater, sampler: GroupSampler) -> list[dict]:
    """B-GRTO's stage 1: the decoder alone learns from a buffer of the base policy's rollouts.

    Call it before the policy's first update. Step t learns from the buffer's round t modulo
    `off_policy_rounds`, sampled when it is first needed; the base policy stays as it is, so that
    equals sampling all of them first. The questions and random numbers are not those of
    `sampler`, whose state stays as it is. Returns a log row for each step (`update`'s fields and
    `seconds_rollout`); none if `off_policy_steps` is 0. Deterministic: an interrupted stage is
    repeated from its start.
    """
    training = updater.training
    recipe = replace(sampler.recipe, dynamic_sampling=False, ranked=False, reward=())
    apart = replace(sampler, recipe=recipe, seed=sampler.seed + OFF_POLICY_SEED, cursor=0, rounds=0)
    buffer: list[list[Lesson]] = []
    rows = []
    for step in tqdm(range(training.off_policy_steps), "decoder, off-policy"):
        start = time.perf_counter()
        if len(buffer) < training.off_policy_rounds:
            with sampler.mllm.reference_policy():
                groups = apart.next_batch().groups
            buffer.append([lesson for group in groups for lesson in updater.lessons(group)])
        sampled = time.perf_counter()
        row = updater.step(buffer[step % training.off_policy_rounds])
        seconds = {
            "seconds_rollout": sampled - start,
            "seconds_tool": time.perf_counter() - sampled,
        }
        rows.append({"step": step + 1} | row | seconds)
    return rows


def save_decoder(segmenter: Segmenter, path: Path | str) -> None:
    """Write the mask decoder's weights, and nothing else of SAM2, as safetensors, atomically."""
    weights = segmenter.model.sam_mask_decoder.state_dict()
    write_atomically(Path(path), save({n: w.cpu().contiguous() for n, w in weights.items()}))


def load_decoder(segmenter: Segmenter, path: Path | str) -> None:
    """Put a trained mask decoder in place of the segmenter's own; sets its `decoder_hash`.

    Raises DataError if the file is missing or is not a decoder of this configuration.
    """
    load_weights(segmenter.model.sam_mask_decoder, read_weights(path), str(path))
    segmenter.decoder_hash = file_hash(Path(path))
