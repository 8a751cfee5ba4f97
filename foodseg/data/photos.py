"""Any photo that a user may have -> upright RGB with 8 bits a channel.

Coordinates of answers are pixels of the upright photo, as every viewer shows it: the turn that a
camera only notes down (EXIF's orientation) is carried out here.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from foodseg.common.errors import DataError


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright photo: `image` is RGB, of any size.

    name: of its file, "" without one. orientation: EXIF's value, 1 where the pixels are stored
    upright; 2 to 8 were mirrored or turned (CIPA DC-008, tag 274).
    """

    image: Image.Image
    name: str
    orientation: int

    @property
    def turned(self) -> bool:
        """Whether the stored pixels lie in another order than those of `image`."""
        return self.orientation != 1


def read_photo(source: Path | str | BinaryIO | Image.Image) -> Photo:
    """Read a photo in any of Pillow's formats, from a file, an open file, or an opened image.

    Transparent pixels are laid on white; of several frames the first is taken; colour profiles
    are not applied. Raises DataError naming the file if it can't be used.
    """
    if isinstance(source, Image.Image):
        return _upright(source, "")
    name = str(getattr(source, "name", "the photo") if hasattr(source, "read") else source)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and refuses twice as large ones: that is enough.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                return _upright(image, name)
    except FileNotFoundError:
        raise DataError(f"{name}: there is no such file; name a photo.") from None
    except IsADirectoryError:
        raise DataError(f"{name}: this is a folder; name one photo in it.") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name}: this is no image that can be read; save it as JPEG or PNG."
        ) from None
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise DataError(f"{name}: it has more than {most} million pixels; scale it down.") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise DataError(f"{name}: it can't be read ({error}); save it again.") from None


def _upright(image: Image.Image, name: str) -> Photo:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # reading a TIFF removes it
    if orientation not in range(1, 9):  # some programs write 0, for "unknown"
        orientation = 1
    return Photo(_as_rgb(ImageOps.exif_transpose(image)), name, orientation)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, not 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16 bits: Pillow would cut at 255 where we scale.
        grey = np.asarray(image).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
