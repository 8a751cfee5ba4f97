"""The files of your own data: `images/`, and masks as one file for each thing or as class ids.

The format is in docs/your_own_data.md. Files are found by listing, never by joining names to paths.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from unicodedata import normalize

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256, sha256
from foodseg.data.food_names import index_names, name_to_class
from foodseg.data.foodseg103 import (
    CATEGORIES,
    IMAGE_SUFFIXES,
    FaultError,
    as_class_ids,
    links_away,
    list_files,
    mask_values,
    open_data,
    read_categories,
    read_file,
)
from foodseg.data.photos import read_orientation
from foodseg.data.references import Size

NAMES_FILE = "category_id.txt"
WHITE = 255


@dataclass(frozen=True)
class OwnPhoto:
    """One usable photo: `file` is relative to the root, width and height are as stored."""

    file: str
    stem: str
    width: int
    height: int
    sha256: str
    class_masks: dict[str, np.ndarray] = field(default_factory=dict)  # read once, by file
    whose: dict[str, str] = field(default_factory=dict)  # a black and white file's thing


class OwnFolder:
    """Reader of one folder of your own."""

    def __init__(self, root: Path | str):
        """Raises DataError if `root` holds no `images` or no `masks`, or a bad category list."""
        self.root = Path(root)
        for name in ("images", "masks"):
            if not (self.root / name).is_dir():
                fix = "docs/your_own_data.md says what belongs there"
                raise DataError(f"{self.root}: the folder {name} is missing; {fix}.")
        names = self.root / NAMES_FILE
        self.categories = read_categories(names) if names.is_file() else dict(CATEGORIES)
        self._things = {i: name for i, name in self.categories.items() if i}  # 0: background
        self._class_ids = index_names(self._things)
        images, masks = list_files(self.root / "images"), self.root / "masks"
        self._images = {normalize("NFC", path.name): path for path in images}
        self._twins = defaultdict(list)  # images by what names their masks
        for name in self._images:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                self._twins[Path(name).stem].append(name)
        self._masks = _list_pngs(masks)
        folders = (path for path in masks.iterdir() if path.is_dir())
        self._folders = {normalize("NFC", path.name): path for path in folders}

    def image_hash(self, name: str) -> str:
        """SHA-256 of the image's file, "" if there is none that can be read."""
        try:
            return file_sha256(self._images[name])
        except (KeyError, OSError):
            return ""

    def read_photo(self, name: str) -> OwnPhoto:
        """The photo of that name. Raises FaultError for one that is missing or can't be used."""
        path = self._images.get(name)
        if path is None:
            near = get_close_matches(name, self._images, n=1)
            fix = f"add the file, or perhaps {near[0]!r} is meant" if near else "add the file"
            raise FaultError(f"images/{name}", "file", "missing image", fix)
        file, stem = f"images/{path.name}", Path(name).stem
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise FaultError(file, "file", "unknown image type", "save it as .jpg or .png")
        if len(self._twins[stem]) > 1:
            fix = f"{' and '.join(self._twins[stem])} would share their masks; rename one"
            raise FaultError(file, "file", "two images of one name", fix)
        data = _read(path, file)
        return OwnPhoto(file, stem, *_check_pixels(data, file), sha256(data))

    def read_mask(self, photo: OwnPhoto, thing: str) -> tuple[str, np.ndarray, str]:
        """The thing's name, its boolean mask (height, width), and the file that holds it.

        `masks/<stem>/<thing>.png` counts before `masks/<stem>.png`, which holds class ids, or, with
        0 and 255 alone and no class of that id, the one thing that is asked for. Raises FaultError:
        missing, unreadable, of another size, of several channels or grey values.
        """
        stem = photo.stem
        own = _list_pngs(self._folders[stem]) if stem in self._folders else {}
        if thing in own:
            file = f"masks/{stem}/{own[thing].name}"
            mask = _decode_thing(_read(own[thing], file), file)
            _check_size(photo, mask, file)
            return thing, mask, file
        if stem in self._masks:
            labels, file = self._labels(photo)
            if WHITE not in self._things and np.isin(labels, (0, WHITE)).all():
                return self._only_thing(photo, thing, file), labels == WHITE, file
            class_id = self._class_id(thing, labels, file)
            return self.categories[class_id], labels == class_id, file
        fix = f"add the file, or class ids as masks/{stem}.png"
        if own:
            some = ", ".join(sorted(own)[:5]) + (" ..." if len(own) > 5 else "")
            fix = f"add the file (that folder holds {some})"
        raise FaultError(f"masks/{stem}/{thing}.png", "file", "missing mask", fix)

    def _labels(self, photo: OwnPhoto) -> tuple[np.ndarray, str]:
        path = self._masks[photo.stem]
        file = f"masks/{path.name}"
        if file not in photo.class_masks:
            data = _read(path, file)
            values = mask_values(io.BytesIO(data), file, ids=True)
            one_bit = values.dtype == bool
            labels = values * np.uint8(WHITE) if one_bit else as_class_ids(values, file)
            _check_size(photo, labels, file)
            photo.class_masks[file] = labels
        return photo.class_masks[file], file

    def _only_thing(self, photo: OwnPhoto, thing: str, file: str) -> str:
        """The thing that a black and white file stands for: the first that is asked for."""
        first = photo.whose.setdefault(file, thing)
        if first != thing:
            fix = f"it is black and white and is {first!r}; put {thing!r} in a file of its own, "
            fix += f"masks/{photo.stem}/{thing}.png"
            raise FaultError(file, "pixels", "one mask for two things", fix)
        return thing

    def _class_id(self, thing: str, labels: np.ndarray, file: str) -> int:
        class_id = name_to_class(thing, self._class_ids)
        if class_id is None:
            near = get_close_matches(thing, self._things.values(), n=1)
            hint = f"perhaps {near[0]!r} is meant" if near else "add it there, or correct it"
            ids = ", ".join(map(str, np.unique(labels)[:8].tolist()))
            fix = (
                f"{thing!r} is no name of {NAMES_FILE}, by which {file} (ids {ids}) is read; {hint}"
            )
            raise FaultError(file, "names", "unknown thing", fix)
        return class_id


