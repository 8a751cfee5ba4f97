"""The results table as a bar chart."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from foodseg.report.paper import PAPER
from foodseg.report.results import (
    ANY_FORM_TITLE,
    BEST_OF_TITLE,
    BOUND_TITLE,
    KNOWLEDGE_TITLE,
    METRICS,
    PARENTS_TITLE,
)
from foodseg.report.style import BLACK, DIAMOND, METHOD_COLOURS, PURPLE, new_figure, styled


@styled
def results_bars(frame: pd.DataFrame, seed_values: dict[str, dict[str, list[float]]]) -> Figure:
    """gIoU and cIoU of every method: bars measured here, diamonds as the paper reports them.

    frame: of `results_frame`. seed_values: metric -> method -> a value for each seed (dots).
    """
    figure, axes = new_figure(1, 2, 9.0, 0.42 * len(frame) + 1.0, sharey=True)
    names = {line.method: line.row for line in PAPER} | {BOUND_TITLE: "bound"}
    names |= dict.fromkeys((ANY_FORM_TITLE, BEST_OF_TITLE, PARENTS_TITLE), "base")
    names |= {KNOWLEDGE_TITLE: "bound"}
    for ax, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for y, (method, row) in enumerate(frame.iterrows()):
            values = seed_values[metric].get(method, [])
            if not np.isnan(row[metric]):
                colour = METHOD_COLOURS.get(names.get(method), PURPLE)
                _bar(ax, y, row, metric, colour, end=max(values, default=0.0))
            ax.plot(values, [y] * len(values), "o", ms=3.5, mfc="white", mec=BLACK, mew=0.8)
        paper = frame[f"paper_{metric}"]
        ax.plot(paper, range(len(frame)), "D", ms=6, **DIAMOND)
        ax.set(xlim=(0, 1), ylim=(len(frame) - 0.5, -0.5))
        ax.set_title(title)
        ax.grid(True, axis="x")
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(frame)), frame.index)
    _legend(figure, axes[1])
    return figure


def _bar(ax, y: int, row: pd.Series, metric: str, colour: str, end: float) -> None:
    """end: the largest dot, of which the number stands to the right."""
    value, low, high = row[metric], row[f"{metric}_low"], row[f"{metric}_high"]
    ax.barh(y, value, height=0.55, color=colour, alpha=0.85)
    ax.plot([low, high], [y, y], color=BLACK, lw=1.2)
    ax.text(max(high, value, end) + 0.015, y, f"{value:.2f}", va="center", fontsize=8)


def _legend(figure: Figure, ax) -> None:
    handles = [
        ax.plot([], [], "s", color="#999999", ms=8)[0],
        ax.plot([], [], color=BLACK, lw=1.2)[0],
        ax.plot([], [], "o", ms=3.5, mfc="white", mec=BLACK)[0],
        ax.plot([], [], "D", ms=6, **DIAMOND)[0],
    ]
    labels = ["measured here", "95% interval", "one seed", "the paper (other data and models)"]
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
