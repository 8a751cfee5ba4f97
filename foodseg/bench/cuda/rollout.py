"""The phases of a rollout on a GPU, as a side that takes turns (`bench.paired_timing`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from foodseg.bench.paired_timing import Turns, clock
from foodseg.bench.workload import SEED, Load, ban_end_token, make_policy
from foodseg.data.samples import Sample
from foodseg.models.rollouts import TEMPERATURE, sample_rollouts
from foodseg.presets import Preset
from foodseg.system import read_photos


def rollout_by_phase(
    turns: Turns, rounds: int, load: Load, preset: Preset, samples: Sequence[Sample]
) -> None:
    """ "prefill" is a rollout of one token, "decode" what a whole one takes beyond that."""
    mllm = make_policy(preset, load)
    ban_end_token(mllm)
    questions = [sample.question for sample in samples]
    photos = list(read_photos(mllm, preset, samples).values())
    options = {"group_size": preset.group_size, "temperature": TEMPERATURE, "seed": SEED}
    sample = partial(sample_rollouts, mllm, **options)
    turns.ready()
    for _ in range(rounds):
        turns.wait()
        times = [clock()]
        visual = mllm.embed_images(photos)
        times.append(clock())
        prompts = mllm.embed_prompts(questions, visual)
        times.append(clock())
        sample(prompts, max_new_tokens=1)
        times.append(clock())
        sample(prompts, max_new_tokens=preset.max_new_tokens)
        times.append(clock())
        vision, embedding, prefill, whole = np.diff(times).tolist()
        phases = {"vision": vision, "prompts": embedding, "prefill": prefill}
        turns.report(phases | {"decode": whole - prefill})
