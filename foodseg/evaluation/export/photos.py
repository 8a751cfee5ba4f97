"""Photos for an export: one file for each question, so that a file's name says which it is.

Both readers take photos with OpenCV, which turns a photo upright as its EXIF data say, and so does
this kit: the files go as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.data.photos import read_photo
from foodseg.data.references import Size


def place_photo(source: Path, target: Path, size: Size, copy: bool) -> str:
    """Put a photo at `target`; returns "linked" or "copied".

    A hard link takes no space and, unlike a symbolic one, survives a move; where none is possible,
    or with `copy`, the file is copied. `target` ends in .jpg whatever the format: OpenCV and Pillow
    go by the content. size: (width, height) of the upright photo; DataError if it has another or
    can't be read.
    """
    found = read_photo(source).image.size
    if found != size:
        raise DataError(
            f"{source}: it has {found[0]}x{found[1]} pixels, its sample {size[0]}x{size[1]}; "
            "build FoodReasonSeg-Single again (notebook 01)."
        )
    if not copy:
        try:
            os.link(source, target)
            return "linked"
        except OSError:
            pass  # another disk, or a file system without links
    shutil.copyfile(source, target)
    return "copied"
