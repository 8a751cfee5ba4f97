"""An answer as lines of text, as JSON values, and its mask as a file."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from foodseg.common.provenance import provenance
from foodseg.data.references import encode_mask
from foodseg.segment.answer import Segmentation, System

PIXELS = (
    "of the photo as it is shown, after EXIF's orientation: x to the right and y down, from 0; "
    "box is x1, y1, x2, y2, both corners inside"
)
NOT_PARSED = "no answer could be parsed"
NOTHING_FITS = "nothing in the photo fits"


def describe(answer: Segmentation) -> str:
    """The answer in lines of text: the words, each mask, the area, the seconds."""
    if not answer.parsed:
        return f"{NOT_PARSED}; the model wrote: {answer.text.strip() or 'nothing'}"
    if answer.nothing:
        return "\n".join([*filter(None, [answer.thinking]), NOTHING_FITS])
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
