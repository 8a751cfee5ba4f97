"""An answer as a picture."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from foodseg.data.references import Reference, scale_reference
from foodseg.report.pictures import draw_references, overlay
from foodseg.report.style import BLUE, VERMILION, new_figure, styled, to_png, without_axes
from foodseg.segment.answer import Segmentation
from foodseg.segment.written import NOT_PARSED, NOTHING_FITS

LONGEST_SIDE, MOST_PIXELS = 6.0, 1200  # of the photo in the picture: inches, pixels a side
CHARACTERS_PER_INCH, LONGEST_TEXT = 13, 400  # characters


@styled
def answer_picture(answer: Segmentation) -> Figure:
    """The photo with the mask, the boxes and the points; question and words stand above it."""
    photo, mask, references = scaled_down(answer.photo.image, answer.mask, answer.references)
    scale = LONGEST_SIDE / max(photo.size)
    width, height = (max(side * scale, 0.4) for side in photo.size)
    words = answer.thinking if answer.parsed else f"{NOT_PARSED}: {answer.text}"
    words += f" ({NOTHING_FITS})" if answer.nothing else ""
    figure_width = max(width, 4.0)
    lines = [*_wrap(f"“{answer.question}”", figure_width), *_wrap(words, figure_width)]
    figure, (ax,) = new_figure(1, 1, figure_width, height + 0.17 * len(lines) + 0.1)
    ax.imshow(overlay(photo, mask, VERMILION) if answer.parsed else photo)
    draw_references(ax, references, [BLUE])
    # "$" would start mathematics.
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5, parse_math=False)
    without_axes([ax])
    return figure


def picture_png(answer: Segmentation) -> bytes:
    """The picture as PNG bytes, in whatever script the question is written."""
    with warnings.catch_warnings():
        # matplotlib's own font lacks many scripts and would warn for every character.
        warnings.filterwarnings("ignore", "Glyph")
        return to_png(answer_picture(answer))


def scaled_down(
    photo: Image.Image, mask: np.ndarray, references: Sequence[Reference]
) -> tuple[Image.Image, np.ndarray, list[Reference]]:
    """All three scaled down to at most MOST_PIXELS a side."""
    factor = MOST_PIXELS / max(photo.size)
    if factor >= 1:
        return photo, mask, list(references)
    size = tuple(max(round(side * factor), 1) for side in photo.size)
    small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    scaled = [scale_reference(reference, photo.size, size) for reference in references]
    return photo.resize(size, Image.Resampling.LANCZOS), small, scaled


def _wrap(text: str, width: float) -> list[str]:
    text = textwrap.shorten(" ".join(text.split()), LONGEST_TEXT, placeholder=" …")
    return textwrap.wrap(text, int(width * CHARACTERS_PER_INCH))
