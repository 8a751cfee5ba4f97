"""The results table as a bar chart."""

from __future__ import annotations

from textwrap import wrap

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

LABEL_WIDTH = 38  # characters


@styled
def results_bars(frame: pd.DataFrame, seed_values: dict[str, dict[str, list[float]]]) -> Figure:
    """gIoU and cIoU of every method as measured here; the paper's own in a panel apart.

    Its data and models are others, so nothing of it stands on our scale. frame: of
    `results_frame`. seed_values: metric -> method -> a value for each seed (dots).
    """
    height = 0.42 * len(frame) + 1.0
    figure, (*axes, aside) = new_figure(1, 3, 9.0, height, sharey=True, width_ratios=(2, 2, 1))
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
        _axis(ax, title, len(frame))
    _paper(aside, frame)
    labels = ["\n".join(wrap(method, LABEL_WIDTH)) for method in frame.index]
    axes[0].set_yticks(range(len(frame)), labels)
    _legend(figure, axes[1])
    return figure


def _axis(ax, title: str, rows: int) -> None:
    ax.set(xlim=(0, 1.08), ylim=(rows - 0.5, -0.5), xticks=(0, 0.25, 0.5, 0.75, 1))
    ax.set_title(title)
    ax.grid(True, axis="x")
    ax.tick_params(axis="y", length=0)


def _paper(ax, frame: pd.DataFrame) -> None:
    """The paper's gIoU and cIoU, on photographs and with a model of 3 billion parameters."""
    for metric, marker, shift in zip(METRICS, "D^", (-0.15, 0.15), strict=True):
        ax.plot(frame[f"paper_{metric}"], np.arange(len(frame)) + shift, marker, ms=5.5, **DIAMOND)
    _axis(ax, "the paper,\nother data", len(frame))
    ax.set_xticks((0, 0.5, 1))
    ax.set_facecolor("#F6F6F6")


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
        *(ax.plot([], [], marker, ms=6, **DIAMOND)[0] for marker in "D^"),
    ]
    labels = ["measured here", "95% interval", "a seed of GRPO or DAPO"]
    labels += ["the paper's gIoU", "its cIoU"]
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
