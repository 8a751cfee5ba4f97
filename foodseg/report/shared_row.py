"""How the shared prefix works, in one picture: the rows, and the two parts of the attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.typing import ColorType

from foodseg.report.style import BLACK, CYCLE, GREY, styled, without_axes


@styled
def shared_row_picture(prompt: int, completions: Sequence[int]) -> Figure:
    """Plain rows against the shared row of one real group, lengths in tokens, drawn to scale."""
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.45, 1), height_ratios=(4, 1))
    plain, shared = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    _draw_plain_rows(plain, prompt, completions)
    starts = list(accumulate(completions[:-1], initial=prompt))
    pieces = list(zip(starts, completions, map(_colour, range(len(starts))), strict=True))
    _draw_shared_row(shared, prompt, pieces)
    for ax in (plain, shared):
        ax.set(xlim=(0, prompt + sum(completions)))
    without_axes((plain, shared))
    _draw_attention(figure.add_subplot(grid[:, 1]), prompt, pieces)
    return figure


def _draw_plain_rows(ax: Axes, prompt: int, completions: Sequence[int]) -> None:
    for row, length in enumerate(completions):
        ax.add_patch(Rectangle((0, row + 0.08), prompt, 0.84, color=GREY, alpha=0.55))
        ax.add_patch(Rectangle((prompt, row + 0.08), length, 0.84, color=_colour(row)))
    ax.text(prompt / 2, 0.5, "prompt", ha="center", va="center", fontsize=8)
    words = "every row carries\nthe photo and the question again"
    ax.text(prompt + max(completions) * 1.2, len(completions) / 2, words, va="center", fontsize=8.5)
    ax.set(ylim=(len(completions), 0))
    tokens = len(completions) * prompt + sum(completions)
    ax.set_title(f"plain rows, GP + ΣR: {tokens:,} tokens")


Piece = tuple[int, int, ColorType]  # a completion in the shared row: its start, length and colour


def _draw_shared_row(ax: Axes, prompt: int, pieces: Sequence[Piece]) -> None:
    ax.add_patch(Rectangle((0, 0.1), prompt, 0.8, color=GREY, alpha=0.55))
    ax.text(prompt / 2, 0.5, "prompt", ha="center", va="center", fontsize=8)
    for start, length, colour in pieces:
        ax.add_patch(Rectangle((start, 0.1), length, 0.8, color=colour))
    ax.set(ylim=(1, 0))
    ax.set_title(f"the shared row, P + ΣR: {start + length:,} tokens")


def _draw_attention(ax: Axes, prompt: int, pieces: Sequence[Piece]) -> None:
    """Which token (row) attends to which (column): a triangle a segment, and one rectangle."""
    size = sum(pieces[-1][:2])
    ax.add_patch(Rectangle((0, prompt), prompt, size - prompt, color=GREY, alpha=0.3, lw=0))
    for start, length, colour in [(0, prompt, GREY), *pieces]:
        corners = [(start, start), (start, start + length), (start + length, start + length)]
        ax.add_patch(Polygon(corners, color=colour, lw=0))
    middle = prompt + (size - prompt) / 2
    words = "2  completions attend the prompt:\none flash call without a mask"
    ax.text(prompt / 2, middle, words, rotation=90, ha="center", va="center", fontsize=8)
    words = "1  every piece attends its own past:\none causal flash call"
    ax.text(size, size * 0.1, words, ha="right", va="center", fontsize=8, color=BLACK)
    words = "empty: never computed,\nnever stored"
    ax.text(size * 0.97, size * 0.33, words, ha="right", va="center", fontsize=8, color=GREY)
    ax.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xticks=(), yticks=())
    ax.set_title("attention in two parts, merged exactly")
    ax.set_xlabel(
        "softmax over both: each part's own,\nweighed by exp(its log-sum-exp)", fontsize=8
    )
    ax.spines[:].set_color("#CCCCCC")


def _colour(row: int) -> ColorType:
    hues = CYCLE[:-1]  # without black
    paler = row // len(hues) % 2
    return (hues[row % len(hues)], 0.5) if paler else hues[row % len(hues)]
