"""FoodReasonSeg-Single: every FoodReasonSeg conversation turned into single-turn pairs.

A turn is kept if its answer marks at least one ingredient and every marked one has a mask. If one
of several ingredients is faulty the whole turn is left out, because its mask would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.files import sha256
from foodseg.common.progress import tqdm
from foodseg.data.build_report import NO_MASK, BuildReport, Tally
from foodseg.data.foodreasonseg import Conversation, Turn, read_conversations
from foodseg.data.foodseg103 import (
    CATEGORIES,
    EXCLUDED_LABELS,
    SPLITS,
    FaultError,
    FoodSeg103,
    Problem,
    decode_mask_file,
    decode_photo,
    other_names,
    read_categories,
)
from foodseg.data.references import Part, Per, count_parts, referenced_parts, why_no_part
from foodseg.data.samples import (
    Sample,
    answer_fields,
    check_no_shared_images,
    describe,
    iterate_samples,
    load_samples,
    save_samples,
)

__all__ = [
    "BuildReport",
    "MIN_AREA",
    "Problem",
    "Sample",
    "build_single",
    "check_no_shared_images",
    "describe",
    "iterate_samples",
    "load_samples",
    "save_samples",
    "write_single",
]

# 8 x 8 pixels of the original image: what is smaller is noise of the annotation, and less than one
# visual token of the resized image.
MIN_AREA = 64


def write_single(
    root: Path | str,
    split: str,
    path: Path | str,
    per: Per = "ingredient",
    min_area: int = MIN_AREA,
) -> BuildReport:
    """Builds one split ("train" or "test") of the dataset folder `root` into a Parquet file.

    `per` is what gets one reference: each "ingredient" (default) or each connected "component"
    of its mask. The paper leaves it open; one [SEG] names one ingredient and the questions count
    ingredients, not pieces, so the default follows the text. With "ingredient" a sample's mask
    is exactly the ingredients' pixels; with "component" the parts under `min_area` pixels of the
    original image are missing from it. An ingredient of which no part is left is "mask too
    small".

    Samples are written as they are built, so memory holds one plate, one row group and the
    conversations; the file at `path` appears when it is whole. Faults of single items are in the
    report and the rest is built. DataError is raised where nothing could be: a missing folder or
    file, broken JSON, an unknown split.
    """
    builder = _open(root, split, per, min_area)
    save_samples(builder.samples(), path)
    return builder.report()


def build_single(
    root: Path | str, split: str, per: Per = "ingredient", min_area: int = MIN_AREA
) -> tuple[list[Sample], BuildReport]:
    """The samples and the report of `write_single`, without a file."""
    builder = _open(root, split, per, min_area)
    return list(builder.samples()), builder.report()


def check_choices(split: str, per: str) -> None:
    """Raises DataError for an unknown split or an unknown `per`."""
    if split not in SPLITS or per not in Per.__args__:
        raise DataError(f"split {split!r}, per {per!r}: choose from {SPLITS} and {Per.__args__}.")


def _open(root: Path | str, split: str, per: Per, min_area: int) -> _Builder:
    """A builder whose files were found readable."""
    check_choices(split, per)
    reader, tally = FoodSeg103(root), Tally()
    categories = _categories(reader.root, tally)
    conversations = read_conversations(reader.root / f"FoodReasonSeg_{split}.json", categories)
    return _Builder(reader, split, per, min_area, categories, conversations, tally)


def _categories(root: Path, tally: Tally) -> dict[int, str]:
    """The dataset's own names; where they differ from the official ones the report says so."""
    path = root / "category_id.txt"
    if not path.is_file():
        fix = "the official names were used; add FoodSeg103's file"
        tally.problems.append(Problem(path.name, "file", "missing category list", fix))
        return dict(CATEGORIES)
    categories = read_categories(path)
    different = other_names(categories)
    for class_id, (theirs, ours) in different.items():
        fix = f"it says {theirs!r}, FoodSeg103 {ours!r}; the file was followed"
        tally.problems.append(Problem(path.name, f"id {class_id}", "category differs", fix))
    return categories | {i: ours for i, ours in CATEGORIES.items() if i not in different}


@dataclass
class _Plate:
    dish_id: str
    image: str
    image_sha256: str
    mask_file: str
    mask: np.ndarray  # uint8 (H, W)
    # References with their masks, by class id: turns of one plate often ask for the same food.
    parts: dict[int, tuple[Part, ...]] = field(default_factory=dict)


@dataclass
class _Earlier:
    """What is remembered of a dish's earlier entries."""

    turns: int = 0  # all of them, turns left out included
    said: set[tuple[str, str]] = field(default_factory=set)  # questions with their answers


