"""What training gains over the base, split into parts that add up exactly.

A question's gain is the IoU of the trained model's answer less that of the base's, both as scored.
Its first part is form: the IoU of the base's same answer read in any form
(`evaluation.any_form`) less as scored. What is left of the gain, the trained answer's IoU less
that of the base's answer read in any form, goes as a whole to the first of these that applies:

- form: one of both answers can't be read at all;
- naming: they name different foods, and one of them none that is asked for;
- completeness: they name different foods, or give different numbers of references;
- boxes and points: their references differ;
- mask: their references are the same, so that SAM2's mask decoder was trained.

Foods are those of `Prediction.foods_named`. Gains are summed with their signs and averaged over
questions and seeds, so each method's parts add up to its gIoU less the base's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from foodseg.common.errors import DataError
from foodseg.data.samples import Sample
from foodseg.evaluation.predictions import Prediction
from foodseg.report.failures import iou
from foodseg.report.style import (
    BLACK,
    BLUE,
    DIAMOND,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    new_figure,
    styled,
)

FORM, NAMING, COMPLETENESS = "form", "naming", "completeness"
BOXES, MASK, TOTAL = "boxes and points", "mask", "gain"
# Grey for form: it is no matter of seeing or knowing.
COLOURS = {FORM: "#BBBBBB", NAMING: ORANGE, COMPLETENESS: PURPLE, BOXES: BLUE, MASK: GREEN}
TEXT = {BLUE: "white"}
CAPTION = """\
A gain is gIoU less the base's as it is scored. Form: the base's own answers, read whatever their
form, and answers that can't be read at all. The rest, question by question, goes to what changed
first: naming (one of both answers names no food that is asked for), completeness (other foods, or
another number of references), boxes and points, mask (the same boxes and points, so 0 unless SAM2's
decoder is trained). Parts to the left of 0 are losses. Dashed: what the table's knowledge and bound
have more than the base."""


def part_of(sample: Sample, before: Prediction, after: Prediction) -> str:
    """Which part the difference of two answers to one question goes to; see above."""
    if not (before.parsed and after.parsed):
        return FORM
    foods = set(before.foods_named), set(after.foods_named)
    if foods[0] != foods[1]:
        return COMPLETENESS if all(named & set(sample.foods) for named in foods) else NAMING
    if len(before.references) != len(after.references):
        return COMPLETENESS
    return BOXES if before.references != after.references else MASK


def gains_frame(
    samples: Sequence[Sample],
    base: Sequence[Prediction],
    any_form: Sequence[Prediction],
    methods: Mapping[str, Sequence[Sequence[Prediction]]],
) -> pd.DataFrame:
    """A row for each method: the mean gain over questions and seeds, its parts, and their sum.

    base, any_form: the base's answers as scored and read in any form. methods: title -> a run for
    each seed. Raises DataError for predictions of other questions than the samples.
    """
    asked = [sample.sample_id for sample in samples]
    for run in (base, any_form, *chain.from_iterable(methods.values())):
        if [prediction.sample_id for prediction in run] != asked:
            raise DataError(
                "predictions: some answer other questions than the test set has; run the notebooks "
                "that make them again (`make table`)."
            )
    rows = {
        title: np.mean([_parts(samples, base, any_form, run) for run in runs], axis=0)
        for title, runs in methods.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLOURS))
    return frame.assign(**{TOTAL: frame.sum(axis=1)}).rename_axis("method")


def _parts(samples, base, any_form, run) -> list[float]:
    """One run's mean gains, in the order of COLOURS."""
    parts = dict.fromkeys(COLOURS, 0.0)
    for sample, scored, read, trained in zip(samples, base, any_form, run, strict=True):
        parts[FORM] += iou(read) - iou(scored)
        parts[part_of(sample, read, trained)] += iou(trained) - iou(read)
    return [gain / len(samples) for gain in parts.values()]


def gains_sentence(frame: pd.DataFrame) -> str:
    """Form's share of each method's gain; a method that gains nothing is left out."""
    shares = [
        f"{row[FORM] / row[TOTAL]:.0%} of {title}'s ({row[FORM]:.3f} of {row[TOTAL]:.3f})"
        for title, row in frame.iterrows()
        if round(row[TOTAL], 3) > 0
    ]
    return f"Form's share of the gain over the base: {', '.join(shares)}." if shares else ""


@styled
def gains_picture(frame: pd.DataFrame, lines: Mapping[str, float]) -> Figure:
    """A stacked bar for each method, gains to the right of 0 and losses to the left.

    frame: of `gains_frame`; lines: label -> a gain, such as the bound's, drawn as vertical lines.
    """
    figure, (ax,) = new_figure(1, 1, 9.0, 0.55 * len(frame) + 1.25)
    for y, (_, row) in enumerate(frame.iterrows()):
        ends = {True: 0.0, False: 0.0}  # of gains, of losses
        for part, colour in COLOURS.items():
            _bar(ax, y, ends[row[part] > 0], row[part], colour)
            ends[row[part] > 0] += row[part]
        ax.plot(row[TOTAL], y, "D", ms=6, **DIAMOND)
    for (label, gain), side in zip(lines.items(), cycle(("right", "left"))):
        ax.axvline(gain, color=GREY, lw=1.1, ls="--")
        ax.text(gain, -0.64, f" {label} ", ha=side, va="bottom", fontsize=8, color="#555555")
    ax.axvline(0, color=BLACK, lw=0.9)
    ax.set(ylim=(len(frame) - 0.5, -0.6), xlabel="gIoU gained over the base as it is scored")
    ax.set_yticks(range(len(frame)), frame.index)
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    _totals(ax, frame[TOTAL])
    _legend(figure, ax)
    return figure


def _bar(ax, y: int, start: float, gain: float, colour: str) -> None:
    """One part, with its number where there is room for it."""
    ax.barh(y, gain, left=start, height=0.6, color=colour)
    if abs(gain) >= 0.04:
        style = {"ha": "center", "va": "center", "fontsize": 8}
        ax.text(start + gain / 2, y, _signed(gain), color=TEXT.get(colour, BLACK), **style)


def _totals(ax, gains: pd.Series) -> None:
    """Each method's sum, right of the picture."""
    for y, gain in enumerate(gains):
        place = {"transform": ax.get_yaxis_transform(), "va": "center"}
        ax.text(1.01, y, _signed(gain), fontweight="bold", **place)


def _signed(gain: float) -> str:
    return f"{gain:+.3f}".replace("-", "−")


def _legend(figure: Figure, ax) -> None:
    handles = [ax.plot([], [], "s", color=colour, ms=8)[0] for colour in COLOURS.values()]
    handles += ax.plot([], [], "D", ms=6, **DIAMOND)
    figure.legend(handles, [*COLOURS, "total"], loc="outside lower center", ncols=len(handles))
