"""Croissant metadata of a derived set: JSON-LD after the Croissant format, version 1.0.

Source: the specification of MLCommons, http://mlcommons.org/croissant/1.0. One FileObject and one
RecordSet for each split; every field is a column of the Parquet file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa

from foodseg.data.build_report import BuildReport
from foodseg.report.cards.dataset_sources import About

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

# What each column holds. Pixels are those of the original image as stored.
COLUMNS = {
    "sample_id": "Unique name of the question.",
    "dish_id": "The image's file name without its suffix.",
    "split": "train or test.",
    "image": "Path of the image in the folder of the images. Its pixels aren't here.",
    "image_sha256": "SHA-256 of the image's file, to find it and to check it.",
    "width": "Width of the image in pixels.",
    "height": "Height of the image in pixels.",
    "question": "The question, which needs reasoning to answer.",
    "answer": "The data's own answer in words, without markup; may be empty.",
    "foods": "Name of each thing that answers the question, once.",
    "reference_foods": "Name of the thing that each reference belongs to.",
    "boxes": "One box for each reference: x1, y1, x2, y2 in pixels, both corners inside.",
    "points": "One point for each reference: x, y in pixels, inside the mask.",
    "masks": (
        "One mask for each reference: the `counts` of its COCO run-length encoding, whose `size` "
        "is [height, width]."
    ),
}


@dataclass(frozen=True)
class SplitFile:
    """One split's Parquet file, measured: its bytes, its rows and its build report."""

    split: str
    file: str  # its name
    sha256: str
    size: int  # bytes
    built: str  # date, YYYY-MM-DD
    schema: pa.Schema
    questions: int
    images: int
    references: int
    things: int  # distinct names
    report: BuildReport


def croissant(about: About, description: str, splits: Sequence[SplitFile]) -> dict:
    """The JSON-LD document of a set."""
    day = max(split.built for split in splits)
    document = {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.title,
        "description": description,
        "license": list(about.terms),
        # The card beside this file: the set has no page before somebody publishes it.
        "url": "README.md",
        "creator": [{"@type": "sc:Organization", "name": name} for name in about.creators],
        "dateCreated": day,
        "datePublished": day,  # required; the description says that nothing is published
        "version": version("foodseg"),
        "keywords": list(about.tags),
        "isLiveDataset": False,
        "distribution": [_file_object(split) for split in splits],
        "recordSet": [_record_set(split) for split in splits],
    }
    if about.language:
        document["inLanguage"] = about.language
    if about.citation:
        document["citeAs"] = about.citation
    return document


def _file_object(split: SplitFile) -> dict:
    return {
        "@type": "cr:FileObject",
        "@id": split.file,
        "name": split.file,
        "description": f"The {split.split} split.",
        "contentUrl": split.file,
        "contentSize": f"{split.size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": split.sha256,
    }


def _record_set(split: SplitFile) -> dict:
    return {
        "@type": "cr:RecordSet",
        "@id": split.split,
        "name": split.split,
        "description": f"{split.questions} questions about {split.images} images.",
        "key": {"@id": f"{split.split}/sample_id"},
        "field": [_field(split, column) for column in split.schema],
    }


def _field(split: SplitFile, column: pa.Field) -> dict:
    field = {
        "@type": "cr:Field",
        "@id": f"{split.split}/{column.name}",
        "name": column.name,
        "description": COLUMNS[column.name],
        "dataType": _data_type(column),
        "source": {"fileObject": {"@id": split.file}, "extract": {"column": column.name}},
    }
    return field | ({"repeated": True} if pa.types.is_list(column.type) else {})


def _data_type(column: pa.Field) -> str:
    # Boxes are integers, not cr:BoundingBox: mlcroissant 1.1.1 can't read that type from a list
    # in a Parquet file.
    kind = column.type
    while pa.types.is_list(kind):
        kind = kind.value_type
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Text"


def _context() -> Mapping:
    """The standard context: the specification's appendix 1, and what mlcroissant expects too."""
    terms = "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format"
    terms += " includes isEnumeration isLiveDataset jsonPath key md5 parentField path recordSet"
    terms += " references regex repeated replace samplingRate separator source subField transform"
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        **{term: f"cr:{term}" for term in terms.split()},
    }
