"""Every phase of a step by itself, and the trainer's own whole step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch

from foodseg.bench.cuda_clock import Record, mark, measure, seconds_between, start_afresh
from foodseg.bench.cuda_work import Setting, answer_well, open_photos, teach
from foodseg.bench.work import SEED
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm, Prompt
from foodseg.models.rollouts import TEMPERATURE, Rollout, sample_rollouts
from foodseg.recipes import GRPO, Recipe
from foodseg.rl.groups import score_group
from foodseg.training import updates as trainer_updates
from foodseg.training.memory import MemoryPlan
from foodseg.training.sampler import GroupSampler
from foodseg.training.updates import PolicyUpdater

# The floor's step has no KL.
WITHOUT_KL = replace(GRPO, objective=replace(GRPO.objective, kl_weight=0.0))


def measure_rollout(mllm: Mllm, setting: Setting, samples: Sequence[Sample]) -> dict[str, dict]:
    """Seconds and peaks of what comes before the update, phase by phase.

    "prefill" is a rollout of one token; "decode" what a whole rollout takes beyond that.
    """
    photos = open_photos(samples)
    visual = mllm.embed_images(photos)
    questions = [sample.question for sample in samples]
    prompts = mllm.embed_prompts(questions, visual)
    rollouts = _sample(mllm, setting, prompts, setting.shape.length)
    answered = list(zip(samples, answer_well(samples, rollouts), strict=True))
    phases = {
        "vision": lambda: mllm.embed_images(photos),
        "prompts": lambda: mllm.embed_prompts(questions, visual),
        "prefill": lambda: _sample(mllm, setting, prompts, 1),
        "sampling": lambda: _sample(mllm, setting, prompts, setting.shape.length),
        "scoring": lambda: [score_group(s, r, setting.image_side) for s, r in answered],
    }
    result = {name: measure(work, setting.repeats, mllm.device) for name, work in phases.items()}
    decode = {
        key: round(result["sampling"][key] - result["prefill"][key], 5)
        for key in ("seconds", "fastest", "slowest")
    }
    return result | {"decode": result["sampling"] | decode}


def _sample(mllm: Mllm, setting: Setting, prompts: Sequence[Prompt], tokens: int) -> list[Rollout]:
    return sample_rollouts(
        mllm,
        prompts,
        group_size=setting.shape.group_size,
        max_new_tokens=tokens,
        temperature=TEMPERATURE,
        seed=SEED,
    )


def measure_step(
    mllm: Mllm, setting: Setting, samples: Sequence[Sample], *, updates: int, recipe: Recipe
) -> dict:
    """The trainer's own step, from questions to the changed adapter, with rewards made to differ.

    Returns summaries of the "step" and of its parts "rollout" (scoring with it), "reference",
    "forward", "backward" and "optimizer", the memory "plan" that the trainer picked, and the
    "sampler_gap", how far the sampler's log-probs were from the update's on average.
    """
    preset = setting.preset(updates)
    sampler = GroupSampler(mllm, preset, recipe, samples, SEED)
    updater = PolicyUpdater(mllm, preset, recipe)
    records: dict[str, Record] = defaultdict(Record)
    for run in range(setting.repeats + 1):
        start_afresh(mllm.device)
        with watch_update(updater) as spans:
            start = mark(mllm.device)
            groups = teach(sampler.next_batch().groups)
            sampled = mark(mllm.device)
            row = updater.update(groups)
            end = mark(mllm.device)
        seconds = {name: sum(seconds_between(*span) for span in spans[name]) for name in spans}
        whole = seconds_between(sampled, end)
        seconds["backward"] = whole - sum(seconds.values())
        seconds |= {"rollout": seconds_between(start, sampled), "step": seconds_between(start, end)}
        if run:
            for name, value in seconds.items():
                records[name].add(value)
            # The trainer reads the step's peak for its log, and starts it afresh.
            records["step"].note_peak(int(row["peak_memory_mb"] * 10**6))
    parts = {name: record.summary() for name, record in records.items()}
    plan = _plan_facts(updater.plan, setting.shape.prompts)
    return {"phases": parts, "plan": plan, "sampler_gap": row["sampler_gap"]}


@contextmanager
def watch_update(updater: PolicyUpdater) -> Iterator[dict[str, list[tuple]]]:
    """Within this context, marks around each forward and optimizer step of the updater.

    Yields a list of (start, end) for "reference", "forward" and "optimizer"; the rest of an update
    is its backward and some bookkeeping.
    """
    device, score = updater.mllm.device, trainer_updates.score_groups
    spans: dict[str, list[tuple]] = defaultdict(list)
    began = []

    def timed(*arguments, **keywords):
        start = mark(device)
        scores = score(*arguments, **keywords)
        name = "forward" if torch.is_grad_enabled() else "reference"
        spans[name].append((start, mark(device)))
        return scores

    hooks = [
        updater.optimizer.register_step_pre_hook(lambda *_: began.append(mark(device))),
        updater.optimizer.register_step_post_hook(
            lambda *_: spans["optimizer"].append((began.pop(), mark(device)))
        ),
    ]
    try:
        with patch.object(trainer_updates, "score_groups", timed):
            yield spans
    finally:
        for hook in hooks:
            hook.remove()


def _plan_facts(plan: MemoryPlan, groups: int) -> dict:
    """What the trainer picked, and what it had counted, in GB (10^9 bytes)."""
    free = plan.free_bytes
    return {
        "groups": min(plan.groups, groups),
        "parts": plan.parts,
        "checkpointed": plan.checkpointed,
        "counted_gb": round(plan.forward_bytes / 1e9, 2),
        "free_gb": None if free is None else round(free / 1e9, 2),
    }