@dataclass
class _Builder:
    reader: FoodSeg103
    split: str
    per: Per
    min_area: int
    categories: dict[int, str]
    conversations: list[Conversation]
    tally: Tally
    earlier: dict[str, _Earlier] = field(default_factory=dict)  # by dish

    def samples(self) -> Iterator[Sample]:
        """Every sample that can be built, in the file's order, with a progress bar."""
        for conversation in tqdm(self.conversations, desc=f"build {self.split}", unit="dish"):
            yield from self.build(conversation)

    def report(self) -> BuildReport:
        """The report of the conversations that were built so far."""
        return self.tally.report(self.split, self.per, self.min_area)

    def build(self, conversation: Conversation) -> list[Sample]:
        """The samples of one conversation; everything else goes into the tally."""
        self.tally.entries += 1
        try:
            if conversation.problem:
                raise FaultError(conversation.problem)
            plate = self._load_plate(conversation)
        except FaultError as fault:
            self._leave_out_all(conversation, fault.problem)
            return []
        earlier = self._earlier_turns(plate.dish_id, conversation)
        said: set[tuple[str, str]] = set()  # by the turns of this entry
        built = []
        for turn in conversation.turns:
            built.append(self._build_turn(plate, turn, earlier, said))
            said.add((turn.question, turn.answer))
        earlier.turns += len(conversation.turns)
        earlier.said |= said
        return [sample for sample in built if sample is not None]

    def _load_plate(self, conversation: Conversation) -> _Plate:
        reader, split = self.reader, self.split
        try:
            dish_id = reader.resolve_id(split, conversation.dish_id)
        except FaultError as fault:
            if fault.problem.reason == "unsafe dish_id":
                where = f"{conversation.field}.dish_id"
                raise FaultError(replace(fault.problem, file=self._file, field=where)) from fault
            raise
        self.tally.dishes.add(dish_id)
        image_path, mask_path = reader.image_path(split, dish_id), reader.mask_path(split, dish_id)
        image, mask_file = reader.relative(image_path), reader.relative(mask_path)
        data = image_path.read_bytes()
        photo = decode_photo(data, image)
        width, height = photo.image.size
        mask = decode_mask_file(mask_path.read_bytes(), mask_file)
        if mask.shape != (height, width):
            found = f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels"
            fix = f"{found}, the image {width}x{height}; bring them to one size"
            if photo.orientation >= 5 and mask.shape == (width, height):  # a quarter turn
                fix = f"{found}, as the photo is stored; turn it as EXIF says"
            raise FaultError(Problem(mask_file, "size", "image and mask sizes differ", fix))
        self._check_labels(mask_file, mask)
        return _Plate(dish_id, image, sha256(data), mask_file, mask)

    @property
    def _file(self) -> str:
        return f"FoodReasonSeg_{self.split}.json"

    def _check_labels(self, mask_file: str, mask: np.ndarray) -> None:
        known = EXCLUDED_LABELS | self.categories.keys()
        for label in np.flatnonzero(np.bincount(mask.ravel())):
            if int(label) not in known:
                fix = f"no category has id {label}; its pixels were taken for background"
                self.tally.problems.append(Problem(mask_file, "pixels", "unknown class id", fix))

    def _leave_out_all(self, conversation: Conversation, problem: Problem) -> None:
        problems = [problem]
        for turn in conversation.turns:
            # A turn that would have been left out anyway isn't lost by the plate's fault.
            own = turn.problems[0].reason if turn.problems else problem.reason
            self.tally.leave_out(own if turn.problems or turn.class_ids else NO_MASK)
            problems += [fault for fault in turn.problems if fault is not problem]
        self.tally.problems += problems

    def _earlier_turns(self, dish_id: str, conversation: Conversation) -> _Earlier:
        if dish_id not in self.earlier:
            return self.earlier.setdefault(dish_id, _Earlier())
        fix = (
            f"{dish_id!r} has an earlier entry; new turns were added to its turns, repeats left out"
        )
        where = f"{conversation.field}.dish_id"
        self.tally.problems.append(Problem(self._file, where, "duplicate dish_id", fix))
        return self.earlier[dish_id]

    def _build_turn(
        self, plate: _Plate, turn: Turn, earlier: _Earlier, said: set[tuple[str, str]]
    ) -> Sample | None:
        problems, words = list(turn.problems), (turn.question, turn.answer)
        if not problems and not turn.class_ids:
            self.tally.leave_out(NO_MASK)
        elif not problems and words in earlier.said:
            self.tally.leave_out("duplicate turn")  # its entry is a fault already
        else:
            if not problems and words in said:
                fix = "its conversation has the same question and answer before; take one out"
                problems.append(Problem(self._file, turn.field, "duplicate turn", fix))
            problems += self._missing_parts(plate, turn)
            if not problems:
                return self._sample(plate, turn, earlier.turns + turn.index)
            self.tally.problems += problems
            self.tally.leave_out(problems[0].reason)
        return None

    def _missing_parts(self, plate: _Plate, turn: Turn) -> list[Problem]:
        problems = []
        for class_id in turn.class_ids:
            if self._parts(plate, class_id):
                continue
            name, area = self.categories[class_id], int((plate.mask == class_id).sum())
            fix = f"{name!r} has {area} pixels in {plate.mask_file}; correct the mask or the answer"
            problems.append(Problem(self._file, turn.field, why_no_part(area), fix))
        return problems

    def _parts(self, plate: _Plate, class_id: int) -> tuple[Part, ...]:
        if class_id not in plate.parts:
            mask = plate.mask == class_id
            plate.parts[class_id] = referenced_parts(mask, self.per, self.min_area)
            self.tally.parts_dropped += count_parts(mask, self.per) - len(plate.parts[class_id])
        return plate.parts[class_id]

    def _sample(self, plate: _Plate, turn: Turn, number: int) -> Sample:
        foods = {self.categories[i]: self._parts(plate, i) for i in turn.class_ids}
        height, width = plate.mask.shape
        sample = Sample(
            sample_id=f"{self.split}-{plate.dish_id}-{number}",
            dish_id=plate.dish_id,
            split=self.split,
            image=plate.image,
            width=width,
            height=height,
            question=turn.question,
            answer=turn.answer,
            image_sha256=plate.image_sha256,
            **answer_fields(foods),
        )
        self.tally.keep(len(sample.references))
        return sample
