"""The stage of GRTO and B-GRTO in which the mask decoder learns; `methods.grto` has the method."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foodseg.common.processes import ALONE, Processes
from foodseg.data.references import decode_mask
from foodseg.methods.grto import (
    ToolTraining,
    cell_iou,
    mask_coverage,
    matched_references,
    tool_losses,
)
from foodseg.models.sam2 import decode_prompts
from foodseg.models.segmenter import scale_prompts
from foodseg.rl.groups import Group
from foodseg.training.optimizer import Optimizer
from foodseg.training.photos import PhotoFeatures
from foodseg.training.sampler import GroupSampler

# Stage 1 asks its questions in another order than the run that follows.
OFF_POLICY_SEED = 1_000_003

# In one decoder call; at SAM2's own size each keeps 0.1 GB for the gradients.
PROMPTS_PER_CALL = 16


@dataclass(frozen=True, eq=False)
class Lesson:
    """What the matched references of one question teach: each distinct one once.

    image: the photo, as its sample names it. corners (P, 3, 2): prompts in pixels of the
    segmenter's image. part (P,) int64: index of the target mask of each. target_coverage (N, h, w),
    0 to 1: the share of each decoder cell that a target mask covers. weights (P,): sums over the
    completions that wrote the prompt. written: references written, repeats counted.
    """

    image: str
    corners: Tensor
    part: Tensor
    target_coverage: Tensor
    weights: Tensor
    written: int


class ToolUpdater:
    """Trains the mask decoder of `features.segmenter`, which is changed in place.

    Gradients are summed over the processes.
    """

    def __init__(
        self, features: PhotoFeatures, training: ToolTraining, processes: Processes = ALONE
    ) -> None:
        self.features, self.segmenter = features, features.segmenter
        self.training, self.processes = training, processes
        self.decoder = self.segmenter.model.sam_mask_decoder
        # What the loss does not reach (see `methods.grto`) gets no gradient and stays.
        parameters = self.decoder.requires_grad_(True).parameters()
        self.optimizer = Optimizer(parameters, training.learning_rate)

    @property
    def rollouts_before(self) -> int:
        """How many B-GRTO's stage 1 samples."""
        return min(self.training.off_policy_steps, self.training.off_policy_rounds)

    def state_dict(self) -> dict:
        """The decoder's weights and the optimizer's state."""
        return {"decoder": self.decoder.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])

    def update(self, groups: Sequence[Group]) -> dict:
        """One decoder step on all matched references of these groups; returns log fields.

        tool_loss and tool_iou are the weighted means, before the step, of the loss and of the IoU
        in decoder cells over `tool_references` references. Without references both are None and no
        step is taken. A gradient that is not finite takes none either; tool_skipped counts it.
        seconds_tool: all of it.
        """
        start = time.perf_counter()
        weights = self.training.weights
        row = self.step([one for group in groups for one in self.lessons(group, weights)])
        return row | {"seconds_tool": time.perf_counter() - start}

    def lessons(
        self, group: Group, weights: Callable[[Sequence[float]], np.ndarray]
    ) -> list[Lesson]:
        """What one group teaches: one lesson, or none if no reference meets a criterion.

        weights: of its completions, from their rewards.
        """
        written = matched_references(group, weights(group.rewards))
        if not written:
            return []
        sample = group.evidence[0].sample
        references, parts = zip(*written, strict=True)
        sums = [sum(each) for each in written.values()]
        device, side = self.segmenter.device, self.segmenter.config.image_size
        coverage = torch.stack(
            [mask_coverage(decode_mask(mask), side // 4) for mask in sample.masks]
        )
        return [
            Lesson(
                sample.image,
                scale_prompts(references, sample.size, side).to(device),
                torch.tensor(parts, device=device),
                coverage.to(device),
                torch.tensor(sums, dtype=torch.float32, device=device),
                sum(map(len, written.values())),
            )
        ]

    def step(self, lessons: Sequence[Lesson]) -> dict:
        """One decoder step on the weighted mean loss of all lessons, those of other processes
        included; see `update`."""
        shared = self.processes.gather([(one.weights.sum().item(), one.written) for one in lessons])
        total = sum(weight for weight, _ in shared)
        nothing = {"tool_loss": None, "tool_iou": None, "tool_references": 0, "tool_skipped": 0}
        if not total:
            return nothing
        sums = sum(self.processes.gather([self.gradients(lessons, total).cpu()]))
        self.processes.sum_gradients(self.optimizer.parameters)
        if self.optimizer.step() is None:
            return nothing | {"tool_skipped": 1}
        self.optimizer.zero_gradients()
        loss, iou = sums.tolist()
        return {
            "tool_loss": loss,
            "tool_iou": iou,
            "tool_references": sum(count for _, count in shared),
            "tool_skipped": 0,
        }

    def gradients(self, lessons: Sequence[Lesson], total: float) -> Tensor:
        """Fill in the decoder's gradients of the mean loss; returns mean loss and IoU, (2,)."""
        self.optimizer.zero_gradients()
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
        embedding = self.features.embedding(lesson.image)
        logits, predicted, _ = decode_prompts(
            self.segmenter.model,
            embedding.features,
            embedding.high_resolution,
            lesson.corners[inside],
        )
        chosen = logits[torch.arange(len(logits)), predicted.argmax(dim=1)].float()
        coverage = lesson.target_coverage[lesson.part[inside]]
        return tool_losses(chosen, coverage, self.training), cell_iou(chosen.detach(), coverage)


class OffPolicyStage:
    """B-GRTO's stage 1: the decoder alone learns from a buffer of the base policy's rollouts.

    It comes before the policy's first update. Step t learns from the buffer's round t modulo
    `off_policy_rounds`, sampled when it is first needed, and scored with the decoder as it is then.
    The questions and random numbers are not those of `sampler`, whose state stays as it is. rows:
    of the log, one a step (`update`'s fields and `seconds_rollout`). Without `off_policy_steps` it
    has ended.
    """

    def __init__(self, updater: ToolUpdater, sampler: GroupSampler) -> None:
        self.updater, self.mllm = updater, sampler.mllm
        recipe = replace(sampler.recipe, dynamic_sampling=False, ranking=None)
        shared = sampler.samples, sampler.seed + OFF_POLICY_SEED, sampler.processes
        self.sampler = GroupSampler(sampler.mllm, sampler.preset, recipe, *shared)
        self.sampler.features = updater.features  # the tool's own masks, and one SAM2 in memory
        self.buffer: list[list[Lesson]] = []
        self.rows: list[dict] = []

    @property
    def ended(self) -> bool:
        return len(self.rows) >= self.updater.training.off_policy_steps

    def step(self) -> None:
        """One step of the decoder, and before it a round of rollouts while the buffer has room."""
        start, training = time.perf_counter(), self.updater.training
        if len(self.buffer) < training.off_policy_rounds:
            self.buffer.append(self._lessons())
        sampled = time.perf_counter()
        row = self.updater.step(self.buffer[len(self.rows) % training.off_policy_rounds])
        seconds = {
            "seconds_rollout": sampled - start,
            "seconds_tool": time.perf_counter() - sampled,
        }
        self.rows.append({"step": len(self.rows) + 1} | row | seconds)

    def _lessons(self) -> list[Lesson]:
        with self.mllm.reference_policy():
            groups = self.sampler.next_batch().mine
        weights = self.updater.training.off_policy_weights
        return [one for group in groups for one in self.updater.lessons(group, weights)]

    def state_dict(self) -> dict:
        """What the next step needs besides the updater's state; when it has ended, the rows."""
        lessons = [] if self.ended else self.buffer
        buffer = [[vars(lesson) for lesson in lessons_of] for lessons_of in lessons]
        return {"sampler": self.sampler.state_dict(), "buffer": buffer, "rows": self.rows}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.sampler.load_state_dict(state["sampler"])
        device, self.rows = self.updater.segmenter.device, state["rows"]
        self.buffer = [[_on(device, lesson) for lesson in lessons] for lessons in state["buffer"]]


def _on(device: torch.device, values: dict) -> Lesson:
    tensors = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
    return Lesson(**values | tensors)
