"""`python -m foodseg.bench`: measure, then write figures/benchmark.{json,md,png}."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from foodseg.common.errors import DataError
from foodseg.presets import KITCHEN

if __name__ == "__main__":
    if find_spec("trl") is None:
        sys.exit("benchmark: TRL is not installed; `make bench` installs it and comes here again.")
    from foodseg.bench.equal_losses import UnequalLossError
    from foodseg.bench.run import Effort, benchmark

    try:
        benchmark(Effort(), KITCHEN.figures)
    except (UnequalLossError, DataError) as error:
        sys.exit(f"benchmark: {error}")
    print(f"Written: {KITCHEN.figures / 'benchmark'}.json, .md and .png")
