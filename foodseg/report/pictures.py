"""Pictures of plates, masks and references, for the notebooks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from scipy import ndimage

from foodseg.data.references import Reference, mask_to_reference
from foodseg.report.style import CYCLE, GREEN, VERMILION, new_figure, styled, without_axes

OPACITY = 0.55  # of a mask's tint
Photo = Image.Image | np.ndarray
Panel = tuple[Photo, Sequence[Reference], str]  # photo, its references, title


@styled
def contact_sheet(images: Sequence[Image.Image]) -> Figure:
    """Photos side by side, six in a row."""
    rows = -(-len(images) // 6)
    figure, axes = new_figure(rows, 6, 9.0, 1.395 * rows)
    for ax, image in zip(axes, images, strict=False):
        ax.imshow(image)
    without_axes(axes)
    return figure


def overlay(image: Photo, mask: np.ndarray, colour: str) -> np.ndarray:
    """The photo, uint8 (H, W, 3): a boolean mask (H, W) tinted and outlined, the rest dimmed."""
    photo = np.asarray(image, dtype=float)
    grey = photo.mean(axis=2, keepdims=True)
    dim = 0.55 * photo + 0.3 * grey + 0.15 * 255
    tinted = (1 - OPACITY) * photo + OPACITY * 255 * np.array(to_rgb(colour))
    result = np.where(mask[..., None], tinted, dim)
    edge = mask & ~ndimage.binary_erosion(mask, iterations=2)
    result[edge] = 255 * np.array(to_rgb(colour))
    return result.clip(0, 255).astype(np.uint8)


@styled
def class_mask_picture(image: Image.Image, mask: np.ndarray, names: Mapping[int, str]) -> Figure:
    """A photo beside its class-id mask (H, W), each class coloured, with its name and id."""
    figure, axes = new_figure(1, 2, 8.0, 4.0 * image.height / image.width + 0.3)
    colours = np.full((256, 3), 0.93)
    classes = [int(label) for label in np.unique(mask) if label]
    axes[0].imshow(image)
    for label, colour in zip(classes, cycle(CYCLE), strict=False):
        colours[label] = to_rgb(colour)
        x, y = mask_to_reference(mask == label).point
        text = f"{names[label]}\n{label}"
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.85}
        axes[1].text(x, y, text, ha="center", va="center", fontsize=8, bbox=box)
    axes[1].imshow(colours[mask])
    axes[0].set_title("the photo")
    axes[1].set_title("its mask: one class id for each pixel")
    without_axes(axes)
    return figure


def box_patch(reference: Reference, colour: str, width: float) -> Rectangle:
    """The outline of a box, whose corners are inclusive pixels."""
    x1, y1, x2, y2 = reference.box
    # An image's pixel (x, y) is drawn from x - 0.5 to x + 0.5.
    size = (x2 - x1 + 1, y2 - y1 + 1)
    return Rectangle((x1 - 0.5, y1 - 0.5), *size, fill=False, ec=colour, lw=width)


def draw_references(ax, references: Sequence[Reference], colours: Sequence[str] = CYCLE) -> None:
    """Boxes and points over the image that `ax` shows, one colour each, in turn."""
    for reference, colour in zip(references, cycle(colours), strict=False):
        ax.add_patch(box_patch(reference, "white", 3.2))
        ax.add_patch(box_patch(reference, colour, 1.8))
        ax.plot(*reference.point, "o", ms=7, mfc=colour, mec="white", mew=1.4)


@styled
def references_picture(
    panels: Sequence[Panel], width: float = 9.0, names: Sequence[str] = ()
) -> Figure:
    """Photos with boxes and points; names: of a photo's references, written in their boxes."""
    sizes = [np.shape(image)[:2] for image, _, _ in panels]
    shape = max(height / width for height, width in sizes)
    figure, axes = new_figure(1, len(panels), width, width / len(panels) * shape + 0.45)
    for ax, (image, references, title) in zip(axes, panels, strict=True):
        ax.imshow(image)
        draw_references(ax, references)
        for reference, name, colour in zip(references, names, cycle(CYCLE), strict=False):
            label = {"fontsize": 7, "color": "white", "va": "top"}
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
            ax.text(*reference.box[:2], f" {name} ", bbox=box, **label)
        ax.set_title(title)
    without_axes(axes)
    return figure


@styled
def toy_mask_picture(mask: np.ndarray, reference: Reference) -> Figure:
    """A small boolean mask with every pixel's distance to the background, its box and its point."""
    height, width = mask.shape
    figure, (ax,) = new_figure(1, 1, 0.55 * width + 0.6, 0.55 * height + 0.6)
    ax.imshow(np.where(mask, 0.75, 1.0), cmap="gray", vmin=0, vmax=1)
    distance = ndimage.distance_transform_edt(mask)
    for (y, x), value in np.ndenumerate(distance):
        if value:
            ax.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=9)
    ax.add_patch(box_patch(reference, VERMILION, 2.5))
    ax.plot(*reference.point, "o", ms=25, mfc="none", mec=GREEN, mew=2.5)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xticks=range(width), xlim=(-0.6, width - 0.4))
    ax.set(yticks=range(height), ylim=(height - 0.4, -0.6))
    return figure


@styled
def pixel_spaces_picture(
    original: Image.Image,
    reference: Reference,
    model_image: Image.Image,
    converted: Reference,
    tokens_per_side: int,
) -> Figure:
    """One reference on the original photo, and on the MLLM's square with its visual tokens."""
    figure, axes = new_figure(1, 2, 9.0, 4.2, width_ratios=(original.width, original.height))
    for ax, image, ref in zip(axes, (original, model_image), (reference, converted), strict=True):
        ax.imshow(image)
        draw_references(ax, [ref], [VERMILION])
        where = f"box {list(ref.box)}, point {list(ref.point)}"
        ax.set_title(f"{image.width} x {image.height} pixels\n{where}")
        ax.spines[:].set_visible(False)
    side = model_image.width
    lines = np.arange(tokens_per_side + 1) * side / tokens_per_side - 0.5
    axes[1].hlines(lines, -0.5, side - 0.5, color="white", lw=0.7, alpha=0.8)
    axes[1].vlines(lines, -0.5, side - 0.5, color="white", lw=0.7, alpha=0.8)
    return figure


@styled
def masks_picture(
    columns: Sequence[tuple[Image.Image, Sequence[Reference], np.ndarray, np.ndarray, str]],
) -> Figure:
    """Columns of photo, references, predicted and true boolean mask (H, W), and title."""
    figure, axes = new_figure(3, len(columns), 9.0, 9.0 / len(columns) * 2.85)
    room = 96 // len(columns)  # characters of a title's line
    for i, (image, references, predicted, truth, title) in enumerate(columns):
        above, middle, below = axes[i :: len(columns)]
        above.imshow(image)
        draw_references(above, references)
        above.set_title(textwrap.fill(title, room))
        middle.imshow(overlay(image, predicted, VERMILION))
        below.imshow(overlay(image, truth, GREEN))
    axes[len(columns)].set_title("SAM2's mask")
    axes[2 * len(columns)].set_title("the true mask")
    without_axes(axes)
    return figure
