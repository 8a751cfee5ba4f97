"""A completion's tokens, each with its segment (SD-GRPO) and its advantage, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from foodseg.methods.sd_grpo import SHARED
from foodseg.report import style
from foodseg.report.style import BLACK, new_figure, styled, without_axes

COLUMNS = 112  # characters in a line
LINE = 0.34  # inches
FONT = {"family": "DejaVu Sans Mono", "fontsize": 8.8, "ha": "center", "va": "center_baseline"}
SIGN_COLOURS = (style.VERMILION, style.BLUE)  # of advantages below and above 0
OBJECT_COLOURS = (style.GREEN, BLACK)  # in turn; neither looks like a fill
OUTSIDE = "#555555"


@styled
def segments_picture(rows: Mapping[str, tuple[Sequence[str], np.ndarray, np.ndarray]]) -> Figure:
    """One panel for each completion, under its title.

    rows: title -> the tokens' texts, their `token_segments` (L,), their advantages (L,). The fill
    is the advantage, blue above 0 and vermilion below; the bar beneath is the segment.
    """
    laid_out = [_lay_out(texts) for texts, _, _ in rows.values()]
    heights = [places[-1][1] + 1 for places in laid_out]
    largest = max(np.abs(values).max() for _, _, values in rows.values()) or 1.0
    height = LINE * sum(heights) + 0.35 * len(rows)
    figure, axes = new_figure(len(rows), 1, 9.0, height, height_ratios=heights)
    without_axes(axes)
    for ax, (title, row), places, lines in zip(axes, rows.items(), laid_out, heights, strict=True):
        ax.set(xlim=(0, COLUMNS), ylim=(lines, 0), title=title)
        _draw(ax, *row, places, largest)
    return figure


def _lay_out(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(column, line) of each token; a new line where one would not fit."""
    places, column, line = [], 0, 0
    for text in texts:
        if column + len(text) > COLUMNS:
            column, line = 0, line + 1
        places.append((column, line))
        column += len(text)
    return places


def _draw(ax: Axes, texts, segments, advantages, places, largest: float) -> None:
    previous = SHARED
    tokens = zip(texts, segments.tolist(), advantages.tolist(), places, strict=True)
    for text, segment, advantage, (column, line) in tokens:
        fill, alpha = SIGN_COLOURS[advantage > 0], 0.6 * abs(advantage) / largest
        ax.add_patch(Rectangle((column, line + 0.08), len(text), 0.5, lw=0, fc=fill, alpha=alpha))
        colour = OUTSIDE if segment == SHARED else BLACK
        for x, character in enumerate(text.replace("\n", "↵"), start=column):
            ax.text(x + 0.5, line + 0.34, character, color=colour, **FONT)
        if segment != SHARED:
            colour, name = OBJECT_COLOURS[segment % len(OBJECT_COLOURS)], f"object {segment + 1}"
            ax.add_patch(Rectangle((column, line + 0.6), len(text), 0.07, fc=colour, lw=0))
            if segment != previous:
                label = f"{name} {advantage:+.2f}".replace("-", "−")
                left = min(column, COLUMNS - 0.65 * len(label))  # in a smaller font
                ax.text(left, line + 0.7, label, fontsize=6.5, va="top", color=colour)
        previous = segment
