"""Photos for an export: one file for each question, so that a file's name says which it is.

Both readers turn a photo upright as its EXIF data say, as this kit does: the files go as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.data.photos import read_photo
from foodseg.data.samples import Sample


def place_photo(source: Path, target: Path, sample: Sample) -> str:
    """Put a photo at `target`; returns "linked" or "copied".

    Where no hard link is possible, the file is copied. `target` ends in .jpg whatever the format:
    OpenCV and Pillow go by the content. Raises DataError if it can't be read or is not the photo
    that the sample was built from.
    """
    found = read_photo(source, sample.image_sha256).image.size
    if found != sample.size:  # of samples without a hash
        sizes = "it has {}x{} pixels, its sample {}x{}".format(*found, *sample.size)
        raise DataError(f"{source}: {sizes}; build FoodReasonSeg-Single again (notebook 01).")
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)
        return "copied"
    return "linked"
