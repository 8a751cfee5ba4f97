"""Every row's difference from DAPO as a dot with its interval, family by family."""

from __future__ import annotations

import re
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foodseg.ablations.differences import difference_word, gain_text
from foodseg.report.style import BLUE, GREY, VERMILION, styled

WIDTH, LINE, REST = 9.0, 0.2, 1.0  # inches: the figure, a row, title and axis
# The scale is made for rows this near to DAPO; an arrow at its edge stands for one further off.
NEAR = 0.15
LABEL_WIDTH = 44  # characters


@styled
def difference_dots(frame: pd.DataFrame) -> Figure:
    """gIoU less DAPO's of each row that has it: filled where its interval excludes 0.

    frame: of `ablations_frame`, with a gain in one row at least.
    """
    drawn = frame.dropna(subset=["gain"])
    families = drawn.groupby("family", sort=False)
    figure = Figure(figsize=(WIDTH, REST + LINE * (len(drawn) + len(families))))
    figure.set_layout_engine("constrained")
    ax, limit, labels, headings = figure.subplots(), scale_limit(drawn), [], []
    for family, rows in families:
        headings.append(len(labels))
        labels.append(family)
        for row in rows.itertuples():
            _dot(ax, len(labels), row, limit)
            labels.append("\n".join(wrap(_short(row.title), LABEL_WIDTH)))
    _axis(ax, labels, limit)
    for y, label in enumerate(ax.get_yticklabels()):
        label.set_fontweight("bold" if y in headings else "normal")
        label.set_fontsize(6.5 if "\n" in label.get_text() else 8)  # two lines fit into one row
    _legend(figure, ax)
    return figure


def _short(title: str) -> str:
    """Without what is in brackets, where a title needs two lines with it."""
    return title if len(title) <= LABEL_WIDTH else re.sub(r" \([^)]*\)", "", title)


def scale_limit(drawn: pd.DataFrame) -> float:
    """Where the scale ends on both sides: a little beyond the intervals of the rows near DAPO."""
    near = drawn[drawn["gain"].abs() <= NEAR]
    ends = near[["gain", "gain_low", "gain_high"]].abs().max(axis=None)
    return 1.1 * ends if ends > 0 else NEAR


def _dot(ax: Axes, y: int, row, limit: float) -> None:
    word = difference_word(row)
    colour = {"above": BLUE, "below": VERMILION}.get(word, GREY)
    face = "white" if colour == GREY else colour
    ax.text(1.02, y, gain_text(row), transform=ax.get_yaxis_transform(), va="center", fontsize=7.5)
    if abs(row.gain) > limit:
        side = np.sign(row.gain)
        ax.plot(side * limit * 0.97, y, ">" if side > 0 else "<", ms=6, mfc=face, mec=colour)
        return
    ax.plot([row.gain_low, row.gain_high], [y, y], color=colour, lw=1.3, solid_capstyle="butt")
    for end, mark in ((row.gain_low, "<"), (row.gain_high, ">")):
        if abs(end) > limit:  # the interval goes on beyond the scale
            ax.plot(np.sign(end) * limit * 0.985, y, mark, ms=3.5, color=colour)
    ax.plot(row.gain, y, "o", ms=5.5, mfc=face, mec=colour, mew=1.2)


def _axis(ax: Axes, labels: list[str], limit: float) -> None:
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    ax.set(xlim=(-limit, limit), ylim=(len(labels) - 0.4, -0.6))
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", top=True, labeltop=True)
    ax.grid(True, axis="x")
    ax.set_xlabel("gIoU less DAPO's, with its 95% interval over plates and seeds")


def _legend(figure: Figure, ax: Axes) -> None:
    styles = [("o", BLUE, BLUE), ("o", VERMILION, VERMILION), ("o", GREY, "white")]
    styles += [("<", GREY, GREY)]
    handles = [ax.plot([], [], m, ms=5.5, mec=edge, mfc=face)[0] for m, edge, face in styles]
    labels = ["above DAPO", "below DAPO", "no difference shown", "off the scale"]
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