def _list_pngs(folder: Path) -> dict[str, Path]:
    """PNG files by their name without the suffix, spelled as `read_questions` spells it."""
    files = [path for path in list_files(folder) if path.suffix.lower() == ".png"]
    return {normalize("NFC", path.stem): path for path in files}


def _read(path: Path, file: str) -> bytes:
    if links_away(path):
        fix = "it is a link that leaves its folder; put the file itself there"
        raise FaultError(file, "link", "unsafe path", fix)
    return read_file(path, file)


def _check_pixels(data: bytes, file: str) -> Size:
    """Width and height; the pixels must be what training and evaluation will see of them."""
    with open_data(io.BytesIO(data), file, "image") as image:
        turned, mode = read_orientation(image) != 1, image.mode
        image.load()
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        seen_through = alpha and alpha.getextrema()[0] < 255
    if turned:
        fix = "its EXIF data turns it and its mask's pixels don't turn; save it upright"
        raise FaultError(file, "EXIF orientation", "turned photo", fix)
    if mode.startswith(("I", "F")):
        fix = f"it has mode {mode}; save 8 bits a channel"
        raise FaultError(file, "channels", "photo of more than 8 bits", fix)
    if seen_through:
        fix = "lay it on a background and save it without transparency"
        raise FaultError(file, "channels", "transparent photo", fix)
    return image.size


def _decode_thing(data: bytes, file: str) -> np.ndarray:
    """A boolean mask (H, W) from a PNG with at most one value besides 0."""
    values = mask_values(io.BytesIO(data), file)
    if np.unique(values[values != 0]).size > 1:
        fix = "it has grey values (or several ids); save only 0 and 255"
        raise FaultError(file, "pixels", "mask not black and white", fix)
    return values != 0


def _check_size(photo: OwnPhoto, mask: np.ndarray, file: str) -> None:
    if mask.shape != (photo.height, photo.width):
        found = f"{mask.shape[1]}x{mask.shape[0]}"
        fix = f"the mask has {found} pixels, the image {photo.width}x{photo.height}; make them one"
        raise FaultError(file, "size", "image and mask sizes differ", fix)
