"""A dataset card (README.md) and Croissant metadata (croissant.json) beside the built samples.

    python -m foodseg.report.cards.dataset kitchen          a preset's set
    python -m foodseg.report.cards.dataset datasets/mine    your own; add --licence and --creator

Every number is measured from the Parquet files and their build reports. Nothing is published, and
the photos are in none of these files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from foodseg import presets
from foodseg.common.errors import DataError
from foodseg.data.build_report import BuildReport
from foodseg.data.foodseg103 import SPLITS, Problem
from foodseg.data.samples import load_samples
from foodseg.report.cards.croissant import COLUMNS, SplitFile, croissant
from foodseg.report.cards.dataset_sources import FOODSEG103, About, drawn_plates, own_data

MARK = (
    "<!-- Written by `python -m foodseg.report.cards.dataset`. Remove this line to make the card "
    "yours: then it is never overwritten. -->"
)
UNPUBLISHED = (
    "Nothing here is published by itself: these files lie where they were built, and no image is "
    "among them."
)


def write_card(folder: Path | str, about: About) -> tuple[Path, Path]:
    """Writes `folder`/README.md and `folder`/croissant.json; returns their paths.

    Raises DataError for a folder without samples or with a report that isn't theirs, and for a
    README.md that this function didn't write.
    """
    folder = Path(folder)
    card, metadata = folder / "README.md", folder / "croissant.json"
    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise DataError(
            f"{card}: this card isn't ours to overwrite; move it away to get a new one."
        )
    splits = [_measure(folder, split) for split in SPLITS]
    description = f"{about.summary} {UNPUBLISHED} {about.photos}"
    document = json.dumps(croissant(about, description, splits), indent=1, ensure_ascii=False)
    _write(metadata, document + "\n")
    _write(card, _front_matter(about, splits) + _body(about, splits))
    return card, metadata


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _measure(folder: Path, split: str) -> SplitFile:
    path = folder / f"foodreasonseg_single_{split}.parquet"
    if not path.is_file():
        raise DataError(
            f"{path}: the file is missing; build it first (notebook 01, or "
            "`python -m foodseg.data.own FOLDER --build OUT`)."
        )
    samples, data = load_samples(path), path.read_bytes()
    report = _read_report(path.with_suffix(".report.json"))
    if report.kept != len(samples):
        raise DataError(
            f"{path.name}: it has {len(samples)} questions and its report says {report.kept}; "
            "build both again."
        )
    return SplitFile(
        split=split,
        file=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        built=datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat(),
        schema=pq.read_schema(path),
        questions=len(samples),
        images=len({sample.image for sample in samples}),
        references=sum(len(sample.references) for sample in samples),
        things=len({food for sample in samples for food in sample.foods}),
        report=report,
    )


def _read_report(path: Path) -> BuildReport:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        problems = tuple(Problem(**problem) for problem in values.pop("problems"))
        return BuildReport(**values, problems=problems)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no readable build report ({error!r}); build it again.") from error


def _front_matter(about: About, splits: Sequence[SplitFile]) -> str:
    files = [{"split": split.split, "path": split.file} for split in splits if split.questions]
    # The hub wants names for terms that it doesn't know.
    other = {"license_name": "see-sources", "license_link": about.terms[0]}
    data = DatasetCardData(
        pretty_name=about.title,
        language=about.language,
        license=about.licence,
        **(other if about.licence == "other" else {}),
        size_categories=[_size_category(sum(split.questions for split in splits))],
        task_categories=["image-segmentation", "visual-question-answering"],
        tags=list(about.tags),
        configs=[{"config_name": "default", "data_files": files}],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _size_category(questions: int) -> str:
    """The hub's own classes."""
    limits = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    return next((name for limit, name in limits if questions < limit), "100K<n<1M")


