"""`python -m foodseg.claims.pages`: what figures/records tell, on every page that shows it.

Writes figures/ablations.*, figures/claims.* and figures/rounding.*, then the tables of README.md
and docs/relatives.md. Nothing is trained. A record counts if its settings are today's; its code may
be that of an earlier commit, which its row names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from foodseg.ablations.differences import gain_text
from foodseg.ablations.outputs import read_table, write_results
from foodseg.ablations.records import all_runs, restored
from foodseg.ablations.rounding import write_page
from foodseg.ablations.rows import all_rows
from foodseg.claims.frame import claims_frame
from foodseg.claims.outputs import write_claims
from foodseg.claims.rule import SEEDS
from foodseg.common.errors import DataError
from foodseg.common.files import PROJECT
from foodseg.common.number_text import with_deviation
from foodseg.common.tables import write_text
from foodseg.presets import KITCHEN, Preset

README, RELATIVES = PROJECT / "README.md", PROJECT / "docs" / "relatives.md"
RESULTS = PROJECT / "figures" / "results_table.md"
Rewritten = Callable[[list[str], list[list[str]]], list[list[str]]]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 where the input can't be used."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.claims.pages")
    parser.description = "Write the pages of the ablations and of the claims from their records."
    parser.parse_args(arguments)
    try:
        for line in write_pages(KITCHEN):
            print(line)
    except DataError as error:
        print(f"pages: {error}", file=sys.stderr)
        return 1
    return 0


def write_pages(preset: Preset) -> Iterator[str]:
    """Write every page; a sentence on each part once it is written."""
    with restored(preset, preset.figures / "records", all_runs(range(SEEDS))) as runs:
        yield write_results(runs, all_rows(), range(SEEDS))
        yield write_claims(runs, claims_frame(runs, range(SEEDS)))
    yield write_page(preset, all_rows(), range(SEEDS))
    rewrite_table(README, "| method | paper: gIoU", results_rows)
    rewrite_table(RELATIVES, "| method | gIoU", relatives_rows(preset))
    yield f"The tables of {README.name} and {RELATIVES.name} are those of the figures."


def rewrite_table(page: Path, start: str, rewritten: Rewritten) -> None:
    """Replace the rows of the page's table whose heading begins with `start`.

    rewritten: (heading, rows before) -> rows now; cells as text. Raises DataError if the page has
    no such table.
    """
    lines = page.read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith(start)), None)
    if first is None:
        raise DataError(f"{page}: no table begins with {start!r}; put its heading back.")
    end = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    heading, _, *rows = map(_cells, lines[first:end])
    lines[first + 2 : end] = [f"| {' | '.join(row)} |" for row in rewritten(heading, rows)]
    write_text(page, "\n".join(lines) + "\n")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def results_rows(heading: list[str], _: list[list[str]]) -> list[list[str]]:
    """Every row of figures/results_table.md, in the columns that the README shows.

    Raises DataError if there is no such table.
    """
    text = RESULTS.read_text() if RESULTS.exists() else ""
    if "| method" not in text:
        raise DataError(f"{RESULTS}: its table is missing; `make table` writes it.")
    table = text[text.index("| method") :].partition("\n\n")[0]
    names, _, *rows = map(_cells, table.splitlines())
    return [[row[names.index(name)] for name in heading] for row in rows]


def relatives_rows(preset: Preset) -> Rewritten:
    """The page's own rows, each with its numbers of figures/ablations.csv."""
    frame = read_table(preset).set_index("title", drop=False)

    def rows_now(_: list[str], rows: list[list[str]]) -> list[list[str]]:
        titles = [title for title, *_ in rows]
        if unknown := set(titles) - set(frame.index):
            fix = "write its title as ablations.csv has it"
            raise DataError(f"{RELATIVES}: {min(unknown)!r} is no row that is measured; {fix}.")
        return [_relative(frame.loc[title]) for title in titles]

    return rows_now


def _relative(row: pd.Series) -> list[str]:
    score = with_deviation(row.giou, row.giou_sd)
    named = [f"{share:.0%}" for share in (row.foods_right, row.foods_right_several)]
    return [row.title, score, gain_text(row), *named, str(int(row.seeds))]


if __name__ == "__main__":
    sys.exit(main())
