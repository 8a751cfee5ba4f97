"""A photo of the user's own."""

from __future__ import annotations

import io
from pathlib import Path

from foodseg.data.photos import Photo, read_photo


def read_upload(path: str | Path) -> Photo:
    """A photo of the user's, under its own name; raises DataError as `segment` does."""
    file = io.BytesIO(Path(path).read_bytes())
    file.name = Path(path).name  # where the browser's file was put is nobody's business
    return read_photo(file)
