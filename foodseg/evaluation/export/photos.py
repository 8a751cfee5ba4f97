"""Photos for an export: one file for each question, so that a file's name says which it is.

Both readers take photos with OpenCV, which turns a photo as its EXIF data say; masks and
coordinates here are those of the pixels as stored. So such a photo is written without these data.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

from PIL import ExifTags, Image

from foodseg.data.references import Size
from foodseg.errors import DataError


def place_photo(source: Path, target: Path, size: Size, copy: bool) -> str:
    """Put a photo at `target`; returns "linked", "copied" or "without EXIF".

    A hard link takes no space, and no symbolic one that breaks elsewhere; where none is possible,
    or with `copy`, it is a copy. `target` ends in .jpg whatever the format: OpenCV and Pillow go by
    the content. size: (width, height) that it must have. Raises DataError if it has another.
    """
    try:
        with Image.open(source) as image:
            found, turned = image.size, _is_turned(image)
    except OSError as error:
        raise DataError(f"{source}: the photo can't be read ({error}); fetch it again.") from error
    if found != size:
        raise DataError(
            f"{source}: it has {found[0]}x{found[1]} pixels, its sample {size[0]}x{size[1]}; "
            "build FoodReasonSeg-Single again (notebook 01)."
        )
    if turned:
        target.write_bytes(without_exif(source.read_bytes()))
        return "without EXIF"
    if not copy:
        try:
            os.link(source, target)
            return "linked"
        except OSError:
            pass  # another disk, or a file system without links
    shutil.copyfile(source, target)
    return "copied"


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def without_exif(data: bytes) -> bytes:
    """The same pixels as stored, without EXIF data: a JPEG less its segments, others as PNG."""
    if not data.startswith(b"\xff\xd8"):
        png = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(png, "PNG")
        return png.getvalue()
    kept, position = [data[:2]], 2
    # Segments: FF, a marker, a length that counts itself; after FF DA comes the image.
    while data[position] == 0xFF and data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position:end]
        if not segment[4:].startswith(b"Exif\0\0"):
            kept.append(segment)
        position = end
    return b"".join([*kept, data[position:]])
