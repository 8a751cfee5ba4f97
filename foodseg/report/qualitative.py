"""The paper's qualitative figure: for one photo and one question, each method's words and mask."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import LoadFlags
from PIL import Image

from foodseg.data.references import decode_mask
from foodseg.data.samples import Sample
from foodseg.evaluation.predictions import Prediction
from foodseg.report.failures import iou
from foodseg.report.pictures import overlay
from foodseg.report.style import BLACK, GREY, TRUTH, styled
from foodseg.rl.answers import parse_answer

# Inches and points; the figure is laid out by hand because its text decides its height.
COLUMN, GAP, MARGIN, HEADER = 1.9, 0.14, 0.08, 0.3
FONT, LINE = 7.5, 0.142
LONGEST = 150  # characters of a method's words


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture, uint8 (H, W, 3), with words above and a note below.

    bold: the words to set bold, in the singular, in `colour`.
    """

    words: str
    image: np.ndarray
    bold: frozenset[str] = frozenset()
    note: str = ""
    colour: str = BLACK


def question_cell(sample: Sample, photo: Image.Image) -> Cell:
    """The photo with its question."""
    return Cell(f"“{sample.question}”", np.asarray(photo.convert("RGB")))


def truth_cell(sample: Sample, photo: Image.Image) -> Cell:
    """The photo with the true mask and the true foods."""
    image = overlay(photo.convert("RGB"), sample.union_mask(), TRUTH)
    return Cell(", ".join(sample.foods) or "nothing here", image, food_words(sample.foods))


def answer_cell(prediction: Prediction, photo: Image.Image, colour: str) -> Cell:
    """What a method says, with the foods that it names in bold, and its mask."""
    words = shorten(parse_answer(prediction.completion).thinking or prediction.completion)
    image = overlay(photo.convert("RGB"), decode_mask(prediction.mask), colour)
    note = f"IoU {iou(prediction):.2f}"
    if not prediction.parsed:
        note += ", no answer that parses"
    return Cell(words, image, food_words(prediction.foods_named), note, colour)


