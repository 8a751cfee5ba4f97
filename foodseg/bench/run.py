"""The whole benchmark: check, side by side, growth, evaluation; all figures as plain values."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

import torch

from foodseg.bench.equal_losses import compare_losses
from foodseg.bench.evaluation import measure_evaluation
from foodseg.bench.paired_timing import take_turns
from foodseg.bench.plain_rows import plain_score_groups
from foodseg.bench.scaling import Point, fits, measure_scaling, points
from foodseg.bench.this_trainer import this_trainer
from foodseg.bench.trl_trainer import fastest_micro_batch, trl_trainer
from foodseg.bench.workload import STEP
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.data.samples import load_samples
from foodseg.presets import Preset
from foodseg.recipes import GRPO
from foodseg.system import load_policy


@dataclass(frozen=True)
class Effort:
    """How much is measured: the preset whose step it is, and how often each thing is repeated."""

    preset: Preset = STEP
    rounds: int = 7
    points: Sequence[Point] = field(default_factory=points)
    scaling_repeats: int = 5
    questions: int = 48
    evaluation_repeats: int = 3


def run(effort: Effort) -> dict:
    """Measure everything; raises UnequalLossError if TRL does not compute the same loss."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    preset, samples = effort.preset, load_samples(effort.preset.samples_file("train"))
    tqdm.write("1/5 the same loss and gradient as TRL?")
    agreement = compare_losses(preset, samples)
    agreement.check()
    tqdm.write(f"    yes, to {max(agreement.errors):.0e}. 2/5 TRL's fastest micro-batch")
    micro_batches = fastest_micro_batch(preset, samples)
    fastest = min(micro_batches, key=micro_batches.get)
    tqdm.write(f"    {fastest} of {', '.join(map(str, micro_batches))} completions")
    work = (load_policy, preset, samples)
    sides = {
        "this": (this_trainer, work),
        "plain": (this_trainer, (*work, GRPO, plain_score_groups)),
        "trl": (trl_trainer, (*work, fastest)),
    }
    results = {
        "shape": {
            "prompts": preset.prompts_per_step,
            "group_size": preset.group_size,
            "length": preset.max_new_tokens,
            "updates": preset.updates_per_step,
        },
        "agreement": asdict(agreement) | {"errors": agreement.errors},
        "micro_batches": {str(size): seconds for size, seconds in micro_batches.items()},
        "micro_batch": fastest,
        "sides": take_turns(sides, effort.rounds, "3/5 side by side"),
        "scaling": measure_scaling(effort.scaling_repeats, effort.points),
        "evaluation": measure_evaluation(effort.questions, effort.evaluation_repeats),
    }
    results["fits"] = fits(results["scaling"])
    return _provenance(time.perf_counter() - start) | results


def _provenance(seconds: float) -> dict:
    record = provenance("cpu")
    record["versions"]["trl"] = version("trl")
    return record | {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
    }
