"""FoodSeg103's folders: photos, class-id masks and category names.

Layout, as published with FoodSeg103 (Wu et al. 2021, "A Large-Scale Benchmark for Food Image
Segmentation"): `Images/img_dir/<split>/<id>.jpg`, `Images/ann_dir/<split>/<id>.png`,
`category_id.txt` with one `id<TAB>name` a line.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.data.categories import CATEGORIES
from foodseg.data.photos import ImageError, Photo, open_image, upright

SPLITS = ("train", "test")
# Background, "other ingredients" and the ignore value: no question asks for them (FoodLMM). A score
# leaves none of their pixels out, as LISA's does with 255: they count as background.
EXCLUDED_LABELS = frozenset({0, 103, 255})
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Channels of colour in Pillow's modes; the one after them, if any, is alpha.
_COLOURS = {"LA": 1, "RGB": 3, "RGBA": 3}
_SPREAD = {"L;2": 85, "L;4": 17}  # Pillow's raw modes of grey PNGs, and what it multiplies by


@dataclass(frozen=True)
class Problem:
    """One fault of a dataset: where (`file` relative to the root, `field`), what, and the fix."""

    file: str
    field: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}, {self.field}: {self.reason}; {self.fix}."


class FaultError(DataError):
    """A fault of one item; `problem` goes into the build report, the rest of the set is built."""

    def __init__(self, file: str, field: str, reason: str, fix: str):
        self.problem = Problem(file, field, reason, fix)
        super().__init__(str(self.problem))


def read_categories(path: Path) -> dict[int, str]:
    """Class names by id from a `category_id.txt`; DataError if a line isn't a new `id<TAB>name`."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = f"the file can't be read ({error})"
        raise DataError(f"{path}: {why}; put FoodSeg103's list there.") from error
    categories: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, _, name = (part.strip() for part in line.partition("\t"))
        if not (label.isascii() and label.isdigit() and name) or int(label) in categories:
            why = f"{line!r} isn't a new id, a tab and a name"
            raise DataError(f"{path}, line {number}: {why}; correct it.")
        categories[int(label)] = name
    return categories


def other_names(categories: Mapping[int, str]) -> dict[int, tuple[str | None, str | None]]:
    """Where a category list differs from FoodSeg103's: its name and FoodSeg103's, by class id."""
    pairs = {i: (categories.get(i), CATEGORIES.get(i)) for i in categories.keys() | CATEGORIES}
    return {
        class_id: (theirs, ours)
        for class_id, (theirs, ours) in sorted(pairs.items())
        if theirs is None or ours is None or theirs.casefold() != ours.casefold()
    }


def is_safe_id(dish_id: str) -> bool:
    """True if `dish_id` is a plain file stem: it can't name another folder or a hidden file."""
    plain = dish_id.isprintable() and dish_id == dish_id.strip() and dish_id != ""
    return plain and not dish_id.startswith(".") and not set(dish_id) & set("/\\:")


def is_said(value: object) -> bool:
    """True for a text that says something and that UTF-8, and so Parquet, can store."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not re.search("[\ud800-\udfff]", value)  # JSON can hold half a surrogate pair


def read_file(path: Path, file: str) -> bytes:
    """The file's bytes; FaultError if it may not be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        fix = f"it can't be read ({error.strerror}); make it readable or fetch it again"
        raise FaultError(file, "file", "unreadable file", fix) from error


def links_away(path: Path) -> bool:
    """Whether a file is a link to somewhere outside its folder."""
    return path.is_symlink() and path.resolve().parent != path.parent.resolve()


class FoodSeg103:
    """Reader of one dataset folder; it finds files by listing, never by joining ids to paths."""

    def __init__(self, root: Path | str):
        """Raises DataError if `root` holds no `Images/img_dir` and `Images/ann_dir`."""
        self.root = Path(root)
        for kind in ("img_dir", "ann_dir"):
            if not (self.root / "Images" / kind).is_dir():
                fix = "run `make data`, or give the folder that holds FoodSeg103's Images"
                raise DataError(f"{self.root}: the folder Images/{kind} is missing; {fix}.")
        self._listings: dict[Path, dict[str, Path]] = {}

    def dish_ids(self, split: str) -> list[str]:
        """The file stems of the split's images, sorted."""
        return sorted(self._listing("img_dir", split))

    def resolve_id(self, split: str, dish_id: str) -> str:
        """The image's own file stem for `dish_id`: equal, or equal as a zero-padded number.

        Raises FaultError for an id that isn't a plain file stem, or that has no image.
        """
        if not is_safe_id(dish_id):
            fix = f"{dish_id!r} could leave the folder; write the image's plain file stem"
            raise FaultError(f"Images/img_dir/{split}", "dish_id", "unsafe dish_id", fix)
        listing = self._listing("img_dir", split)
        if dish_id in listing:
            return dish_id
        if dish_id.isascii() and dish_id.isdigit():
            same = [stem for stem in listing if stem.lstrip("0") == dish_id.lstrip("0")]
            if len(same) == 1:
                return same[0]
        raise _missing("image", f"Images/img_dir/{split}/{dish_id}.jpg")

    def image_path(self, split: str, dish_id: str) -> Path:
        """Path of the photo. Raises FaultError if there is none or it links out of its folder."""
        return self._inside("img_dir", split, self.resolve_id(split, dish_id))

    def mask_path(self, split: str, dish_id: str) -> Path:
        """Path of the class-id mask of an image's stem. Raises FaultError as `image_path`."""
        if dish_id not in self._listing("ann_dir", split):
            raise _missing("mask", f"Images/ann_dir/{split}/{dish_id}.png")
        return self._inside("ann_dir", split, dish_id)

    def read_image(self, split: str, dish_id: str) -> Image.Image:
        """The photo as a PIL RGB image, upright (EXIF's turn is carried out)."""
        path = self.image_path(split, dish_id)
        file = self.relative(path)
        return decode_photo(read_file(path, file), file).image

    def read_mask(self, split: str, dish_id: str) -> np.ndarray:
        """The class ids, uint8 (H, W). Raises FaultError: missing, or as `decode_mask_file`."""
        path = self.mask_path(split, self.resolve_id(split, dish_id))
        file = self.relative(path)
        return decode_mask_file(read_file(path, file), file)

    def relative(self, path: Path) -> str:
        """`path` relative to the dataset's root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def _listing(self, kind: str, split: str) -> dict[str, Path]:
        folder = self.root / "Images" / kind / split
        if folder not in self._listings:
            suffixes = IMAGE_SUFFIXES if kind == "img_dir" else (".png",)
            self._listings[folder] = files_by_stem(folder, suffixes)
        return self._listings[folder]

    def _inside(self, kind: str, split: str, stem: str) -> Path:
        path = self._listing(kind, split)[stem]
        if links_away(path):
            fix = f"{stem!r} is a link that leaves its folder; put the file itself there"
            raise FaultError(self.relative(path), "link", "unsafe dish_id", fix)
        return path


@contextmanager
def open_data(source: Path | BinaryIO, file: str, what: str) -> Iterator[Image.Image]:
    """As `open_image`, but a broken image is the FaultError of `file`; what: "image" or "mask"."""
    try:
        with open_image(source) as image:
            yield image
    except ImageError as error:
        fix = f"{error.why}; save or fetch it again"
        raise FaultError(file, "pixels", f"unreadable {what}", fix) from error


def decode_photo(data: bytes, file: str) -> Photo:
    """The upright photo in a file's bytes. Raises FaultError if it is broken."""
    with open_data(io.BytesIO(data), file, "image") as image:
        return upright(image, file)


