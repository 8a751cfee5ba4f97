"""FoodSeg103's zip, or the Parquet files of its mirror, to the folder layout that the kit reads.

Both can be interrupted: files are written whole or not at all, and the same bytes not twice.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from foodseg.common.errors import DataError
from foodseg.common.files import whole_or_nothing
from foodseg.common.progress import tqdm
from foodseg.data.foodseg103 import IMAGE_SUFFIXES, Problem, is_safe_id

# FoodSeg103 unpacks to about 1.3 GB; an archive of far more isn't it, and could fill the disk.
MOST_BYTES = 20 * 10**9
# Rows of a Parquet file in memory at a time; a row is a photo and its mask, some 200 kB.
ROWS = 16

_FOLDERS = ("Images", "ImageSets")
_BROKEN = (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, EOFError, ValueError)


def unpack_zip(archive: Path, root: Path, password: bytes) -> None:
    """Unpacks Images, ImageSets and the text files of FoodSeg103's zip into `root`.

    Folders around them, such as FoodSeg103/, are left out. Raises DataError for an archive that is
    broken, holds no Images, wants another password, or, before anything is written, names a file
    outside.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _members(archive, file)
            for info, relative in tqdm(members, desc=f"unpack {archive.name}", unit="file"):
                if not _is_there(root / relative, info):
                    secret = password if info.flag_bits & 1 else None
                    _write(root / relative, file.read(info, secret))
    except _BROKEN as error:
        if isinstance(error, DataError):
            raise
        fix = "remove it to fetch it again, or unpack it yourself and put its Images in place"
        raise DataError(f"{archive}: it can't be unpacked ({error}); {fix}.") from error


def _members(archive: Path, file: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    infos = file.infolist()
    for info in infos:
        if not _is_safe(info):
            why = "the name leaves the folder or is a link, so nothing was unpacked"
            fix = "get the archive from its authors"
            raise DataError(f"{archive}, {info.filename!r}: {why}; {fix}.")
    if sum(info.file_size for info in infos) > MOST_BYTES:
        size = f"more than {MOST_BYTES / 1e9:.0f} GB"
        raise DataError(f"{archive}: it unpacks to {size}, FoodSeg103 to 1.3; remove it.")
    files = [info for info in infos if not info.is_dir()]
    members = [(info, place) for info in files if (place := _place(info))]
    if not any(place.parts[0] == "Images" for _, place in members):
        raise DataError(f"{archive}: it holds no Images folder; get FoodSeg103's own archive.")
    return members


def _is_safe(info: zipfile.ZipInfo) -> bool:
    name = info.filename
    plain = not name.startswith("/") and "\\" not in name and ":" not in name
    link = stat.S_ISLNK(info.external_attr >> 16)
    return plain and not link and ".." not in PurePosixPath(name).parts


def _place(info: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where a member goes below the root, None for what isn't of the dataset (macOS's own)."""
    parts = PurePosixPath(info.filename).parts
    if parts[0] == "__MACOSX" or parts[-1].startswith("."):
        return None
    for position, part in enumerate(parts[:-1]):
        if part in _FOLDERS:
            return PurePosixPath(*parts[position:])
    return PurePosixPath(parts[-1]) if parts[-1].endswith((".txt", ".json")) else None


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    return zlib.crc32(path.read_bytes()) == info.CRC


def _write(path: Path, data: bytes) -> None:
    with whole_or_nothing(path) as partial:
        partial.write_bytes(data)


def unpack_parquet(shards: Sequence[Path], root: Path, split: str) -> list[Problem]:
    """Writes the photos and masks of a split's Parquet files into `root`, a few rows at a time.

    Columns `image` and `label` hold {"bytes", "path"} each: a file's bytes, written as they are,
    and the name of the photo's file, which is its dish id. Returns the faults of single rows;
    raises DataError for a file that is broken or has no such columns.
    """
    problems: list[Problem] = []
    for shard in shards:
        for number, (image, label) in enumerate(_rows(shard)):
            problem = _unpack_row(image or {}, label or {}, root, split)
            if problem:
                reason, fix = problem
                fix = f"{fix}; get it from FoodSeg103's own archive"
                problems.append(Problem(shard.name, f"row {number}", reason, fix))
    return problems


def _rows(shard: Path) -> Iterator[tuple[dict, dict]]:
    try:
        with pq.ParquetFile(shard) as file:
            _check_columns(shard, file.schema_arrow)
            total = file.metadata.num_rows
            with tqdm(total=total, desc=f"unpack {shard.name}", unit="photo") as bar:
                for batch in file.iter_batches(batch_size=ROWS, columns=["image", "label"]):
                    yield from ((row["image"], row["label"]) for row in batch.to_pylist())
                    bar.update(batch.num_rows)
    except (pa.ArrowException, OSError) as error:
        text = f"{shard}: no readable Parquet file ({error}); remove it to fetch it again."
        raise DataError(text) from error


def _check_columns(shard: Path, schema: pa.Schema) -> None:
    for name in ("image", "label"):
        kind = schema.field(name).type if name in schema.names else pa.null()
        inside = {field.name for field in kind} if pa.types.is_struct(kind) else set()
        if not {"bytes", "path"} <= inside:
            why = "it holds no images; fetch the mirror's own file"
            raise DataError(f"{shard}, column {name}: {why}.")


def _unpack_row(image: dict, label: dict, root: Path, split: str) -> tuple[str, str] | None:
    """Writes one photo and its mask; (reason, fix) of a row that can't be used."""
    name = image.get("path") or ""
    stem, suffix = os.path.splitext(name)
    if not is_safe_id(name) or suffix.lower() not in IMAGE_SUFFIXES:
        return "unsafe dish_id", f"{name!r} is no plain name of a photo"
    if not image.get("bytes") or not label.get("bytes"):
        return "missing image", f"photo or mask of {stem!r} is empty"
    for folder, file, data in (("img_dir", name, image), ("ann_dir", f"{stem}.png", label)):
        path = root / "Images" / folder / split / file
        if not path.is_file() or path.read_bytes() != data["bytes"]:
            _write(path, data["bytes"])
    return None


def unpack_labels(labels: Path, root: Path) -> None:
    """Writes `category_id.txt` from a JSON object of names by class id; DataError if it is none."""
    try:
        names = {int(key): str(name) for key, name in json.loads(labels.read_bytes()).items()}
    except (OSError, ValueError, AttributeError) as error:
        text = f"{labels}: no list of class names ({error}); remove it to fetch it again."
        raise DataError(text) from error
    lines = [f"{class_id}\t{name}\n" for class_id, name in sorted(names.items())]
    _write(root / "category_id.txt", "".join(lines).encode())
