"""Photos for an export: one file for each question, so that a file's name says which it is.

Both readers turn a photo upright as its EXIF data say, as this kit does: the files go as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.data.photos import read_photo
from foodseg.data.references import Size


def place_photo(source: Path, target: Path, size: Size) -> str:
    """Put a photo at `target`; returns "linked" or "copied".

    Where no hard link is possible, the file is copied. `target` ends in .jpg whatever the format:
    OpenCV and Pillow go by the content. size: (width, height) of the upright photo; DataError if it
    has another or can't be read.
    """
    found = read_photo(source).image.size
    if found != size:
        sizes = "it has {}x{} pixels, its sample {}x{}".format(*found, *size)
        raise DataError(f"{source}: {sizes}; build FoodReasonSeg-Single again (notebook 01).")
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)
        return "copied"
    return "linked"
