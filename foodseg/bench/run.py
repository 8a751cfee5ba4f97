"""The whole benchmark: check, side by side, growth, evaluation; all figures as plain values."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from foodseg.bench import sides
from foodseg.bench.cuda import run_cuda
from foodseg.bench.equal_losses import compare_losses
from foodseg.bench.evaluation import measure_evaluation
from foodseg.bench.page import write_figures
from foodseg.bench.scaling import Point, fits, measure_scaling, points
from foodseg.bench.summary import TITLES
from foodseg.bench.turns import take_turns
from foodseg.bench.work import Shape
from foodseg.common.files import write_json
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance


@dataclass(frozen=True)
class Effort:
    """How much is measured: the step's shape, and how often each thing is repeated."""

    shape: Shape = Shape()
    rounds: int = 7
    points: Sequence[Point] = field(default_factory=points)
    scaling_repeats: int = 5
    questions: int = 48
    evaluation_repeats: int = 3


def benchmark(effort: Effort, figures: Path) -> None:
    """Measure on this machine's CPU, and on its GPU if it has one, and write everything."""
    write_json(figures / "benchmark.json", run(effort))
    if torch.cuda.is_available():
        run_cuda(figures)
    write_figures(figures)


def run(effort: Effort) -> dict:
    """Measure everything; raises UnequalLossError if TRL does not compute the same loss."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    shape = effort.shape
    tqdm.write("1/5 the same loss and gradient as TRL?")
    agreement = compare_losses(shape)
    agreement.check()
    tqdm.write(f"    yes, to {max(agreement.errors):.0e}. 2/5 TRL's fastest micro-batch")
    micro_batches = sides.fastest_micro_batch(shape)
    fastest = min(micro_batches, key=micro_batches.get)
    tqdm.write(f"    {fastest} of {', '.join(map(str, micro_batches))} completions")
    results = {
        "shape": asdict(shape),
        "agreement": asdict(agreement) | {"errors": agreement.errors},
        "micro_batches": {str(size): seconds for size, seconds in micro_batches.items()},
        "micro_batch": fastest,
        "sides": _side_by_side(effort, fastest),
        "scaling": _scaling(effort),
        "evaluation": _evaluation(effort),
    }
    results["fits"] = fits(results["scaling"])
    return _provenance(time.perf_counter() - start) | results


def _side_by_side(effort: Effort, micro_batch: int) -> dict[str, list[dict]]:
    shape = effort.shape
    players = {
        "this": (sides.this_trainer, (shape,)),
        "plain": (sides.plain_rows, (shape,)),
        "trl": (sides.trl_trainer, (shape, micro_batch)),
    }
    with tqdm(desc="3/5 side by side", total=len(players) * (effort.rounds + 1)) as bar:

        def show(name: str) -> None:
            bar.set_postfix_str(TITLES[name])
            bar.update()

        return take_turns(players, effort.rounds, show)


def _scaling(effort: Effort) -> list[dict]:
    with tqdm(desc="4/5 growth with G, P and R", total=effort.scaling_repeats + 1) as bar:
        return measure_scaling(effort.scaling_repeats, effort.points, bar.update)


def _evaluation(effort: Effort) -> dict:
    with tqdm(desc="5/5 evaluation", total=effort.evaluation_repeats + 1) as bar:
        return measure_evaluation(effort.questions, effort.evaluation_repeats, bar.update)


def _provenance(seconds: float) -> dict:
    record = provenance("cpu")
    record["versions"]["trl"] = version("trl")
    return record | {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
    }


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
