"""Before anything is timed: do TRL and this trainer compute the same loss and gradient?

Both get the same sampled tokens, advantages and adapter; all else each computes in its own way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from foodseg.bench.trl_trainer import TimedTrainer, make_trainer, split_rows
from foodseg.bench.workload import SEED, make_policy, randomise_adapter
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE
from foodseg.models.shared_prefix import score_groups
from foodseg.presets import Preset
from foodseg.recipes import GRPO
from foodseg.rl.groups import Group
from foodseg.system import load_policy
from foodseg.training.sampler import GroupSampler
from foodseg.training.updates import PolicyUpdater, mini_batches

TOLERANCE = 1e-4


class UnequalLossError(RuntimeError):
    """TRL and this trainer do not do the same work, so their seconds can't be compared."""


@dataclass(frozen=True)
class Agreement:
    """This trainer's and TRL's figures of the same updates.

    loss, gradient_norm: means over the updates, the norm before clipping. gradient_errors: of each
    update, |ours - TRL's| / |TRL's|. clipped_ratios: the share of tokens outside the clip range.
    """

    loss: float
    trl_loss: float
    gradient_norm: float
    trl_gradient_norm: float
    gradient_errors: tuple[float, ...]
    clipped_ratios: float

    @property
    def errors(self) -> tuple[float, ...]:
        """Relative errors: of the loss, of the gradient's norm, of each update's gradient."""
        # Terms of about 1 cancel in the loss, so a loss near 0 is no measure of its error.
        loss = abs(self.loss - self.trl_loss) / max(abs(self.trl_loss), 0.1)
        norm = abs(self.gradient_norm - self.trl_gradient_norm) / self.trl_gradient_norm
        return loss, norm, *self.gradient_errors

    def check(self) -> None:
        """Raises UnequalLossError if a relative error is beyond `TOLERANCE`."""
        if not max(self.errors) <= TOLERANCE:  # NaN is no agreement either
            raise UnequalLossError(
                f"On the same rollouts this trainer's loss is {self.loss:.7g} and TRL's "
                f"{self.trl_loss:.7g}; loss and gradients differ by up to {max(self.errors):.1e} "
                f"({TOLERANCE:.0e} is allowed), so nothing is timed; look for what changed in "
                "foodseg/rl or in TRL's release."
            )


def compare_losses(preset: Preset, samples: Sequence[Sample]) -> Agreement:
    """One rollout of this step (ends allowed) and its updates, computed by both trainers."""
    # Steps so long that some ratios leave the clip range.
    preset = replace(preset, learning_rate=1e-2)
    mllm = make_policy(preset)
    groups = GroupSampler(mllm, preset, GRPO, samples, SEED).next_batch().groups
    # With a fresh adapter the first update's KL would be 0; with a large one the KL's exponentials
    # would drown the policy's part.
    randomise_adapter(mllm)
    # TRL scores without banning the tokens that it bans when sampling.
    mllm.banned_token_ids = []
    groups = [_rescored(mllm, group) for group in groups]
    row, updates = _our_updates(mllm, preset, groups)
    with tempfile.TemporaryDirectory() as folder:
        rows = preset.groups_per_update * preset.group_size
        trainer = make_trainer(load_policy(preset), preset, samples, rows, 1, folder)
        theirs = _trl_updates(trainer, preset, groups, updates)
        losses, norms, errors = zip(*theirs, strict=True)
    clipped = row["clip_low_fraction"] + row["clip_high_fraction"]
    return Agreement(
        row["loss"], fmean(losses), row["gradient_norm"], fmean(norms), errors, clipped
    )


def _rescored(mllm: Mllm, group: Group) -> Group:
    """The group as if today's policy had sampled it: TRL's old log-probs are this policy's."""
    rollout = group.rollout
    with torch.no_grad():
        rows = score_groups(mllm, [rollout], TEMPERATURE).log_probs
    log_probs = tuple(row[: len(t)] for row, t in zip(rows, rollout.tokens, strict=True))
    return replace(group, rollout=replace(rollout, log_probs=log_probs))


Update = list[list[Tensor]]  # (before the update, its gradient after clipping) of each parameter


def _our_updates(mllm: Mllm, preset: Preset, groups: Sequence[Group]) -> tuple[dict, list[Update]]:
    updater, updates = PolicyUpdater(mllm, preset, GRPO), []

    def keep(*_) -> None:
        parameters = mllm.lora_parameters()
        updates.append([[t.detach().clone() for t in (p, p.grad)] for p in parameters])

    updater.optimizer.adamw.register_step_pre_hook(keep)
    return updater.update(groups), updates


def _trl_updates(
    trainer: TimedTrainer, preset: Preset, groups: Sequence[Group], updates: Sequence[Update]
) -> Iterator[tuple[float, float, float]]:
    """Of each update: TRL's loss, its gradient's norm, and how far our gradient is from it."""
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    inputs = None
    for index, update in enumerate(updates):
        for parameter, (value, _) in zip(parameters, update, strict=True):
            parameter.data.copy_(value)
        # The old log-probs are those of the first update's adapter.
        inputs = inputs or _trl_inputs(trainer, preset, groups)
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, inputs[index])
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, trainer.args.max_grad_norm))
        theirs = [p.grad for p in parameters]
        difference = [a - b for (_, a), b in zip(update, theirs, strict=True)]
        yield loss.item(), norm, float(get_total_norm(difference) / get_total_norm(theirs))


def _trl_inputs(trainer: TimedTrainer, preset: Preset, groups: Sequence[Group]) -> list[dict]:
    """What TRL's loss takes in each update, made from its own prompts and our completions."""
    rollouts = [group.rollout for group in groups]
    prompts = [rollout.prompt.input_ids.tolist() for rollout in rollouts for _ in rollout.tokens]
    completions = [tokens.tolist() for rollout in rollouts for tokens in rollout.tokens]

    def sampled(prompt_ids, *_):
        if prompt_ids != prompts:
            raise UnequalLossError("TRL's prompt tokens are not ours; compare the chat templates.")
        return completions, None

    trainer._generate_single_turn = sampled
    # Ours, since TRL adds another epsilon to the standard deviation.
    advantages = [a for one in GRPO.advantages(groups, trainer.processing_class) for a in one]
    batch = trainer.scored_batch() | {"advantages": torch.tensor(advantages, dtype=torch.float32)}
    rows = torch.arange(len(completions)).view(len(groups), -1)
    parts = mini_batches(range(len(groups)), preset.groups_per_update)
    return split_rows(batch, [rows[list(part)].flatten().tolist() for part in parts])