def _body(about: About, splits: Sequence[SplitFile]) -> str:
    sections = {
        "What it holds": _holdings(splits),
        "Fields": _fields(splits[0]),
        "How the references were made": _references(splits[0].report),
        "What was left out": _left_out(splits),
        "Sources and licences": _bullets([*about.sources, about.photos]),
        "Files": _table(
            ["file", "bytes", "SHA-256"],
            [[f"`{s.file}`", f"{s.size}", f"`{s.sha256}`"] for s in splits],
        ),
        "Limits": _bullets(about.limits),
        "Use": _USE,
    }
    text = [MARK, f"# {about.title}", about.summary, UNPUBLISHED]
    text += [f"## {title}\n\n{section}" for title, section in sections.items()]
    if about.citation:
        text.append(f"## Citation\n\n{about.citation}.")
    return "\n\n".join(text) + "\n"


def _holdings(splits: Sequence[SplitFile]) -> str:
    rows = [[s.split, s.questions, s.images, s.references, s.things] for s in splits]
    return _table(["split", "questions", "images", "references", "different things"], rows)


def _fields(split: SplitFile) -> str:
    rows = [[f"`{c.name}`", f"`{_type_name(c.type)}`", COLUMNS[c.name]] for c in split.schema]
    return (
        "One row for each question. `boxes`, `points`, `masks` and `reference_foods` run in "
        "step.\n\n" + _table(["column", "type", "what it holds"], rows)
    )


def _type_name(kind: pa.DataType) -> str:
    return f"list<{_type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def _references(report: BuildReport) -> str:
    parts = {
        "ingredient": "Every thing asked for has one mask and one reference.",
        "component": "Every connected piece of a thing asked for has a mask and a reference.",
    }
    return (
        f"{parts[report.per]} The box spans the mask's pixels, both corners inside. The point is "
        "the centre of the largest circle that fits into the mask. Both are in pixels of the "
        "original image, after the data preparation of Seg-Zero and VisionReasoner "
        f"(`foodseg/data/references.py`). What has fewer than {report.min_area} pixels is left out."
    )


def _left_out(splits: Sequence[SplitFile]) -> str:
    reasons = dict.fromkeys(reason for split in splits for reason in split.report.left_out)
    rows = [["kept", *(split.report.kept for split in splits)]]
    rows += [[r, *(split.report.left_out.get(r, 0) for split in splits)] for r in reasons]
    dropped = sum(split.report.parts_dropped for split in splits)
    faults = sum(len(split.report.problems) for split in splits)
    return (
        _table(["questions", *(split.split for split in splits)], rows)
        + f"\n\nSmall pieces dropped: {dropped}. Faults named in the build reports "
        f"(`*.report.json`): {faults}."
    )


_USE = """\
```python
from foodseg.data.single import load_samples

samples = load_samples("foodreasonseg_single_train.parquet")
mask = samples[0].union_mask()  # boolean (height, width)
```

`croissant.json` describes the same columns in the Croissant format, version 1.0."""


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 1 if no card could be written."""
    parser = argparse.ArgumentParser(
        prog="python -m foodseg.report.cards.dataset", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dataset", help="smoke, kitchen, paper, or a folder of built samples")
    parser.add_argument("--licence", default="", help="of your own data, such as cc-by-4.0")
    parser.add_argument("--creator", action="append", default=[], help="of your own data")
    options = parser.parse_args(arguments)
    try:
        folder, about = _choose(options.dataset, options.licence, options.creator)
        for path in write_card(folder, about):
            print(path)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _choose(dataset: str, licence: str, creators: Sequence[str]) -> tuple[Path, About]:
    for preset in (presets.SMOKE, presets.KITCHEN, presets.PAPER):
        folder = preset.samples_file("train").parent
        if dataset == preset.name or Path(dataset).resolve() == folder.resolve():
            if licence or creators:
                raise DataError(f"{dataset}: its licence is known; leave out what you added.")
            return folder, drawn_plates(preset.name) if preset.train_plates else FOODSEG103
    folder = Path(dataset)
    return folder, own_data(folder.resolve().name, licence, creators)


if __name__ == "__main__":
    sys.exit(main())
