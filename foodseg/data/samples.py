"""A sample of FoodReasonSeg-Single, and its Parquet file with run-length-encoded masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco

from foodseg.common.errors import DataError
from foodseg.common.files import sha256, whole_or_nothing
from foodseg.data.references import Part, Reference, Size


@dataclass(frozen=True)
class Sample:
    """One question about one photo, with the reference of everything that answers it.

    References and masks are in pixels of the original image (`width` x `height`). `references`,
    `reference_foods` and `masks` (COCO run-length encodings) have one entry for each reference;
    they are empty where nothing in the photo answers the question.
    """

    sample_id: str  # "<split>-<dish_id>-<turn index>"
    dish_id: str
    split: str
    image: str  # path relative to the dataset's root, with forward slashes
    width: int
    height: int
    question: str
    answer: str  # the data's own answer, without markup
    foods: tuple[str, ...]  # FoodSeg103 names, one for each ingredient asked for
    references: tuple[Reference, ...]
    reference_foods: tuple[str, ...]
    masks: tuple[dict, ...]
    image_sha256: str = ""  # of the image's file; "" if unknown

    @property
    def size(self) -> Size:
        """(width, height) of the original image in pixels."""
        return self.width, self.height

    @property
    def no_target(self) -> bool:
        """Whether nothing in the photo answers the question."""
        return not self.masks

    def union_mask(self) -> np.ndarray:
        """The sample's ground-truth mask, boolean (height, width): the union over references."""
        if self.no_target:
            return np.zeros((self.height, self.width), dtype=bool)
        return coco.decode(coco.merge(list(self.masks))).astype(bool)


# In `masks` the counts of the COCO encoding, whose size is (height, width).
_SCHEMA = pa.schema(
    dict.fromkeys(["sample_id", "dish_id", "split", "image", "image_sha256"], pa.string())
    | dict.fromkeys(["width", "height"], pa.int32())
    | dict.fromkeys(["question", "answer"], pa.string())
    | dict.fromkeys(["foods", "reference_foods"], pa.list_(pa.string()))
    | dict.fromkeys(["boxes", "points"], pa.list_(pa.list_(pa.int32())))
    | {"masks": pa.list_(pa.string())}
)
_PLAIN = _SCHEMA.names[:9]  # stored as they are

# Samples of one row group, which is what memory holds while a file is written or gone through.
ROW_GROUP = 512
_SUMS = "foodseg.sha256"  # in the file's metadata: of each row group's values, in order


def answer_fields(foods: Mapping[str, Sequence[Part]]) -> dict[str, tuple]:
    """A sample's foods, references, reference_foods and masks, from each food's parts."""
    parts = [(food, *part) for food, parts in foods.items() for part in parts]
    return {
        "foods": tuple(foods),
        "references": tuple(reference for _, reference, _ in parts),
        "reference_foods": tuple(food for food, _, _ in parts),
        "masks": tuple(mask for _, _, mask in parts),
    }


def save_samples(samples: Iterable[Sample], path: Path | str) -> None:
    """Writes the samples to one Parquet file as they come, whole or not at all."""
    rows, sums = map(_to_row, samples), []
    with whole_or_nothing(Path(path)) as partial:
        with pq.ParquetWriter(partial, _SCHEMA, compression="zstd") as file:
            while group := list(islice(rows, ROW_GROUP)):
                table = pa.Table.from_pylist(group, schema=_SCHEMA)
                file.write_table(table)
                sums.append(_sum(table.to_pylist()))
            file.add_key_value_metadata({_SUMS: " ".join(sums)})


def load_samples(path: Path | str) -> list[Sample]:
    """The samples of a Parquet file. Raises as `iterate_samples`."""
    return list(iterate_samples(path))


def iterate_samples(path: Path | str) -> Iterator[Sample]:
    """The samples of a Parquet file one by one, `ROW_GROUP` in memory.

    Raises DataError for a file that is missing, damaged, no Parquet file or has other columns.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: the file is missing; build FoodReasonSeg-Single (notebook 01).")
    try:
        with pq.ParquetFile(path) as file:
            if different := set(file.schema_arrow.names) ^ set(_SCHEMA.names):
                names = ", ".join(sorted(different))
                fix = "differ from this version's; build it again"
                raise DataError(f"{path}: the columns {names} {fix}.")
            sums = (file.metadata.metadata or {}).get(_SUMS.encode(), b"").decode().split()
            if len(sums) != file.num_row_groups:
                raise DataError(f"{path}: it lacks its checksums; build it again.")
            for index, known in enumerate(sums):
                rows = file.read_row_group(index).to_pylist()
                if _sum(rows) != known:
                    raise DataError(f"{path}: it was changed since it was built; build it again.")
                yield from map(_from_row, rows)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no readable Parquet file ({error}); build it again.") from error


def _sum(rows: list[dict]) -> str:
    """Parquet's own checksums are of pages: a flip in a page's header may pass them."""
    return sha256(repr(rows).encode())


def _to_row(sample: Sample) -> dict:
    row = {name: getattr(sample, name) for name in _PLAIN}
    row["foods"], row["reference_foods"] = list(sample.foods), list(sample.reference_foods)
    row["boxes"] = [list(reference.box) for reference in sample.references]
    row["points"] = [list(reference.point) for reference in sample.references]
    row["masks"] = [mask["counts"] for mask in sample.masks]
    return row


def _from_row(row: dict) -> Sample:
    size = [row["height"], row["width"]]
    pairs = zip(row["boxes"], row["points"], strict=True)
    return Sample(
        **{name: row[name] for name in _PLAIN},
        foods=tuple(row["foods"]),
        reference_foods=tuple(row["reference_foods"]),
        references=tuple(Reference(tuple(box), tuple(point)) for box, point in pairs),
        masks=tuple({"size": list(size), "counts": counts} for counts in row["masks"]),
    )


def samples_hash(samples: Iterable[Sample]) -> str:
    """First 16 hexadecimal digits of a SHA-256 over the samples, in their order."""
    return sha256(repr(list(samples)).encode())[:16]


def check_no_shared_images(train: Iterable[Sample], test: Iterable[Sample]) -> None:
    """Raises DataError, naming the files, if a dish id or an image file's bytes are in both."""
    known = {}
    for sample in train:
        known |= {sample.image_sha256: sample.image, sample.dish_id: sample.image}
    known.pop("", None)  # of samples without a hash
    twins = {s.image: known.get(s.dish_id) or known.get(s.image_sha256) for s in test}
    if shared := {image: twin for image, twin in twins.items() if twin}:
        pairs = "; ".join(f"{image} is {twin}" for image, twin in sorted(shared.items())[:5])
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        text = f"dish_id or image shared by train and test: {pairs}{more}"
        raise DataError(f"{text}; take these dishes out of one split.")
