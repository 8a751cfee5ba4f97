"""Learning curves of every row, one small panel each, family by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from textwrap import wrap

import pandas as pd
from matplotlib.figure import Figure

from foodseg.ablations.rows import Row
from foodseg.ablations.runs import Runs, runs_of
from foodseg.common.files import read_lines
from foodseg.report.curves import smooth
from foodseg.report.style import BLUE, GREY, VERMILION, styled

COLUMNS = 6
# In inches; the panels stand in one grid, so that families can be compared up and down.
PANEL, STEP, LEFT, HEADING, BOTTOM = (1.35, 0.85), (1.6, 1.43), 0.35, 0.28, 0.5
TITLE = 0.35  # two lines above a panel
TITLE_WIDTH = 26  # characters
# The log's columns that every recipe shares, whatever it is paid for: (label, full marks, colour).
CURVES = {
    "reward_accuracy": ("accuracy reward, as a share of its 3 points", 3.0, BLUE),
    "parse_rate": ("completions that parse", 1.0, VERMILION),
}
REFERENCE = "grpo"
Logs = Mapping[str, Sequence[pd.DataFrame]]


def read_curves(
    runs: Runs, rows: Sequence[Row], seeds: Sequence[int], split: str = "test"
) -> dict[str, list[pd.DataFrame]]:
    """The logs of each row that has any with the curves' columns, also of runs that stopped."""
    logs: dict[str, list[pd.DataFrame]] = {}
    for run in runs_of([row for row in rows if row.trained], seeds, split):
        frame = pd.DataFrame(read_lines(runs.log(run)) if runs.log(run).exists() else [])
        if set(CURVES) <= set(frame.columns):
            logs.setdefault(run.row.name, []).append(frame)
    return logs


@styled
def ablation_curves(rows: Sequence[Row], logs: Logs, steps: int) -> Figure:
    """A panel for each row with logs: the mean over seeds, the band from lowest to highest.

    logs: row name -> its seeds' logs. steps: of a whole run. All curves are shares, 0 to 1.
    """
    drawn = [row for row in rows if row.name in logs]
    groups = {family: list(group) for family, group in groupby(drawn, attrgetter("family"))}
    columns = min(COLUMNS, max(3, *map(len, groups.values())))
    lines = {family: -(-len(group) // columns) for family, group in groups.items()}
    width = LEFT + columns * STEP[0]
    height = BOTTOM + len(groups) * HEADING + sum(lines.values()) * STEP[1]
    figure, top = Figure(figsize=(width, height)), height
    for family, group in groups.items():
        top -= HEADING
        figure.text(0.08 / width, top / height, family, fontsize=10, fontweight="bold")
        for index, row in enumerate(group):
            line, column = divmod(index, columns)
            x, y = LEFT + column * STEP[0], top - line * STEP[1] - TITLE - PANEL[1]
            place = (x / width, y / height, PANEL[0] / width, PANEL[1] / height)
            _panel(figure.add_axes(place), row, logs, steps, first=column == 0)
        top -= lines[family] * STEP[1]
    _legend(figure)
    return figure


def _panel(ax, row: Row, logs: Logs, steps: int, first: bool) -> None:
    for column, (_, full, colour) in CURVES.items():
        if row.name != REFERENCE and REFERENCE in logs:
            ax.plot(_seeds(logs[REFERENCE], column).mean(axis=1) / full, color=GREY, lw=0.8)
        seeds = _seeds(logs[row.name], column) / full
        band = seeds.min(axis=1), seeds.max(axis=1)
        ax.fill_between(seeds.index, *band, color=colour, alpha=0.2, lw=0)
        ax.plot(seeds.mean(axis=1), color=colour, lw=1.4)
    last = max(log["step"].max() for log in logs[row.name])
    stopped = "" if last == steps else f" (stopped at {last})"
    ax.set_title("\n".join(wrap(row.title + stopped, TITLE_WIDTH)), fontsize=7.5, pad=3)
    ax.set(xlim=(0, steps), ylim=(0, 1.02), yticks=(0, 0.5, 1), xticks=(0, steps // 2, steps))
    ax.tick_params(labelsize=6.5, length=2, labelleft=first)
    ax.grid(True)


def _seeds(logs: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    return pd.concat([smooth(log.set_index("step")[column]) for log in logs], axis=1)


def _legend(figure: Figure) -> None:
    ax = figure.axes[0]
    handles = [ax.plot([], [], color=colour, lw=1.6)[0] for _, _, colour in CURVES.values()]
    handles.append(ax.plot([], [], color=GREY, lw=1.0)[0])
    labels = [label for label, _, _ in CURVES.values()] + ["the same two of GRPO"]
    figure.legend(handles, labels, loc="lower left", ncols=2, fontsize=7.5, borderpad=0.2)
