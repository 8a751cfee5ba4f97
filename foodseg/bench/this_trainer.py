"""This trainer as a side that takes turns (`paired_timing`): one training step a turn, by phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from foodseg.bench.paired_timing import MIB, Turns, clock
from foodseg.bench.workload import SEED, Load, ban_end_token, make_policy
from foodseg.data.samples import Sample
from foodseg.models.shared_prefix import score_groups
from foodseg.presets import Preset
from foodseg.recipes import GRPO, Recipe
from foodseg.rl.groups import Group
from foodseg.training.sampler import GroupSampler
from foodseg.training.updates import PolicyUpdater


def this_trainer(
    turns: Turns,
    rounds: int,
    load: Load,
    preset: Preset,
    samples: Sequence[Sample],
    recipe: Recipe = GRPO,
    score: Callable = score_groups,
    cap_gb: float | None = None,
) -> None:
    """Rollout, scoring and update, as `foodseg.training.trainer.train` does them.

    Of the update "reference", "forward", "optimizer" and "backward", the rest, are reported too.
    cap_gb: what PyTorch may allocate on the GPU, in GB (10^9 bytes).
    """
    if cap_gb:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * 1e9 / total))
    mllm = make_policy(preset, load)
    ban_end_token(mllm)
    sampler = GroupSampler(mllm, preset, recipe, samples, SEED)
    seconds: Counter = Counter()

    def timed(*arguments):
        start = clock()
        scores = score(*arguments)
        seconds["forward" if torch.is_grad_enabled() else "reference"] += clock() - start
        return scores

    updater = PolicyUpdater(mllm, preset, recipe, score=timed)
    updater.optimizer.adamw.register_step_pre_hook(lambda *_: seconds.subtract(optimizer=clock()))
    updater.optimizer.adamw.register_step_post_hook(lambda *_: seconds.update(optimizer=clock()))
    turns.ready()
    for _ in range(rounds):
        turns.wait()
        seconds.clear()
        batch = sampler.next_batch()
        groups = [_with_signal(group) for group in batch.groups]
        row = updater.update(groups)
        seconds["backward"] = row["seconds_update"] - seconds.total()
        facts, plan = {}, updater.forwards.plan
        if plan.free_bytes:  # on a GPU
            # The updater has read the peak and started it afresh.
            facts["memory"] = row["peak_memory_mb"] * 1e6 / MIB
            facts["plan"] = plan.sentence(len(groups), updater.forwards.sizes.layers)
        turns.report({**batch.seconds, **seconds}, sampler_gap=row["sampler_gap"], **facts)


def _with_signal(group: Group) -> Group:
    """Rewards that are all equal set apart: without a KL term the group would cost nothing."""
    if len(set(group.rewards)) > 1:
        return group
    points = tuple({"made_up": float(i % 4)} for i in range(len(group.points)))
    return replace(group, points=points)
