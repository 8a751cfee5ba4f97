"""A dataset card, README.md, beside the built samples.

    python -m foodseg.report.cards.dataset kitchen          a preset's set
    python -m foodseg.report.cards.dataset datasets/mine    your own; add --licence and --creator

Every number is measured from the Parquet files and their build reports. The words are in
dataset.md.jinja, which all sets share, and in one template for each origin.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData
from jinja2 import Template

from foodseg import presets
from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256, write_atomically
from foodseg.data.build_report import BuildReport
from foodseg.data.fetch.sources import LICENCE
from foodseg.data.foodseg103 import SPLITS, Problem
from foodseg.data.samples import load_samples

WRITTEN = "Written by `python -m foodseg.report.cards.dataset`"
MARK = f"<!-- {WRITTEN}. Remove this line to make the card yours: then it is never overwritten. -->"


@dataclass(frozen=True)
class Origin:
    """Where a set's photos and questions come from.

    template: the file here that says so in words; metadata: its part of the front matter (the hub's
    names of a licence, "other" and "unknown" among them); creators: of your own data.
    """

    template: str
    metadata: dict
    creators: tuple[str, ...] = ()


FOOD = ["food", "reasoning-segmentation"]
FOODSEG103 = Origin(
    "foodseg103.md.jinja",
    {
        "pretty_name": "FoodReasonSeg-Single",
        "license": "other",
        # The hub wants a name and a link for terms that it doesn't know.
        "license_name": "see-sources",
        "license_link": "https://github.com/LARC-CMU-SMU/FoodSeg103-Benchmark-v1",
        "language": "en",
        "tags": FOOD,
    },
)


def drawn_plates(preset: str) -> Origin:
    """The kitchen's plates, drawn by this kit."""
    title = f"FoodReasonSeg-Single, drawn plates ({preset})"
    metadata = {"pretty_name": title, "license": "apache-2.0", "language": "en"}
    return Origin("drawn_plates.md.jinja", metadata | {"tags": [*FOOD, "synthetic"]})


def own_data(name: str, licence: str, creators: Sequence[str]) -> Origin:
    """Your own folder; what isn't said is said to be missing."""
    metadata = {"pretty_name": f"{name}: reasoning segmentation", "license": licence or "unknown"}
    metadata["tags"] = ["reasoning-segmentation"]
    return Origin("own_data.md.jinja", metadata, tuple(creators))


def write_card(folder: Path | str, origin: Origin) -> Path:
    """Writes `folder`/README.md and returns its path.

    Raises DataError for a folder without samples or with a report that isn't theirs, and for a
    README.md that this function didn't write.
    """
    folder = Path(folder)
    path = folder / "README.md"
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
        if WRITTEN not in text:
            raise DataError(f"{path}: this card isn't ours to overwrite; move it to get a new one.")
    splits = [_measure(folder, split) for split in SPLITS]
    schema = pq.read_schema(folder / splits[0]["file"])
    here = Path(__file__).parent
    card = DatasetCard.from_template(
        _front_matter(origin, splits),
        template_path=here / origin.template,
        layout=Template((here / "dataset.md.jinja").read_text(encoding="utf-8")),
        mark=MARK,
        splits=splits,
        # list<element: int32> -> list<int32>
        types={column.name: re.sub(r"\w+: ", "", str(column.type)) for column in schema},
        reasons=dict.fromkeys(reason for split in splits for reason in split["report"].left_out),
        creators=origin.creators,
        foodseg103_licence=LICENCE,
    )
    write_atomically(path, f"{card}\n".encode())
    return path


def _measure(folder: Path, split: str) -> dict:
    """One split's Parquet file in numbers, with its build report."""
    path = folder / f"foodreasonseg_single_{split}.parquet"
    if not path.is_file():
        how = "notebook 01, or `python -m foodseg.data.own FOLDER --build OUT`"
        raise DataError(f"{path}: the file is missing; build it first ({how}).")
    samples = load_samples(path)
    report = _read_report(path.with_suffix(".report.json"))
    if report.kept != len(samples):
        raise DataError(
            f"{path.name}: it has {len(samples)} questions and its report says {report.kept}; "
            "build both again."
        )
    return {
        "split": split,
        "file": path.name,
        "size": path.stat().st_size,
        "sha256": file_sha256(path),
        "questions": len(samples),
        "images": len({sample.image for sample in samples}),
        "references": sum(len(sample.references) for sample in samples),
        "things": len({food for sample in samples for food in sample.foods}),
        "report": report,
    }


def _read_report(path: Path) -> BuildReport:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        problems = tuple(Problem(**problem) for problem in values.pop("problems"))
        return BuildReport(**values, problems=problems)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no readable build report ({error!r}); build it again.") from error


def _front_matter(origin: Origin, splits: Sequence[dict]) -> DatasetCardData:
    files = [{"split": s["split"], "path": s["file"]} for s in splits if s["questions"]]
    return DatasetCardData(
        **origin.metadata,
        size_categories=[_size_category(sum(split["questions"] for split in splits))],
        task_categories=["image-segmentation", "visual-question-answering"],
        configs=[{"config_name": "default", "data_files": files}],
    )


def _size_category(questions: int) -> str:
    """The hub's own classes."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M")
    return names[bisect((1_000, 10_000, 100_000), questions)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 if no card could be written."""
    parser = argparse.ArgumentParser(
        prog="python -m foodseg.report.cards.dataset", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dataset", help="smoke, kitchen, paper, or a folder of built samples")
    parser.add_argument("--licence", default="", help="of your own data, such as cc-by-4.0")
    parser.add_argument("--creator", action="append", default=[], help="of your own data")
    options = parser.parse_args(arguments)
    try:
        print(write_card(*_choose(options.dataset, options.licence, options.creator)))
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _choose(dataset: str, licence: str, creators: Sequence[str]) -> tuple[Path, Origin]:
    for preset in (*presets.DRAWN, presets.PAPER):
        folder = preset.samples_file("train").parent
        if dataset == preset.name or Path(dataset).resolve() == folder.resolve():
            if licence or creators:
                raise DataError(f"{dataset}: its licence is known; leave out what you added.")
            # Its folder's name: presets that only train otherwise have one dataset.
            return folder, drawn_plates(folder.name) if preset.train_plates else FOODSEG103
    folder = Path(dataset)
    return folder, own_data(folder.resolve().name, licence, creators)


if __name__ == "__main__":
    sys.exit(main())
