"""Before anything is timed: do TRL and this trainer compute the same loss and gradient?

Both get the same sampled tokens, advantages and adapter. All else each computes in its own way,
from question and photo on: prompt tokens, visual features, old and reference log-probs, loss,
gradient.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch.nn.utils import get_total_norm
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import pad

from foodseg.bench.trl_side import TimedTrainer, make_trainer
from foodseg.bench.work import (
    Shape,
    bench_policy,
    bench_preset,
    in_drawing_order,
    make_sampler,
    randomise_adapter,
    training_questions,
)
from foodseg.models.mllm import Mllm
from foodseg.presets import Preset
from foodseg.recipes import GRPO
from foodseg.rl.advantages import group_advantages
from foodseg.rl.groups import Group
from foodseg.training.updates import PolicyUpdater

TOLERANCE = 1e-4


class UnequalLossError(RuntimeError):
    """TRL and this trainer do not do the same work, so their seconds can't be compared."""


@dataclass(frozen=True)
class Agreement:
    """This trainer's and TRL's figures of the same two updates.

    loss, gradient_norm: means over the updates, the norm before clipping. gradient_errors: of each
    update, the norm of the gradients' difference over the norm of TRL's. clipped_ratios: the share
    of tokens whose ratio lies outside the clip range, so that the check is known to reach it.
    """

    loss: float
    trl_loss: float
    gradient_norm: float
    trl_gradient_norm: float
    gradient_errors: tuple[float, ...]
    clipped_ratios: float

    @property
    def errors(self) -> tuple[float, ...]:
        """Relative errors: of the loss, of the gradient's norm, of each update's gradient.

        In the loss terms of about 1 cancel; below 0.1 its error is taken relative to that.
        """
        loss = abs(self.loss - self.trl_loss) / max(abs(self.trl_loss), 0.1)
        norm = abs(self.gradient_norm - self.trl_gradient_norm) / self.trl_gradient_norm
        return loss, norm, *self.gradient_errors

    def check(self) -> None:
        """Raises UnequalLossError if a relative error is beyond `TOLERANCE`."""
        if not max(self.errors) <= TOLERANCE:  # NaN is no agreement either
            raise UnequalLossError(
                f"On the same rollouts this trainer's loss is {self.loss:.7g} and TRL's "
                f"{self.trl_loss:.7g}, and loss and gradients differ by up to "
                f"{max(self.errors):.1e} ({TOLERANCE:.0e} is allowed), so nothing is timed; look "
                "for what changed in foodseg/rl or in TRL's release."
            )


@dataclass(frozen=True)
class Updates:
    """Our updates of one rollout: before each, the adapter's weights; from each, its gradient.

    gradients: after clipping. row: what `PolicyUpdater.update` returned.
    """

    adapters: list[list[torch.Tensor]]
    gradients: list[list[torch.Tensor]]
    row: dict


def compare_losses(shape: Shape) -> Agreement:
    """One rollout of this shape (ends allowed) and its updates, computed by both trainers."""
    # Steps so long that some ratios leave the clip range.
    preset = replace(bench_preset(shape), learning_rate=1e-3)
    mllm = bench_policy(preset)
    sampler = make_sampler(mllm, preset, training_questions(preset))
    samples = in_drawing_order(sampler, shape.prompts)
    groups = sampler.next_batch().groups
    # An adapter of its own values, or the first update's KL would be 0; small ones, or the
    # KL's exponentials would drown the policy's part.
    randomise_adapter(mllm.lora_parameters())
    # TRL scores without banning the tokens that it bans when sampling.
    mllm.banned_token_ids = []
    ours = _our_updates(mllm, preset, groups)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            mllm, preset, shape, samples, micro_batch=shape.rows, rollouts=1, folder=folder
        )
        losses, norms, errors = zip(*_trl_updates(trainer, groups, ours), strict=True)
    clipped = ours.row["clip_low_fraction"] + ours.row["clip_high_fraction"]
    return Agreement(
        ours.row["loss"], fmean(losses), ours.row["gradient_norm"], fmean(norms), errors, clipped
    )


def _our_updates(mllm: Mllm, preset: Preset, groups: Sequence[Group]) -> Updates:
    updater = PolicyUpdater(mllm, preset, GRPO)
    adapters: list[list[torch.Tensor]] = []
    gradients: list[list[torch.Tensor]] = []

    def keep(*_) -> None:
        adapters.append([p.detach().clone() for p in mllm.lora_parameters()])
        gradients.append([p.grad.clone() for p in mllm.lora_parameters()])

    updater.optimizer.register_step_pre_hook(keep)
    return Updates(adapters, gradients, updater.update(groups))


def _trl_updates(trainer: TimedTrainer, groups: Sequence[Group], ours: Updates):
    """Of each update: TRL's loss, its gradient's norm, and how far our gradient is from it."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    _set(parameters, ours.adapters[0])
    inputs = _trl_inputs(trainer, groups)
    for adapter, gradient in zip(ours.adapters, ours.gradients, strict=True):
        _set(parameters, adapter)
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, trainer.args.max_grad_norm))
        theirs = [p.grad for p in parameters]
        difference = [a - b for a, b in zip(gradient, theirs, strict=True)]
        yield loss.item(), norm, float(get_total_norm(difference) / get_total_norm(theirs))


def _set(parameters: Sequence[torch.nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)


def _trl_inputs(trainer: TimedTrainer, groups: Sequence[Group]) -> dict:
    """What TRL's loss takes, for our rollouts; the prompts are tokenised by TRL."""
    size = len(groups[0].rollout.tokens)
    examples = [trainer.train_dataset[i] for i in range(len(groups)) for _ in range(size)]
    messages = [prepare_multimodal_messages(e["prompt"], images=[e["image"]]) for e in examples]
    prompt_ids, _, photos = trainer._tokenize_prompts(messages)
    ours = [group.rollout.prompt.input_ids.tolist() for group in groups for _ in range(size)]
    if prompt_ids != ours:
        raise UnequalLossError("TRL's prompt tokens are not ours; compare the chat templates.")
    prompts, prompt_mask = _padded([torch.tensor(ids) for ids in prompt_ids], "left")
    rollouts = [group.rollout for group in groups]
    completions, mask = _padded([tokens for r in rollouts for tokens in r.tokens], "right")
    types, _ = _padded([torch.tensor(row) for row in photos["mm_token_type_ids"]], "left")
    advantages = [a for rows in group_advantages([g.rewards for g in groups]) for a in rows]
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": torch.tensor(advantages, dtype=torch.float32),
        "pixel_values": torch.as_tensor(photos["pixel_values"]),
        "image_grid_thw": torch.as_tensor(photos["image_grid_thw"]),
        "mm_token_type_ids": torch.cat([types, torch.zeros_like(completions)], 1),
        "num_images": [1] * len(examples),
    }
    old = _trl_log_probs(trainer, inputs)
    with trainer.model.disable_adapter():
        reference = _trl_log_probs(trainer, inputs)
    return inputs | {"old_per_token_logps": old, "ref_per_token_logps": reference}


@torch.no_grad()
def _trl_log_probs(trainer: TimedTrainer, inputs: dict) -> torch.Tensor:
    log_probs, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
        inputs["completion_ids"].shape[1],
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        num_images=inputs["num_images"],
    )
    return log_probs


def _padded(rows: Sequence[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    ones = [torch.ones_like(row, dtype=torch.long) for row in rows]
    return tuple(pad(list(x), padding_value=0, padding_side=side) for x in (rows, ones))
