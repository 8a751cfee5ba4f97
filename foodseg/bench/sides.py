"""The three sides: this trainer, this trainer with plain rows, TRL's. One step a turn."""

from __future__ import annotations

import tempfile

import torch
from transformers import TrainerCallback
from trl.trainer.utils import (
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from foodseg.bench.plain_rows import plain_score_groups
from foodseg.bench.trl_side import TimedTrainer, make_trainer
from foodseg.bench.turns import Turns
from foodseg.bench.work import (
    Shape,
    ban_end_token,
    bench_policy,
    bench_preset,
    in_drawing_order,
    make_sampler,
    training_questions,
)
from foodseg.recipes import GRPO
from foodseg.training import updates
from foodseg.training.updates import PolicyUpdater

MICRO_BATCHES = (8, 16, 32, 64)


def this_trainer(turns: Turns, rounds: int, shape: Shape) -> None:
    """Rollout, scoring and update by foodseg.rl, as `foodseg.training.trainer.train` does them."""
    preset = bench_preset(shape)
    mllm = bench_policy(preset)
    ban_end_token(mllm)
    sampler = make_sampler(mllm, preset, training_questions(preset))
    updater = PolicyUpdater(mllm, preset, GRPO)
    turns.ready()
    for _ in range(rounds):
        turns.wait()
        batch = sampler.next_batch()
        updater.update(batch.groups)
        turns.report(**batch.seconds)


def plain_rows(turns: Turns, rounds: int, shape: Shape) -> None:
    """The same, with G rows [prompt | completion] a group instead of one shared prefix."""
    updates.score_groups = plain_score_groups
    this_trainer(turns, rounds, shape)


def trl_trainer(turns: Turns, rounds: int, shape: Shape, micro_batch: int) -> None:
    """TRL's GRPOTrainer.train, held between two steps."""
    preset = bench_preset(shape)
    mllm = bench_policy(preset)
    sampler = make_sampler(mllm, preset, training_questions(preset))
    samples = in_drawing_order(sampler, rounds * shape.prompts)
    callback = _Turnstile(turns, shape.updates)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            mllm,
            preset,
            shape,
            samples,
            micro_batch=micro_batch,
            rollouts=rounds,
            folder=folder,
            callback=callback,
        )
        callback.seconds = trainer.seconds
        del mllm, sampler
        turns.ready()
        trainer.train()


class _Turnstile(TrainerCallback):
    """Ends a turn after every rollout's last update and waits for the next."""

    def __init__(self, turns: Turns, updates_per_rollout: int):
        self.turns, self.updates = turns, updates_per_rollout

    def on_train_begin(self, *_, **__) -> None:
        self.turns.wait()

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step % self.updates:
            return
        self.turns.report(**self.seconds)
        self.seconds.clear()
        if state.global_step < state.max_steps:
            self.turns.wait()


def fastest_micro_batch(shape: Shape, repeats: int = 2) -> dict[int, float]:
    """Least seconds that TRL's loss and gradient take for one batch, for each micro-batch size.

    What a user of TRL would tune; the side by side takes the fastest.
    """
    preset = bench_preset(shape)
    mllm = bench_policy(preset)
    sampler = make_sampler(mllm, preset, training_questions(preset))
    samples = in_drawing_order(sampler, shape.prompts)
    sizes = [size for size in MICRO_BATCHES if shape.rows % size == 0] or [shape.rows]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            mllm, preset, shape, samples, micro_batch=max(sizes), rollouts=1, folder=folder
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        examples = [trainer.train_dataset[i // shape.group_size] for i in range(shape.rows)]
        batch = split_pixel_values_by_grid(trainer._generate_and_score_completions(examples))
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(repeats + 1):
            for size in sizes:
                seconds[size].append(_gradient_seconds(trainer, batch, shape.rows // size))
    return {size: min(values[1:]) for size, values in seconds.items()}


def _gradient_seconds(trainer: TimedTrainer, batch: dict, parts: int) -> float:
    start = trainer.clock()
    for part in split_tensor_dict(batch, parts):
        trainer.compute_loss(trainer.model, unsplit_pixel_values_by_grid(part)).backward()
    seconds = trainer.clock() - start
    torch.nn.Module.zero_grad(trainer.model)
    return seconds
