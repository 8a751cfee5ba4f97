"""An answer as a picture, as lines of text, and as JSON values."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from foodseg.common.provenance import provenance
from foodseg.data.references import Reference, encode_mask, scale_reference
from foodseg.report.pictures import draw_references, overlay
from foodseg.report.style import BLUE, VERMILION, new_figure, styled, to_png, without_axes
from foodseg.segment.answer import Segmentation, System

PIXELS = (
    "of the photo as it is shown, after EXIF's orientation: x to the right and y down, from 0; "
    "box is x1, y1, x2, y2, both corners inside"
)
NOT_PARSED = "no answer could be parsed"

LONGEST_SIDE, MOST_PIXELS = 6.0, 1200  # of the photo in the picture: inches, pixels a side
CHARACTERS_PER_INCH, LONGEST_TEXT = 13, 400  # characters


def describe(answer: Segmentation) -> str:
    """The answer in lines of text: the words, each mask, the area, the seconds."""
    if not answer.parsed:
        return f"{NOT_PARSED}; the model wrote: {answer.text.strip() or 'nothing'}"
    width, height = answer.photo.image.size
    turned = ", turned upright as its EXIF says" if answer.photo.turned else ""
    lines = [answer.thinking] if answer.thinking else []
    lines.append(f"in pixels of the photo ({width} x {height}{turned}):")
    for reference, mask in zip(answer.references, answer.masks, strict=True):
        where = f"  box {list(reference.box)}, point {list(reference.point)}"
        lines.append(f"{where}: mask of {np.count_nonzero(mask):,} pixels")
    area = np.count_nonzero(answer.mask)
    lines.append(f"together: {area:,} pixels, {area / answer.mask.size:.1%} of the photo")
    phases = ", ".join(f"{phase} {value:.2f}" for phase, value in answer.seconds.items())
    lines.append(f"seconds: {phases}")
    return "\n".join(lines)


def as_json(answer: Segmentation, system: System) -> dict:
    """The answer as plain JSON values; masks are COCO run-length encodings of the whole photo."""
    width, height = answer.photo.image.size
    return {
        "photo": answer.photo.name,
        "width": width,
        "height": height,
        "pixels": PIXELS,
        "exif_orientation": answer.photo.orientation,
        "question": answer.question,
        "parsed": answer.parsed,
        "text": answer.text,
        "thinking": answer.thinking,
        "references": [
            {"box": list(one.box), "point": list(one.point), "mask": encode_mask(mask)}
            for one, mask in zip(answer.references, answer.masks, strict=True)
        ],
        "mask": encode_mask(answer.mask),
        "area": int(np.count_nonzero(answer.mask)),
        "seconds": {phase: round(value, 3) for phase, value in answer.seconds.items()},
        "provenance": {
            "preset": system.preset.name,
            **system.preset.weights,
            "adapter": system.mllm.adapter_hash,
            "decoder": system.segmenter.decoder_hash,
            **provenance(system.preset.device),
        },
    }


def mask_png(mask: np.ndarray) -> bytes:
    """A boolean mask (H, W) as an 8-bit grey PNG: 255 inside, 0 outside."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()


@styled
def answer_picture(answer: Segmentation) -> Figure:
    """The photo with the mask, the boxes and the points; question and words stand above it."""
    photo, mask, references = scaled_down(answer.photo.image, answer.mask, answer.references)
    scale = LONGEST_SIDE / max(photo.size)
    width, height = (max(side * scale, 0.4) for side in photo.size)
    words = answer.thinking if answer.parsed else f"{NOT_PARSED}: {answer.text}"
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