def decode_mask_file(data: bytes, file: str) -> np.ndarray:
    """Class ids uint8 (H, W) from a PNG's bytes. Raises FaultError as `mask_values`, or for other
    numbers."""
    return as_class_ids(mask_values(io.BytesIO(data), file, ids=True), file)


def as_class_ids(values: np.ndarray, file: str) -> np.ndarray:
    """The values as uint8; FaultError if they don't fit, or of one bit, which is no id."""
    if values.dtype == bool or values.max() > 255:
        found = "one bit a pixel" if values.dtype == bool else f"values up to {values.max()}"
        raise FaultError(file, "pixels", "no class ids", f"it has {found}; write ids from 0 to 255")
    return values.astype(np.uint8)


def mask_values(source: Path | BinaryIO, file: str, ids: bool = False) -> np.ndarray:
    """What a mask's PNG holds, (H, W): bool if it has one bit a pixel, else whole numbers.

    Grey as stored, whatever its bits; of a palette the indices; of colours one of three equal
    channels. ids: the indices may be class ids, whose colours mean nothing; else they must say what
    their colours say. Raises FaultError: broken, no PNG, coloured, transparent, palette.
    """
    with open_data(source, file, "mask") as image:
        if image.format != "PNG":
            fix = "lossy formats blur a mask's edge; save the mask as PNG"
            raise FaultError(file, "format", f"{image.format} under a PNG's name", fix)
        pixels = _stored_values(image)
        if image.mode == "P" and not ids:
            _check_palette(image, pixels, file)
    if image.mode not in _COLOURS:
        return pixels
    count = _COLOURS[image.mode]
    if (pixels[..., count:] < 255).any():
        fix = "save one 8-bit channel without transparency"
        raise FaultError(file, "channels", "transparent pixels", fix)
    if (pixels[..., :count] != pixels[..., :1]).any():
        fix = "its channels differ: is it a picture? save one 8-bit channel"
        raise FaultError(file, "channels", "coloured pixels", fix)
    return pixels[..., 0]


def _stored_values(image: Image.Image) -> np.ndarray:
    """An opened mask's pixels as its file holds them.

    Pillow spreads a PNG's grey of 2 or 4 bits over 0 to 255, where an id 3 becomes 51.
    """
    packed = str(image.tile[0][3]) if image.tile else ""
    image.load()  # NumPy would hide an AttributeError of it
    pixels = np.asarray(image)
    return pixels // _SPREAD[packed] if packed in _SPREAD else pixels


def _check_palette(image: Image.Image, values: np.ndarray, file: str) -> None:
    # A program that makes a palette numbers its colours as it likes: white may be index 0.
    colours = np.asarray(image.convert("RGB"))
    if not np.array_equal(values > 0, colours.any(axis=2)):
        fix = "index 0 is not black, or another is; save one 8-bit channel"
        raise FaultError(file, "palette", "it can be read in two ways", fix)


def list_files(folder: Path) -> list[Path]:
    """The folder's files, sorted. Raises DataError if it may not be read."""

    def is_file(entry: os.DirEntry) -> bool:
        # No file's status is asked for, and of a link only by Path, which takes one in a circle.
        return Path(entry).is_file() if entry.is_symlink() else entry.is_file()

    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if is_file(entry))
    except OSError as error:
        raise DataError(f"{folder}: it can't be read ({error.strerror}); mend that.") from error


def files_by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The folder's files with one of the suffixes, by stem. Raises DataError without a folder."""
    if not folder.is_dir():
        fix = "a split needs its images and masks there"
        raise DataError(f"{folder}: the folder is missing; {fix}.")
    files = list_files(folder)
    return {path.stem: path for path in reversed(files) if path.suffix.lower() in suffixes}


def _missing(what: str, file: str) -> FaultError:
    fix = "add the file or drop the entry that names it"
    return FaultError(file, "file", f"missing {what}", fix)
