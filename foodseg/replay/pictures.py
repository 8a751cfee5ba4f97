"""Photos and masks as addresses that hold them: small WebP and PNG files."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import ndimage

from foodseg.demo.pictures import data_uri

SIDE = 420  # pixels, the longest of a picture; the page shows it larger
FILL = 140  # of 255, a mask's opacity


def photo_uri(photo: Image.Image) -> str:
    """The photo, scaled down to SIDE."""
    image = photo.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80, method=6)
    return data_uri(buffer.getvalue(), "webp")


def mask_uri(mask: np.ndarray, colour: str, filled: bool = True) -> str:
    """A boolean mask (H, W), outlined and, if asked for, tinted; elsewhere transparent.

    As large as `photo_uri`'s picture of a photo of its size. "" for an empty mask.
    """
    if not mask.any():
        return ""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    picture.thumbnail((SIDE, SIDE))
    small = np.asarray(picture) > 127
    edge = small & ~ndimage.binary_erosion(small, iterations=2)
    indices = np.where(edge, 2, small & filled).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    rgb = [round(255 * part) for part in to_rgb(colour)]
    image.putpalette([0, 0, 0, *rgb, *rgb])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=bytes([0, FILL, 255]), optimize=True, bits=2)
    return data_uri(buffer.getvalue(), "png")
