"""The page's pictures: an answer drawn over its photo, and all answers beside one another."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.demo.ask import Refusal, Reply
from foodseg.report.pictures import draw_references, overlay
from foodseg.report.style import BLUE, TRUTH, VERMILION, new_figure, styled, to_png, without_axes
from foodseg.segment.picture import scaled_down

Panel = tuple[Image.Image, np.ndarray, Sequence[Reference]]  # photo, its mask, its references


@styled
def over_photo(panel: Panel, colour: str = VERMILION, width: float = 4.2) -> bytes:
    """JPEG of mask, boxes and points over the photo, which fills it; width in inches."""
    photo, mask, references = scaled_down(*panel)
    figure = Figure(figsize=(width, max(width * photo.height / photo.width, 0.4)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(overlay(photo, mask, colour) if mask.any() else photo, aspect="auto")
    draw_references(ax, references, [BLUE])
    without_axes([ax])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=110, pil_kwargs={"quality": 90})
    return buffer.getvalue()


@styled
def side_by_side(
    photo: Image.Image, replies: Sequence[Reply | Refusal], sample: Sample | None
) -> bytes:
    """PNG of the truth, if it is known, and of each system's answer, by their names."""
    panels = []
    if sample:
        panels.append(("the truth", (photo, sample.union_mask(), sample.references), TRUTH))
    for reply in replies:
        if isinstance(reply, Reply):
            answer = reply.answer
            iou = f", IoU {reply.judgement.iou:.2f}" if reply.judgement else ""
            drawn = photo, answer.mask, answer.references
            panels.append((f"{reply.name}{iou}", drawn, VERMILION))
    width = 3.6 * len(panels)
    figure, axes = new_figure(1, len(panels), width, 3.6 * photo.height / photo.width + 0.35)
    for ax, (title, panel, colour) in zip(axes, panels, strict=True):
        small, mask, references = scaled_down(*panel)
        ax.imshow(overlay(small, mask, colour) if mask.any() else small)
        draw_references(ax, references, [BLUE])
        ax.set_title(title, parse_math=False)
    without_axes(axes)
    return to_png(figure)


def data_uri(content: bytes, kind: str = "jpeg") -> str:
    """A JPEG, or a picture of another kind, as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
