"""Any photo that a user may have -> upright RGB with 8 bits a channel.

Coordinates of answers are pixels of the upright photo: the turn that a camera only notes down
(EXIF's orientation) is carried out here. `open_image` opens every image file of the kit.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256

# All that is opened, of the 40 and more that Pillow and whatever else is installed know: one of
# them starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
# What Pillow and its plugins raise for a file that is cut or damaged; found by damaging files.
_BROKEN = (
    ArithmeticError, AssertionError, AttributeError, EOFError, Image.DecompressionBombError,
    LookupError, MemoryError, OSError, RuntimeError, SyntaxError, SystemError, TypeError,
    ValueError, struct.error, zlib.error,
)  # fmt: skip
# What shows the stored pixels upright, by EXIF's orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow keeps an orientation.
_NOTES = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright photo: `image` is RGB. orientation: EXIF's value, 1 where it is stored upright."""

    image: Image.Image
    name: str  # of its file, "" without one
    orientation: int

    @property
    def turned(self) -> bool:
        """Whether the stored pixels lie in another order than those of `image`."""
        return self.orientation != 1


class ImageError(DataError):
    """Why a file is no image that can be used, and the fix, without the file's name."""

    def __init__(self, why: str, fix: str):
        super().__init__(f"{why}; {fix}")
        self.why = why


def read_photo(source: Path | str | BinaryIO, sha256: str = "") -> Photo:
    """Read a photo in one of FORMATS, from a file or an open file.

    Transparent pixels are laid on white; of several frames the first is taken; colour profiles
    are not applied. sha256: that a file's bytes must have ("": any). Raises DataError naming the
    file if it can't be used.
    """
    name = str(getattr(source, "name", "the photo") if hasattr(source, "read") else source)
    try:
        with open_image(source) as image:
            photo = upright(image, name)
    except ImageError as error:
        raise DataError(f"{name}: {error}.") from error
    if sha256 and file_sha256(Path(source)) != sha256:
        fix = "put that one back, or build the samples again"
        raise DataError(f"{name}: it is not the photo that the samples were built from; {fix}.")
    return photo


@contextmanager
def open_image(source: Path | str | BinaryIO) -> Iterator[Image.Image]:
    """The image as it is stored; ImageError if it can't be opened, or decoded inside the block."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and refuses twice as large ones: that is enough.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.init()  # a Pillow built without one of the formats can't be asked for it
            with Image.open(source, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                yield image
    except DataError:  # the block's own
        raise
    except _BROKEN as error:
        raise ImageError(*_explain(error)) from error


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return "there is no such file", "name a photo"
    if isinstance(error, IsADirectoryError):
        return "this is a folder", "name one photo in it"
    if isinstance(error, UnidentifiedImageError):  # its own words hold an address in memory
        return "this is no image that can be read", "save it as JPEG or PNG"
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        return f"it has more than {most} million pixels", "scale it down"
    return f"it can't be read ({error})", "save it again"


def upright(image: Image.Image, name: str = "") -> Photo:
    """The photo in an image that `open_image` opened."""
    orientation = read_orientation(image)
    image.load()
    # Pillow turns a TIFF itself when it decodes it, and the orientation is gone then.
    turn = _TURNS.get(read_orientation(image))
    pixels = _as_rgb(image if turn is None else image.transpose(turn))
    # A reader of `pixels` must not turn them once more.
    pixels.info = {key: value for key, value in pixels.info.items() if key not in _NOTES}
    return Photo(pixels, name, orientation)


def read_orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, an unknown one, or damaged EXIF."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _BROKEN:  # the pixels may be whole
        return 1
    return int(orientation) if orientation in _TURNS else 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("its pixels are floating-point numbers", "save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16 bits: Pillow would cut at 255 where we scale.
        grey = np.asarray(image).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
