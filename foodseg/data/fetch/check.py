"""Whether a folder holds all of FoodSeg103 and FoodReasonSeg: counts, names, sums."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.data.fetch.download import Checksums
from foodseg.data.fetch.sources import Sources
from foodseg.data.foodreasonseg import read_conversations
from foodseg.data.foodseg103 import (
    CATEGORIES,
    IMAGE_SUFFIXES,
    Problem,
    files_by_stem,
    other_names,
    read_categories,
)

_FETCH = "run `make data`, or add them by hand"
# The faults that fetching FoodSeg103 again can mend.
LACKING = {"missing folder", "too few files", "empty files", "missing image", "missing mask"}


def check_images(root: Path, images: Mapping[str, int]) -> list[Problem]:
    """The faults of the photos, masks and class names; images: how many photos each split has.

    Files are counted and paired by name, and none may be empty; the build decodes them.
    """
    problems, stems = [], {}
    for split, expected in images.items():
        photos, found = _listing(root, f"Images/img_dir/{split}", IMAGE_SUFFIXES, expected)
        masks, more = _listing(root, f"Images/ann_dir/{split}", (".png",), expected)
        problems += found + more
        stems[split] = photos
        lacking = (("ann_dir", "mask", photos - masks), ("img_dir", "image", masks - photos))
        for kind, what, missing in lacking if photos and masks else ():
            if missing:
                fix = f"{_some(missing)}; {_FETCH}"
                problems.append(Problem(f"Images/{kind}/{split}", "file", f"missing {what}", fix))
    for stem in sorted(set.intersection(*stems.values())):
        fix = f"{stem!r} stands in every split; take it out of one"
        problems.append(Problem("Images/img_dir", "split", "image shared by splits", fix))
    return problems + _check_categories(root)


def _listing(
    root: Path, folder: str, suffixes: Collection[str], expected: int
) -> tuple[set[str], list[Problem]]:
    try:
        files = files_by_stem(root / folder, suffixes)
    except DataError:
        return set(), [Problem(folder, "folder", "missing folder", f"{expected} files; {_FETCH}")]
    problems = []
    found = f"{len(files)} files where FoodSeg103 has {expected}"
    if len(files) < expected:
        problems.append(Problem(folder, "count", "too few files", f"{found}; {_FETCH}"))
    elif len(files) > expected:
        fix = f"{found}; take out those that aren't its own"
        problems.append(Problem(folder, "count", "too many files", fix))
    if empty := [stem for stem, path in files.items() if path.stat().st_size == 0]:
        problems.append(Problem(folder, "size", "empty files", f"{_some(empty)}; {_FETCH}"))
    return set(files), problems


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(names)[:5]) + more


def _check_categories(root: Path) -> list[Problem]:
    path = root / "category_id.txt"
    if not path.is_file():
        return [Problem(path.name, "file", "missing category list", _FETCH)]
    try:
        found = read_categories(path)
    except DataError as error:
        return [Problem(path.name, "lines", "unreadable category list", str(error).rstrip("."))]
    problems = []
    if len(found) != len(CATEGORIES):
        fix = f"{len(found)} labels where FoodSeg103 has {len(CATEGORIES)}; remove it and {_FETCH}"
        problems.append(Problem(path.name, "count", "wrong number of labels", fix))
    for class_id, (theirs, ours) in other_names(found).items():
        if theirs and ours:  # the others are the wrong number
            fix = f"it says {theirs!r}, FoodSeg103 {ours!r}; correct the line"
            problems.append(Problem(path.name, f"id {class_id}", "category differs", fix))
    return problems


def check_conversations(root: Path, name: str, checksums: Checksums) -> list[Problem]:
    """The faults of one FoodReasonSeg file; the build finds those of its single entries."""
    path = root / name
    if not path.is_file():
        return [Problem(name, "file", "missing conversations", _FETCH)]
    try:
        conversations = read_conversations(path, CATEGORIES)
    except DataError as error:
        return [Problem(name, "file", "unreadable conversations", str(error).rstrip("."))]
    if not conversations:
        return [Problem(name, "file", "no conversations", f"the list is empty; {_FETCH}")]
    problem = checksums.check(name, path)
    return [problem] if problem else []


def check_folder(root: Path, sources: Sources, checksums: Checksums) -> list[Problem]:
    """Every fault of the folder; none if it is complete."""
    problems = check_images(root, sources.images)
    for remote in sources.conversations:
        problems += check_conversations(root, remote.name, checksums)
    return problems
