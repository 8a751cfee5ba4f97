"""One look for every picture: colours that colour-blind readers can tell apart, quiet axes.

Pictures are `matplotlib.figure.Figure` objects made without pyplot, which keeps global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import PIL.Image
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from foodseg.common.files import write_atomically

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK, GREY = "#CC79A7", "#56B4E9", "#F0E442", "#222222", "#8A8A8A"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
# Grey would not show on a dimmed photo.
METHOD_COLOURS = {"base": "#7B3294", "grpo": BLUE, "dapo": VERMILION, "bound": GREEN}
TRUTH = GREEN
DIAMOND = {"mfc": "white", "mec": BLACK, "mew": 1.1}

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.labelcolor": BLACK,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    # Without hinting a word is as wide in a picture as it was measured.
    "text.hinting": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "foodseg",
}

# Decorates every function that makes a figure, because titles read their style when they are set.
styled = matplotlib.rc_context(STYLE)


def new_figure(
    rows: int, columns: int, width: float, height: float, **grid
) -> tuple[Figure, Sequence]:
    """A figure of `width` x `height` inches and its axes, flat, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, list(axes.flat)


def without_axes(axes: Sequence) -> None:
    """Hide ticks and frame, for photos."""
    for ax in axes:
        ax.set_axis_off()


@styled
def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """The picture as PNG bytes, with a palette of 256 colours, which takes a third of the space."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    with PIL.Image.open(buffer) as image:
        picture = quantize(image.convert("RGB"))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def quantize(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in 256 colours, those of the style among them.

    Median cut alone would give all 256 to the photos, and turn a thin blue line green.
    """
    colours = (*CYCLE, *METHOD_COLOURS.values(), GREY, YELLOW, "white")
    own = np.array([to_rgb(colour) for colour in colours])
    tints = np.concatenate([own, (own + 1) / 2])
    common = np.array(image.quantize(256 - len(tints)).getpalette()).reshape(-1, 3)
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([(255 * tints).round().astype(int), common]).ravel().tolist())
    picture = image.quantize(palette=palette, dither=PIL.Image.Dither.FLOYDSTEINBERG)
    # Dithering would tint the white background.
    indices = np.where((np.asarray(image) == 255).all(2), len(own) - 1, np.asarray(picture))
    result = PIL.Image.fromarray(indices.astype(np.uint8), "P")
    result.putpalette(palette.getpalette())
    return result


def show(figure: Figure) -> None:
    """Show a picture below the cell."""
    show_updatable(figure)


def show_updatable(figure: Figure, handle: DisplayHandle | None = None) -> DisplayHandle:
    """Show a picture, in place of the one that `handle` shows, if given."""
    # Only a notebook needs it, and a notebook has it loaded.
    from IPython.display import Image, display

    image = Image(to_png(figure))
    if handle is None:
        return display(image, display_id=True)
    handle.update(image)
    return handle


@styled
def save(figure: Figure, path: Path, dpi: int = 130, pdf: bool = False) -> None:
    """Write the picture as `path`.png and, if asked for, `path`.pdf, always the same bytes."""
    write_atomically(path.with_suffix(".png"), to_png(figure, dpi))
    if pdf:
        buffer = io.BytesIO()
        # A date would make every run's file differ.
        figure.savefig(buffer, format="pdf", dpi=dpi, metadata={"CreationDate": None})
        write_atomically(path.with_suffix(".pdf"), buffer.getvalue())
