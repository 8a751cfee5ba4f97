"""Tables as files: Markdown for the README, LaTeX for a paper, CSV for everything else."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from foodseg.common.files import write_atomically

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "–": "--", "→": r"$\to$"}
)
# A cell that begins with a number, or has none.
_NUMBER = re.compile(r"[-+−±]?[\d.,]+|[–-]$|nan$|$")


def to_markdown(frame: pd.DataFrame) -> str:
    """The table as GitHub's Markdown: the index first, columns of numbers to the right."""
    header, cells = [str(frame.index.name or ""), *map(str, frame.columns)], _cells(frame)
    columns = list(zip(*cells, strict=True))[1:] or [[]] * len(frame.columns)
    sides = ["---:" if all(map(_NUMBER.match, column)) else "---" for column in columns]
    rows = [header, ["---", *sides], *cells]
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in frame.itertuples()]


def to_latex(frame: pd.DataFrame, caption: str, label: str) -> str:
    """The table as a LaTeX float with booktabs' rules (`\\usepackage{booktabs, graphicx}`)."""
    header = [str(frame.index.name or ""), *map(str, frame.columns)]
    lines = [" & ".join(map(escape_latex, row)) + r" \\" for row in [header, *_cells(frame)]]
    body = "\n".join(lines[1:] + [r"\bottomrule"])
    return rf"""\begin{{table}}
\centering
\caption{{{escape_latex(caption)}}}
\label{{{label}}}
\resizebox{{\linewidth}}{{!}}{{%
\begin{{tabular}}{{l{"r" * len(frame.columns)}}}
\toprule
{lines[0]}
\midrule
{body}
\end{{tabular}}}}
\end{{table}}
"""


def escape_latex(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    return text.translate(_LATEX)


def write_markdown(path: Path, sections: Sequence[str]) -> None:
    """Write paragraphs and tables, an empty line between them."""
    write_text(path, "\n\n".join(s.strip("\n") for s in sections) + "\n")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write the frame, with its index, numbers to six digits."""
    write_text(path, frame.to_csv(float_format="%.6g"))


def read_csv(path: Path, numbers: Collection[str]) -> pd.DataFrame | None:
    """The frame that `write_csv` wrote; None if there is no such file.

    numbers: its columns of numbers and truth values; all others are text, "" where there is none.
    """
    if not path.exists():
        return None
    frame = pd.read_csv(path, index_col=0)
    texts = frame.columns.difference([*numbers])
    return frame.assign(**{name: frame[name].astype(object).fillna("") for name in texts})


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, text.encode())
