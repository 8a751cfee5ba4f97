"""Pictures that explain rewards, objectives and the group row, for notebooks 03 and 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from foodseg.data.references import Reference
from foodseg.report.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    VERMILION,
    new_figure,
    styled,
    without_axes,
)
from foodseg.rl.answers import PredictedReference
from foodseg.rl.objectives import Objective, policy_loss


@styled
def matching_picture(
    predictions: Sequence[PredictedReference],
    references: Sequence[Reference],
    sums: np.ndarray,
    pairs: np.ndarray,
    side: int,
) -> Figure:
    """Predicted and true boxes, and the (M, N) matrix of summed terms with the pairs chosen."""
    figure, (left, right) = new_figure(1, 2, 8.0, 3.4, width_ratios=(1.25, 1))
    names = "ABCDEFGH"
    for number, reference in enumerate(references, start=1):
        _draw_box(left, reference, GREEN, f"reference {number}", "-", below=False)
    for name, item in zip(names, predictions, strict=False):
        _draw_box(left, item, VERMILION, name, "--", below=True)
    left.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    left.set_title("true (green) and predicted (dashed)")
    right.imshow(sums, cmap="Blues", vmin=0, vmax=5)
    chosen = {tuple(pair) for pair in pairs.tolist()}
    for (row, column), value in np.ndenumerate(sums):
        bold = "bold" if (row, column) in chosen else "normal"
        right.text(column, row, f"{value:.0f}", ha="center", va="center", fontweight=bold)
    for row, column in chosen:
        corner = (column - 0.47, row - 0.47)
        right.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, ec=VERMILION, lw=2))
    right.set_yticks(range(len(predictions)), names[: len(predictions)])
    right.set_xticks(range(len(references)), [f"reference {n + 1}" for n in range(len(references))])
    right.set_title("terms met by each pair")
    right.tick_params(length=0)
    return figure


def _draw_box(ax, item: Reference | PredictedReference, colour, name, line, below: bool) -> None:
    x1, y1, x2, y2 = item.box
    size = (x2 - x1 + 1, y2 - y1 + 1)
    ax.add_patch(Rectangle((x1, y1), *size, fill=False, ec=colour, lw=2, ls=line))
    ax.plot(*item.point, "o", color=colour, ms=5)
    y, align = (y2 + 3, "top") if below else (y1 - 3, "bottom")
    ax.text(x1, y, name, color=colour, va=align, fontweight="bold")


@styled
def payment_picture(ious: np.ndarray, shares: Mapping[str, Sequence[float]]) -> Figure:
    """What rewards pay for an IoU. ious (N,), ascending; shares: name -> (N,), of the most paid."""
    figure, (ax,) = new_figure(1, 1, 6.0, 2.8)
    for name, values in shares.items():
        ax.plot(ious, values, lw=2, label=name)
    ax.set(xlabel="IoU", ylabel="points, as a share\nof the most paid", ylim=(-0.05, 1.05))
    ax.legend(loc="upper left")
    return figure


@styled
def clip_picture(objectives: Mapping[str, Objective]) -> Figure:
    """A token's contribution to the objective over the ratio, for A = +1 and A = -1."""
    figure, axes = new_figure(1, len(objectives), 9.0, 3.1, sharey=True)
    ratios = torch.linspace(0.01, 4.5, 600)
    for ax, (title, objective) in zip(axes, objectives.items(), strict=True):
        for advantage, colour in ((1.0, BLUE), (-1.0, VERMILION)):
            values = _token_objective(ratios, advantage, objective)
            ax.plot(ratios, values, color=colour, lw=2, label=f"A = {advantage:+.0f}")
        low, high = 1 - objective.clip_low, 1 + objective.clip_high
        ax.axvline(low, color=GREY, lw=0.9, ls=":")
        ax.axvline(high, color=GREY, lw=0.9, ls=":")
        ax.axvspan(-1.2, 0, color="#EFEFEF")
        ax.text(-0.6, -4.3, "no ratio\nis here", ha="center", color=GREY, fontsize=7.5)
        ax.set(xlim=(-1.2, 4.5), ylim=(-4.7, 4.7), xlabel="ratio r")
        ax.set_title(f"{title}\nclips at {low:.2g} and {high:.3g}".replace("-", "−"))
    axes[0].set_ylabel("min(rA, clip(r)A)")
    axes[0].legend(loc="upper left")
    return figure


def _token_objective(ratios: torch.Tensor, advantage: float, objective: Objective) -> np.ndarray:
    """Minus the package's own loss at each ratio, one token at a time."""
    objective = replace(objective, kl_weight=0.0, normalisation="token")
    alone = torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool)
    losses = [policy_loss(ratio.log().reshape(1, 1), *alone, objective).loss for ratio in ratios]
    return -np.array([loss.item() for loss in losses])


@styled
def token_weight_picture(lengths: Sequence[int]) -> Figure:
    """The weight of one token of each completion under the two means."""
    figure, axes = new_figure(1, 2, 8.0, 1.9, sharey=True, sharex=True)
    longest = max(lengths)
    weights = {
        "sequence mean (GRPO)": [1 / (len(lengths) * n) for n in lengths],
        "token mean (DAPO)": [1 / sum(lengths)] * len(lengths),
    }
    largest = max(max(values) for values in weights.values())
    for ax, (title, values) in zip(axes, weights.items(), strict=True):
        for row, (length, weight) in enumerate(zip(lengths, values, strict=True)):
            colour, shade = CYCLE[row % len(CYCLE)], 0.15 + 0.85 * weight / largest
            for column in range(length):
                ax.add_patch(Rectangle((column, row), 0.92, 0.85, color=colour, alpha=shade))
            text = f"{length} tokens of {weight:.3g} = {length * weight:.3g}"
            ax.text(longest + 0.3, row + 0.42, text, va="center", fontsize=8.5)
        ax.set(xlim=(-0.2, longest + 5), ylim=(len(lengths), -0.1), title=title)
    without_axes(axes)
    return figure


@styled
def attention_picture(segment: np.ndarray, may_look: np.ndarray) -> Figure:
    """The attention mask of a group row: segment (T,), 0 for the prompt; may_look (T, T) bool."""
    figure, (ax,) = new_figure(1, 1, 5.0, 4.4)
    size = len(segment)
    for row, column in np.argwhere(may_look):
        colour = GREY if segment[column] == 0 else CYCLE[(segment[row] - 1) % len(CYCLE)]
        ax.add_patch(Rectangle((column, row), 0.92, 0.92, color=colour))
    for start in np.flatnonzero(np.diff(segment, prepend=-1)):
        middle = start + (segment == segment[start]).sum() / 2
        name = "prompt" if segment[start] == 0 else f"completion {segment[start]}"
        ax.text(middle, -0.4, name.replace("completion ", ""), ha="center", fontsize=8)
        ax.text(-0.3, middle, name, ha="right", va="center", fontsize=8)
        ax.axhline(start, color="#BBBBBB", lw=0.8)
        ax.axvline(start, color="#BBBBBB", lw=0.8)
    ax.set(xlim=(0, size), ylim=(size, -1.2), aspect="equal")
    without_axes([ax])
    ax.set_title("rows: the token that looks; columns: what it may look at")
    return figure
