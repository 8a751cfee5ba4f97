"""`python -m foodseg.bench`: measure, then write figures/benchmark.{json,md,png}."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import torch

from foodseg.bench.cuda.__main__ import run_stages
from foodseg.bench.page import write_figures
from foodseg.common.errors import DataError
from foodseg.common.files import write_json
from foodseg.presets import KITCHEN

if __name__ == "__main__":
    if find_spec("trl") is None:
        sys.exit("benchmark: TRL is not installed; `make bench` installs it and comes here again.")
    from foodseg.bench.equal_losses import UnequalLossError
    from foodseg.bench.run import Effort, run

    figures = KITCHEN.figures
    try:
        write_json(figures / "benchmark.json", run(Effort()))
    except (UnequalLossError, DataError) as error:
        sys.exit(f"benchmark: {error}")
    if torch.cuda.is_available():
        run_stages(figures)
    write_figures(figures)
    print(f"Written: {figures / 'benchmark'}.json, .md and .png")
