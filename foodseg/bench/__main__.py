"""`python -m foodseg.bench`: measure, then write figures/benchmark.{json,md,png}."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from foodseg.bench.cuda import run_cuda
from foodseg.bench.cuda_page import cuda_sections
from foodseg.bench.equal_losses import UnequalLossError
from foodseg.bench.page import write_page
from foodseg.bench.picture import benchmark_figure
from foodseg.bench.run import Effort, run
from foodseg.presets import KITCHEN
from foodseg.provenance import write_json
from foodseg.report.style import save


def benchmark(effort: Effort, figures: Path) -> dict:
    """Measure on this machine's CPU, and on its GPU if it has one, and write everything."""
    results = run(effort)
    write_json(figures / "benchmark.json", results)
    if torch.cuda.is_available():
        run_cuda(figures)
    save(benchmark_figure(results), figures / "benchmark")
    write_page(figures / "benchmark.md", results, cuda_sections(figures))
    return results


if __name__ == "__main__":
    try:
        benchmark(Effort(), KITCHEN.figures)
    except UnequalLossError as error:
        sys.exit(f"benchmark: {error}")
    print(f"Written: {KITCHEN.figures / 'benchmark'}.json, .md and .png")
