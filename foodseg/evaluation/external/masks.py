"""One mask for each question, from a folder of PNG files or from a file of COCO run lengths.

A PNG `<sample_id>.png` is foreground wherever its value isn't 0: 1 bit, 8 or 16 bits of grey, a
palette (indices count), or RGB with three equal channels. Faults are colours, transparency, a
palette whose index 0 isn't its only black, another format, another size than the photo's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from foodseg.common.errors import DataError
from foodseg.common.files import files_hash
from foodseg.data.foodseg103 import FaultError, Problem, mask_values
from foodseg.data.references import Size
from foodseg.evaluation.external.entries import by_sample, read_entries
from foodseg.evaluation.external.readings import STATE_IT

_FILES = ("predictions.json", "predictions.jsonl")
_RLE = '{"size": [height, width], "counts": ...}'


@dataclass(frozen=True)
class PredictedMasks:
    """What a system handed in, not yet decoded.

    entries: sample id -> the PNG's path, or (file and line, run lengths). others: names of files
    that are no masks. problems: faults of single entries.
    """

    entries: dict[str, Path | tuple[str, object]]
    others: tuple[str, ...]
    problems: tuple[Problem, ...]
    sha256: str  # first 16 digits, over all masks' files


def find_masks(path: Path) -> PredictedMasks:
    """What is in `path`: a folder of PNG files or of one predictions.json(l), or such a file.

    Raises DataError for a missing path, a folder of both kinds or of neither, and broken JSON.
    """
    if path.is_file() and path.suffix in (".json", ".jsonl"):
        return _from_file(path, ())
    if not path.is_dir():
        fix = f"give the folder of the masks, or its {_FILES[0]}"
        raise DataError(f"{path}: there is no such folder; {fix}.")
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    images = [file for file in files if file.suffix.lower() == ".png" and file.is_file()]
    lists = [file for file in files if file.name in _FILES]
    if len(lists) > 1 or (lists and images) or not (lists or images):
        found = f"{len(images)} PNG files and {len(lists)} of {' and '.join(_FILES)}"
        raise DataError(f"{path}: it holds {found}; give either PNG masks or one such file.")
    others = tuple(file.name for file in files if file not in images and file not in lists)
    if lists:
        return _from_file(lists[0], others)
    entries = {file.stem: file for file in images}
    problems = []
    for file in (file for file in images if entries[file.stem] != file):
        fix = f"keep it or {entries[file.stem].name}"
        problems.append(Problem(file.name, "name", "repeated sample_id", fix))
    return PredictedMasks(entries, others, tuple(problems), files_hash(images))


def _from_file(path: Path, others: tuple[str, ...]) -> PredictedMasks:
    # "mask" is the key in this kit's own predictions.jsonl.
    listed = read_entries(path, ["sample_id"], ["segmentation", "mask"])
    fix = f'write {{"sample_id": ..., "segmentation": {_RLE}}}; of completions, {STATE_IT}'
    found, problems = by_sample(path, listed, dict, fix)
    entries = {name: (f"{path.name}, {field}", mask) for name, (field, mask) in found.items()}
    return PredictedMasks(entries, others, tuple(problems), files_hash([path]))


def read_mask(entry: Path | tuple[str, object], size: Size) -> tuple[np.ndarray, bool]:
    """(boolean (H, W) at the photo's size, whether the file has more than two values).

    size: (width, height) of the photo in pixels. Raises FaultError.
    """
    if isinstance(entry, Path):
        values = mask_values(entry, entry.name)
        _check_size(entry.name, "size", values.shape[::-1], size)
        return values > 0, np.unique(values).size > 2
    where, rle = entry
    file, _, field = where.partition(", ")
    return decode_rle(rle, size, file, field), False


def _check_size(file: str, field: str, found: Size, expected: Size) -> None:
    if found != expected:
        fix = "the photo has {}x{}; bring the mask to it, by nearest neighbour".format(*expected)
        raise FaultError(file, field, "odd-sized mask, {}x{}".format(*found), fix)


def decode_rle(rle: object, size: Size, file: str, field: str) -> np.ndarray:
    """The boolean mask (H, W) of COCO run lengths, compressed (text) or not (a list of numbers).

    size: (width, height) that it must have. Raises FaultError, naming `file` and `field`, for run
    lengths that don't fill it: the library would read past their end.
    """
    try:
        height, width = map(_whole, rle["size"])
        counts = rle["counts"]
        counts = _counts(counts) if isinstance(counts, str) else [_whole(one) for one in counts]
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise FaultError(file, field, "no run lengths", f"write {_RLE}") from error
    _check_size(file, field, (width, height), size)
    if min(counts, default=-1) < 0 or sum(counts) != width * height:
        fix = f"they cover {sum(counts)} of {width * height} pixels; encode the mask again"
        raise FaultError(file, field, "broken run lengths", fix)
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return coco.decode(encoded).astype(bool)


def _whole(value: object) -> int:
    """A count as it is written: 2.5 pixels would be cut, and True is no number."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _counts(text: str) -> list[int]:
    """Run lengths from COCO's text: 5 bits a character, least first, 32 for "more follows"; signed;
    from the fourth on the difference to the length two before (rleFrString in maskApi.c)."""
    counts: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        if not 0 <= code < 64:
            raise ValueError("a character that the encoding doesn't use")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the last number is cut off")
    return counts
