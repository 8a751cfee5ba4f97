"""Bring your own: a folder of images, masks and questions becomes samples as FoodSeg103's do.

    python -m foodseg.data.own FOLDER              names every fault; exit status 1 if there is one
    python -m foodseg.data.own FOLDER --build OUT  writes Parquet files and reports too

The format is in docs/your_own_data.md. A faulty question is left out and counted, the rest is
built. A training question about a photo that the test has too is faulty.
"""

from __future__ import annotations

import argparse
import sys

from foodseg.common.errors import DataError
from foodseg.data.foodseg103 import SPLITS
from foodseg.data.own.build import build_own, save_own, summarise


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.data.own", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", help="holds images, masks and questions.jsonl")
    parser.add_argument("--build", metavar="OUT", help="write the samples there (datasets/<name>)")
    options = parser.parse_args(arguments)
    # A file's name that is no UTF-8 must not end this half way.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.build:
            reports = save_own(options.folder, options.build)
        else:
            reports = {split: build_own(options.folder, split)[1] for split in SPLITS}
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    problems = dict.fromkeys(p for report in reports.values() for p in report.problems)
    print(*problems, *map(summarise, reports.values()), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
