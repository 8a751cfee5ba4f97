"""Training curves and tables of a run, read from its log.jsonl alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foodseg.common.files import read_lines
from foodseg.report.style import (
    CYCLE,
    GREY,
    METHOD_COLOURS,
    new_figure,
    show_updatable,
    styled,
    without_axes,
)

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

STEPS_BETWEEN_DRAWINGS = 10
PHASES = ("rollout", "scoring", "update")
LEGEND = {"fontsize": 7, "handlelength": 1.2, "labelspacing": 0.2}  # five lines have room
# Panel title -> the log's columns in it, with their labels.
LIVE_PANELS: Mapping[str, Mapping[str, str]] = {
    "reward": {
        "reward_total": "total (of 7)",
        "reward_thinking_format": "thinking format (of 1)",
        "reward_segmentation_format": "segmentation format (of 2)",
        "reward_accuracy": "accuracy (of 3)",
        "reward_non_repeat": "non-repeat (of 1)",
    },
    "shares": {
        "parse_rate": "completions that parse",
        "zero_variance": "groups without signal",
        "ended": "completions that end",
    },
    "share of tokens clipped": {"clip_low_fraction": "below", "clip_high_fraction": "above"},
    "policy": {"entropy": "entropy (nats)", "kl": "KL to the base (k3)"},
}


class LiveCurves:
    """Redraws a run's curves below the cell every few steps: `train(..., on_step=LiveCurves(...))`.

    title: above the curves.
    """

    def __init__(self, title: str) -> None:
        self.title, self.calls = title, 0
        self.handle: DisplayHandle | None = None

    def __call__(self, log: Path) -> None:
        if self.calls % STEPS_BETWEEN_DRAWINGS == 0:
            self.finish(log)
        self.calls += 1

    def finish(self, log: Path) -> None:
        """Draw the log as it is now, also where no step was left to run."""
        figure = run_curves(pd.DataFrame(read_lines(log)), self.title)
        self.handle = show_updatable(figure, self.handle)


def read_logs(folders: Sequence[Path]) -> list[pd.DataFrame]:
    """The logs of several runs."""
    return [pd.DataFrame(read_lines(folder / "log.jsonl")) for folder in folders]


@styled
def run_curves(log: pd.DataFrame, title: str) -> Figure:
    """One run: its rewards, shares, clipping and policy over the steps."""
    figure, axes = new_figure(1, len(LIVE_PANELS), 11.0, 3.3)
    for ax, (panel, columns) in zip(axes, LIVE_PANELS.items(), strict=True):
        for (column, label), colour in zip(columns.items(), CYCLE, strict=False):
            _curve(ax, log["step"], log[column], colour, label)
        ax.set_title(panel)
        ax.set_ylim(bottom=0)
        _step_axis(ax)
        # Below the panel: inside it, the legend of the rewards would cover a curve.
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.28), **LEGEND)
    figure.suptitle(title, fontsize=10, ha="left", x=0.01)
    return figure


def smooth(values: pd.Series) -> pd.Series:
    """Centred moving average over nine steps, fewer in a short run and at both ends."""
    window = max(1, min(9, len(values) // 5))
    return values.rolling(window, center=True, min_periods=1).mean()


def _step_axis(ax) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(True)


def _curve(ax, steps: pd.Series, values: pd.Series, colour: str, label: str) -> None:
    if len(values) > 20:
        ax.plot(steps, values, color=colour, lw=0.6, alpha=0.3)
        values = smooth(values)
    marker = "o" if len(values) == 1 else None
    ax.plot(steps, values, color=colour, lw=1.6, label=label, marker=marker, ms=3)


@styled
def compare_curves(
    methods: Mapping[str, tuple[str, Sequence[pd.DataFrame]]], panels: Mapping[str, str]
) -> Figure:
    """Several methods over the steps: the mean over seeds, and the band from lowest to highest.

    methods: row name -> (title, the logs of its seeds); panels: the log's column -> panel title.
    """
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, 9.0, 2.4 * rows)
    for ax, (column, title) in zip(axes, panels.items(), strict=False):
        for name, (label, logs) in methods.items():
            seeds = pd.concat([smooth(log.set_index("step")[column]) for log in logs], axis=1)
            colour = METHOD_COLOURS.get(name, CYCLE[0])
            ax.plot(seeds.index, seeds.mean(axis=1), color=colour, lw=1.8, label=label)
            band = seeds.min(axis=1), seeds.max(axis=1)
            ax.fill_between(seeds.index, *band, color=colour, alpha=0.18, lw=0)
        ax.set_title(title)
        ax.set_ylim(bottom=0)
        _step_axis(ax)
    without_axes(axes[len(panels) :])
    axes[0].legend(loc="best")
    figure.supxlabel(
        "moving average over at most nine steps; line: mean of the seeds, band: lowest to highest",
        fontsize=8,
        color=GREY,
    )
    return figure


def phase_seconds(logs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Seconds of each run by phase of a step; index: run."""
    rows = {}
    for run, log in logs.items():
        seconds = {phase: log[f"seconds_{phase}"].sum() for phase in PHASES}
        total, steps = sum(seconds.values()), len(log)
        rows[run] = seconds | {"total": total, "steps": steps, "per step": total / steps}
    return pd.DataFrame.from_dict(rows, orient="index").round(2).rename_axis("run")


def example_completions(log: pd.DataFrame, count: int = 4) -> pd.DataFrame:
    """The logged question and completion of steps spread over the run, first and last included."""
    chosen = np.unique(np.linspace(0, len(log) - 1, count).round().astype(int))
    return log.iloc[chosen][["step", "question", "completion", "reward_total"]]
