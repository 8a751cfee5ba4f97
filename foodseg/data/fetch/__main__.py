"""`make data`: fetch FoodSeg103 and FoodReasonSeg into one folder, or list what to do by hand.

    python -m foodseg.data.fetch [folder]

The licences are shown and what is missing is fetched: FoodSeg103 from the Parquet mirror, or else
from its authors' archive, which is encrypted and takes half an hour to unpack; an archive that was
put into `downloads` by hand is taken from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import home
from foodseg.data.fetch.check import LACKING, check_folder, check_images
from foodseg.data.fetch.download import Checksums, download
from foodseg.data.fetch.sources import LICENCE, OFFICIAL, Sources, by_hand
from foodseg.data.fetch.unpack import unpack_labels, unpack_parquet, unpack_zip
from foodseg.data.foodseg103 import CATEGORIES, Problem

MINUTES = 28  # Python decrypts 0.65 MB a second


def default_folder() -> Path:
    """The paper preset's `dataset`."""
    return home() / "datasets" / "paper" / "FoodSeg103"


def fetch(root: Path, sources: Sources = OFFICIAL, wait: float = 1.0) -> list[Problem]:
    """Fetches what `root` lacks and returns the faults that are left, none if it is complete.

    Archives go to `downloads` beside `root`, checksums to `<root>.checksums.json`. wait: seconds
    before a mirror is asked again, doubled each time.
    """
    checksums = Checksums(root.with_name(root.name + ".checksums.json"))
    problems = check_folder(root, sources, checksums)
    if not problems:
        return []
    print(LICENCE, "\n", flush=True)
    if check_images(root, sources.images):
        _fetch_images(root, sources, checksums, wait)
    for remote in sources.conversations:
        if not (root / remote.name).is_file():
            _attempt(lambda remote=remote: download(remote, root, checksums, wait))
    return check_folder(root, sources, checksums)


def _fetch_images(root: Path, sources: Sources, checksums: Checksums, wait: float) -> None:
    """Tries the Parquet mirror and the archive until FoodSeg103 is complete."""
    folder = root.with_name("downloads")

    def from_archive() -> None:
        archive = download(sources.archive, folder, checksums, wait)
        print(
            f"{archive.name} is encrypted: unpacking it takes about {MINUTES} minutes.", flush=True
        )
        unpack_zip(archive, root, sources.password)

    def from_parquet() -> None:
        for split, shards in sources.shards.items():
            files = [download(shard, folder, checksums, wait) for shard in shards]
            problems = unpack_parquet(files, root, split)
            more = [f"and {len(problems) - 5} more rows."] if len(problems) > 5 else []
            for line in [*problems[:5], *more]:
                print(line, flush=True)

    def labels() -> None:  # a small file, where the archive has a gigabyte
        unpack_labels(download(sources.labels, folder, checksums, wait), root)

    # Files that are there already come first: a server may not answer.
    shards = [folder / shard.name for split in sources.shards.values() for shard in split]
    ways = [from_parquet, from_archive]
    if (folder / sources.archive.name).is_file() and not all(shard.is_file() for shard in shards):
        ways.reverse()
    for way in ways:
        if any(problem.reason in LACKING for problem in check_images(root, sources.images)):
            _attempt(way)
    if not (root / "category_id.txt").is_file():
        _attempt(labels)


def _attempt(step: Callable[[], object]) -> None:
    """Runs a step; prints the reason if it fails."""
    try:
        step()
    except DataError as error:
        print(error, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 if the folder is complete, 1 if something is left to do by hand."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.data.fetch", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder())
    root = parser.parse_args(arguments).folder
    try:
        problems = fetch(root)
    except (DataError, OSError) as error:  # such as a full disk
        print(f"{root}: {error}", file=sys.stderr)
        return 1
    if problems:
        print(*problems, "", by_hand(str(root), str(root.with_name("downloads"))), sep="\n")
        return 1
    counts = " and ".join(f"{count} {split}" for split, count in OFFICIAL.images.items())
    total = sum(OFFICIAL.images.values())
    print(f"{root}: whole ({total} images, {counts}; {len(CATEGORIES)} labels; FoodReasonSeg).")
    print("Next: notebook 01 builds FoodReasonSeg-Single from it (make PRESET=paper).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
