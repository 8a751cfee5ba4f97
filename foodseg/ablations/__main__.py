"""`python -m foodseg.ablations`: all rows and the table, or one run.

python -m foodseg.ablations --seeds 0,1,2     every row, then figures/ablations.{md,csv,png}
python -m foodseg.ablations dapo --seed 1     one row of one seed, in this process
accelerate launch -m foodseg.ablations dapo --seed 1 --preset paper     the same on several GPUs
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from foodseg.ablations.execute import execute, train_as_worker
from foodseg.ablations.rows import choose_rows
from foodseg.ablations.run_all import run_table
from foodseg.ablations.runs import SPLITS, Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.processes import Processes
from foodseg.presets import get_preset, parse_seeds


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 1 if a run failed or the input can't be used; 130 after Ctrl-C."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.until_stdin_closes:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    try:
        runs = Runs(get_preset(options.preset))
        if options.row is None:
            rows, seeds = choose_rows(options.rows), parse_seeds(options.seeds)
            return run_table(runs, rows, seeds, split=options.split, jobs=options.jobs)
        (row,) = choose_rows(options.row)
        (seed,) = parse_seeds(options.seed)
        run = Run(row, seed if row.trained else 0, options.split)
        if not Processes.find(runs.preset.device).main:
            train_as_worker(runs, run)
            return 0
        outcome = execute(runs, run)
    except DataError as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ablations: interrupted; start it again to go on.", file=sys.stderr)
        return 128 + signal.SIGINT
    print(outcome.get("failure") or f"gIoU {outcome['giou']:.3f}, cIoU {outcome['ciou']:.3f}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.ablations")
    parser.description = "Run one row, or all and write the table."
    parser.add_argument("row", nargs="?", help="the one row to run (default: all rows)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the one row")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of all rows")
    parser.add_argument("--rows", default="", help="run only these, separated by commas")
    parser.add_argument("--preset", default="kitchen")
    parser.add_argument("--split", choices=SPLITS, default="test", help="plates to evaluate on")
    parser.add_argument("--jobs", type=int, help="runs at once (default: one for each core)")
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def end_with_stdin() -> None:
    """End this process when `run_all`, which holds the other end, ends, even when it is killed."""
    # Not sys.stdin: Python ends in an error while another thread holds its lock.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