def shorten(text: str) -> str:
    """One line of at most LONGEST characters."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def food_words(foods: Sequence[str]) -> frozenset[str]:
    """The single words of food names, in the singular."""
    return frozenset(_singular(word) for food in foods for word in food.split())


def _singular(word: str) -> str:
    word = re.sub(r"[^\w]", "", word.casefold())
    for ending, new in (("ies", "y"), ("oes", "o"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word.removesuffix(ending) + new
    return word


def choose_questions(
    samples: Sequence[Sample],
    base: Sequence[Prediction],
    trained: Sequence[Prediction],
    quantiles: Sequence[float],
) -> list[int]:
    """Indices of the questions at these quantiles of the gain in IoU from `base` to `trained`.

    Questions are ranked by gain, then by id. No photo is shown twice: the nearest question in rank
    about another photo is taken.
    """
    gains = [iou(t) - iou(b) for b, t in zip(base, trained, strict=True)]
    order = sorted(range(len(samples)), key=lambda i: (gains[i], samples[i].sample_id))
    chosen: list[int] = []
    for quantile in quantiles:
        start = round(quantile * (len(order) - 1))
        shown = {samples[i].image for i in chosen}
        fresh = [rank for rank, i in enumerate(order) if samples[i].image not in shown]
        if fresh:
            chosen.append(order[min(fresh, key=lambda rank: abs(rank - start))])
    return chosen


@styled
def segmentation_figure(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Figure:
    """A header over each column, a row of cells for each question."""
    lines = [[wrap(cell.words, cell.bold) for cell in row] for row in rows]
    text_heights = [max(map(len, row)) * LINE + 0.1 for row in lines]
    image_heights = [max(map(_image_height, row)) for row in rows]
    notes = [0.2 if any(cell.note for cell in row) else 0.06 for row in rows]
    row_heights = np.add(text_heights, image_heights) + notes
    width = len(headers) * (COLUMN + GAP) - GAP + 2 * MARGIN
    height = HEADER + row_heights.sum() + GAP * (len(rows) - 1) + 2 * MARGIN
    figure = Figure(figsize=(width, height))
    lefts = MARGIN + np.arange(len(headers)) * (COLUMN + GAP)
    for left, header in zip(lefts, headers, strict=True):
        _text(figure, left, MARGIN, header, FONT + 2, weight="bold")
    top = MARGIN + HEADER
    layout = zip(rows, lines, text_heights, row_heights, strict=True)
    for row, row_lines, text_height, row_height in layout:
        if top > MARGIN + HEADER:
            _rule(figure, top - GAP / 2)
        for left, cell, cell_lines in zip(lefts, row, row_lines, strict=True):
            _draw_cell(figure, left, top, text_height, cell, cell_lines)
        top += row_height + GAP
    return figure


def _image_height(cell: Cell) -> float:
    return COLUMN * cell.image.shape[0] / cell.image.shape[1]


Run = tuple[str, bool, float]  # words that are bold or not, and where they start in inches


def wrap(words: str, bold: frozenset[str]) -> list[list[Run]]:
    """Break words into lines no wider than a column, each a list of runs of one weight."""
    lines: list[list[Run]] = [[]]
    end = 0.0
    for word in chain.from_iterable(map(_pieces, words.split())):
        is_bold = _singular(word) in bold
        start = end + word_width(" ", False) if lines[-1] else 0.0
        end = start + word_width(word, is_bold)
        if end > COLUMN and lines[-1]:
            lines.append([])
            start, end = 0.0, word_width(word, is_bold)
        if lines[-1] and lines[-1][-1][1] == is_bold:
            run, _, start = lines[-1].pop()
            word = f"{run} {word}"
        lines[-1].append((word, is_bold, start))
    return lines


def _pieces(word: str) -> Iterator[str]:
    """The word, cut where it is wider than a column: a model may write one without an end."""
    start = 0
    for end in range(2, len(word) + 1):
        if word_width(word[start:end], True) > COLUMN:
            yield word[start : end - 1]
            start = end - 1
    yield word[start:]


@lru_cache(maxsize=4096)
def word_width(word: str, bold: bool) -> float:
    """Width of the word in inches: the sum of its glyphs' advances."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans", weight=700 if bold else 400)))
    font.set_size(FONT, 72)
    advances = [font.load_char(ord(c), LoadFlags.NO_HINTING).linearHoriAdvance for c in word]
    return sum(advances) / 65536 / 72


def _draw_cell(figure: Figure, left: float, top: float, text_height: float, cell: Cell, lines):
    # The last line stands right above the picture.
    start = top + text_height - len(lines) * LINE - 0.05
    for number, line in enumerate(lines):
        for words, is_bold, x in line:
            weight = "bold" if is_bold else "normal"
            colour = cell.colour if is_bold else BLACK
            _text(figure, left + x, start + number * LINE, words, FONT, weight=weight, color=colour)
    (w, h), height = figure.get_size_inches(), _image_height(cell)
    below = top + text_height + height
    ax = figure.add_axes((left / w, 1 - below / h, COLUMN / w, height / h))
    ax.imshow(cell.image, interpolation="lanczos")
    ax.set_axis_off()
    _text(figure, left, below + 0.035, cell.note, FONT - 0.5, color=GREY)


def _text(figure: Figure, left: float, top: float, text: str, size: float, **style) -> None:
    w, h = figure.get_size_inches()
    # "$" would start mathematics.
    style |= {"fontsize": size, "va": "top", "parse_math": False}
    figure.text(left / w, 1 - top / h, text, **style)


def _rule(figure: Figure, top: float) -> None:
    w, h = figure.get_size_inches()
    y = 1 - top / h
    line = matplotlib.lines.Line2D([MARGIN / w, 1 - MARGIN / w], [y, y], color="#DDDDDD", lw=0.8)
    figure.add_artist(line)
