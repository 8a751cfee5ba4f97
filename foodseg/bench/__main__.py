"""`python -m foodseg.bench`: measure, then write figures/benchmark.{json,md,png}."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from foodseg.bench.cuda import run_cuda
from foodseg.bench.equal_losses import UnequalLossError
from foodseg.bench.page import write_figures
from foodseg.bench.run import Effort, run
from foodseg.errors import DataError
from foodseg.presets import KITCHEN
from foodseg.provenance import write_json


def benchmark(effort: Effort, figures: Path) -> None:
    """Measure on this machine's CPU, and on its GPU if it has one, and write everything."""
    write_json(figures / "benchmark.json", run(effort))
    if torch.cuda.is_available():
        run_cuda(figures)
    write_figures(figures)


if __name__ == "__main__":
    try:
        benchmark(Effort(), KITCHEN.figures)
    except (UnequalLossError, DataError) as error:
        sys.exit(f"benchmark: {error}")
    print(f"Written: {KITCHEN.figures / 'benchmark'}.json, .md and .png")
