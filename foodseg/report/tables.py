"""Tables as files: Markdown for the README, LaTeX for a paper, CSV for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from foodseg.common.files import write_atomically

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "→": r"$\to$",
}


def to_markdown(frame: pd.DataFrame) -> str:
    """The table as GitHub's Markdown: the index first, the other columns to the right."""
    header = [str(frame.index.name or ""), *map(str, frame.columns)]
    rows = [header, ["---", *["---:"] * len(frame.columns)], *_cells(frame)]
    return "".join(f"| {' | '.join(_escape_markdown(row))} |\n" for row in rows)


def _escape_markdown(row: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in row]


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in frame.itertuples()]


def to_latex(frame: pd.DataFrame, caption: str, label: str) -> str:
    """The table as a LaTeX float with booktabs' rules (`\\usepackage{booktabs, graphicx}`)."""
    header = [str(frame.index.name or ""), *map(str, frame.columns)]
    lines = [" & ".join(map(escape_latex, row)) + r" \\" for row in [header, *_cells(frame)]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\label{{{label}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(frame.columns)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def write_markdown(path: Path, sections: Sequence[str]) -> None:
    """Write paragraphs and tables, an empty line between them."""
    write_atomically(path, ("\n\n".join(s.strip("\n") for s in sections) + "\n").encode())


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, text.encode())
