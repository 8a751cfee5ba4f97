"""Every claim as a dot with its interval, in the papers' order."""

from __future__ import annotations

from textwrap import shorten

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foodseg.claims.measures import GIOU
from foodseg.claims.rule import CONTRADICTED, NOT_HERE, NOT_SEEN, OPEN, SEEN
from foodseg.report.style import BLACK, BLUE, GREY, VERMILION, styled

WIDTH, LINE, REST = 10.0, 0.19, 1.1  # inches: the figure, a claim, title and axis
COLOURS = {SEEN: BLUE, CONTRADICTED: VERMILION, NOT_SEEN: BLACK, OPEN: GREY, NOT_HERE: GREY}
LIMIT = 4.5  # in halves of an interval; an arrow at the edge stands for what lies further off
LABEL = 84  # characters


@styled
def claims_picture(frame: pd.DataFrame) -> Figure:
    """Each claim's D in halves of its own interval, so that all figures fit one scale.

    frame: of `claims_frame`. Blue is seen, vermilion contradicted, black not seen, hollow still
    open; D itself stands at the right.
    """
    groups = frame.groupby("paper", sort=False)
    figure = Figure(figsize=(WIDTH, REST + LINE * (len(frame) + groups.ngroups)))
    figure.set_layout_engine("constrained")
    ax, labels, headings = figure.subplots(), [], []
    for paper, claims in groups:
        headings.append(len(labels))
        labels.append(paper)
        for _, claim in claims.iterrows():
            _draw(ax, len(labels), claim)
            labels.append(shorten(claim.says, LABEL, placeholder=" …"))
    ax.axvline(0, color="black", lw=0.8)
    for edge in (-1, 1):
        ax.axvline(edge, color=GREY, lw=0.6, ls=":")
    ax.set_yticks(range(len(labels)), labels, fontsize=7.5)
    for y in headings:
        ax.get_yticklabels()[y].set_fontweight("bold")
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlim(-LIMIT, LIMIT)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", top=True, labeltop=True)
    ax.set_xlabel(
        "difference in the claim's direction / half the width of its 95% interval\n"
        "(right of 0: as claimed; beyond 1 and -1 the interval excludes 0; triangles: off scale)"
    )
    key = [
        ax.plot([], [], "o", ms=5, mfc=_face(verdict), mec=COLOURS[verdict], label=verdict)[0]
        for verdict in (SEEN, NOT_SEEN, CONTRADICTED, OPEN)
    ]
    figure.legend(handles=key, loc="outside upper right", ncols=len(key), frameon=False)
    return figure


def _face(verdict: str) -> str:
    """A dot's filling: none while more seeds may move it."""
    return "white" if verdict == OPEN else COLOURS[verdict]


def _draw(ax: Axes, y: int, claim: pd.Series) -> None:
    colour, text = COLOURS[claim.verdict], claim.verdict
    half = (claim.high - claim.low) / 2
    if half > 0 or abs(claim["mean"]) > 0:  # NaN is neither
        half = half or 1e-9  # the same in all runs and answers: beyond the edge
        middle, low, high = (v / half for v in (claim["mean"], claim.low, claim.high))
        ax.plot(np.clip([low, high], -LIMIT, LIMIT), [y, y], color=colour, lw=1.4)
        beyond = abs(middle) > LIMIT
        marker = ("<" if middle < 0 else ">") if beyond else "o"
        place = float(np.clip(middle, -LIMIT + 0.1, LIMIT - 0.1))
        ax.plot(place, y, marker, ms=5, mfc=_face(claim.verdict), mec=colour)
        unit = "" if claim.unit == GIOU.unit else f"{claim.unit} "
        text = f"{round(claim['mean'], 3) + 0.0:+.3f} {unit} {text}"
    ax.annotate(
        text,
        (1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=7,
        color=colour,
        annotation_clip=False,
    )
