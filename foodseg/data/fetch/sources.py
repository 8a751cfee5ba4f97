"""Where FoodSeg103 and FoodReasonSeg come from, under which licence, and what must arrive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset on the Hugging Face hub; the checksums' list notes the commit it had."""

    repo: str
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"https://huggingface.co/datasets/{self.repo}/resolve/{self.revision}/{self.path}"


@dataclass(frozen=True)
class RemoteFile:
    """One file to download: its name here, and its mirrors in the order they are tried.

    sha256: as its authors or its mirror published it, "" if neither did.
    """

    name: str
    mirrors: tuple[str | HubFile, ...]
    sha256: str = ""


@dataclass(frozen=True)
class Sources:
    """The two sets, once as the authors' zip and once as a Parquet mirror, and their counts.

    shards, images: files and number of images by split, "train" and "test".
    labels: a JSON object of names by class id, which stands in for `category_id.txt`.
    """

    archive: RemoteFile
    password: bytes
    shards: Mapping[str, tuple[RemoteFile, ...]]
    labels: RemoteFile
    conversations: tuple[RemoteFile, ...]
    images: Mapping[str, int]


_MIRROR = "EduardoPacheco/FoodSeg103"
# A copy of the same Parquet files (their names and sizes agree), tried after the first.
_SECOND_MIRROR = "json9473/FoodSeg103"


def _shards(split: str, *sums: str) -> tuple[RemoteFile, ...]:
    names = [f"{split}-{n:05d}-of-{len(sums):05d}.parquet" for n in range(len(sums))]
    places = [
        tuple(HubFile(repo, f"data/{n}") for repo in (_MIRROR, _SECOND_MIRROR)) for n in names
    ]
    return tuple(map(RemoteFile, names, places, sums))


# No author publishes checksums of these files. Those of the Parquet files were found on the hub in
# November 2026; for the others what the hub states counts, or the first download is remembered.
OFFICIAL = Sources(
    # Address and password: README of the authors' repository, LARC-CMU-SMU/FoodSeg103-Benchmark-v1
    # (quoted in its issue 29). 1.1 GB; the server is often out of reach (its issues 29, 30, 32).
    archive=RemoteFile(
        "FoodSeg103.zip", ("https://research.larc.smu.edu.sg/downloads/datarepo/FoodSeg103.zip",)
    ),
    password=b"LARCdataset9947",
    # The mirror's "validation" is the official test split: both have 2,135 images. 1.25 GB.
    shards={
        "train": _shards(
            "train",
            "7288a62861c06f1c0f677674fd9564aae277a727a146bf31688cf86befa452b7",
            "814ef4e25036a9073a4017e8d05bad80b213df74cc9cd60e972136b5ae2e0ab9",
            "7b16b566c273e049a10d651caf6d28951f6cdf730fba6596e832b451230d6ac1",
        ),
        "test": _shards(
            "validation", "73d4d49abc2ef135dfccbce86f395d8e39215cf656d2954b516a88572f24b0e6"
        ),
    },
    labels=RemoteFile("id2label.json", (HubFile(_MIRROR, "id2label.json"),)),
    # The dataset's page is linked from YuehaoYin/FoodLMM's README, which also names the two files
    # and puts them beside FoodSeg103's category_id.txt.
    conversations=tuple(
        RemoteFile(name, (HubFile("Yueha0/FoodReasonSeg", name),))
        for name in ("FoodReasonSeg_train.json", "FoodReasonSeg_test.json")
    ),
    images={"train": 4983, "test": 2135},
)

# Apache-2.0: README of the repository. Recipe1M: the Readme.txt that comes with FoodSeg103, whose
# lists give each photo's id there. GPT-4: README of YuehaoYin/FoodLMM.
LICENCE = """\
FoodSeg103 (Wu et al. 2021, https://xiongweiwu.github.io/foodseg103.html): its repository
(https://github.com/LARC-CMU-SMU/FoodSeg103-Benchmark-v1) puts the project under Apache-2.0 and
says nothing of the photos apart. They come from Recipe1M, whose own terms hold for them.
FoodReasonSeg (Yin et al. 2023, https://huggingface.co/datasets/Yueha0/FoodReasonSeg): written with
GPT-4 about these photos; its licence is on that page.
This kit redistributes neither. Read these terms before you use the data or pass it on."""


def by_hand(folder: str, downloads: str) -> str:
    """The plain list of what to download by hand and where to put it."""
    shards = ", ".join(shard.name for split in OFFICIAL.shards.values() for shard in split)
    return f"""\
To do by hand what is missing above (then run `make data` again, which goes on from there):
1. FoodSeg103, one of
   a. {shards}
      and id2label.json from https://huggingface.co/datasets/EduardoPacheco/FoodSeg103, into
      {downloads}
   b. FoodSeg103.zip (1.1 GB; password {OFFICIAL.password.decode()}), from the link in the README of
      https://github.com/LARC-CMU-SMU/FoodSeg103-Benchmark-v1, such as
      https://drive.google.com/file/d/1WvP_u3q9ZY7QUfZWQNWFItiEazwoYgIp/view;
      put it, packed and under that name, into the same folder (it unpacks in half an hour)
   c. FoodSeg103 that you have already: its Images folder and category_id.txt go into
      {folder}
2. FoodReasonSeg_train.json and FoodReasonSeg_test.json from
   https://huggingface.co/datasets/Yueha0/FoodReasonSeg (log in and accept its form if it asks),
   linked from https://github.com/YuehaoYin/FoodLMM; put both into
      {folder}"""
