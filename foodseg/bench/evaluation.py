"""Greedy answers to test questions: in batches, as the evaluation asks for them, and one by one."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from foodseg.bench.summary import Spread
from foodseg.bench.workload import STEP, make_policy
from foodseg.common.progress import tqdm
from foodseg.data.samples import Sample, load_samples
from foodseg.models.mllm import Mllm
from foodseg.presets import KITCHEN, Preset
from foodseg.system import roll_out


def measure_evaluation(questions: int, repeats: int) -> dict:
    """Samples a second both ways, in turns, of `questions` spread evenly over the test split."""
    # The kitchen's own limit, where every answer ends by itself.
    preset = replace(STEP, max_new_tokens=KITCHEN.max_new_tokens)
    mllm = make_policy(preset)
    samples = load_samples(preset.samples_file("test"))
    samples = samples[:: max(1, len(samples) // questions)][:questions]
    sizes = {"batched": preset.evaluation_batch, "one_by_one": 1}
    rates, texts = {name: [] for name in sizes}, {}
    for turn in tqdm(range(repeats + 1), "5/5 evaluation"):
        for name, size in sizes.items():
            # A warm-up needs no more than a few questions.
            chosen = samples if turn else samples[:4]
            start = time.perf_counter()
            texts[name] = _answers(mllm, preset, chosen, size)
            if turn:
                rates[name].append(len(samples) / (time.perf_counter() - start))
    return {
        "questions": len(samples),
        "batch": preset.evaluation_batch,
        "same_texts": sum(a == b for a, b in zip(*texts.values(), strict=True)),
        "samples_per_second": {name: asdict(Spread.of(values)) for name, values in rates.items()},
    }


def _answers(mllm: Mllm, preset: Preset, samples: list[Sample], size: int) -> list[str]:
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    answers = [roll_out(mllm, preset, b, group_size=1, temperature=0.0) for b in batches]
    return [rollout.texts[0] for batch in answers for rollout in batch]
