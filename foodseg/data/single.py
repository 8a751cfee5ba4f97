"""FoodReasonSeg-Single: every FoodReasonSeg conversation turned into single-turn pairs.

A turn is kept if its answer marks at least one ingredient and every marked one has a mask, or if it
says that nothing in the photo answers the question. If one of several ingredients is faulty the
whole turn is left out, because its mask would be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.files import sha256
from foodseg.common.progress import tqdm
from foodseg.data.build_report import NO_MASK, BuildReport, Tally
from foodseg.data.build_report import describe as describe
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
    read_file,
)
from foodseg.data.references import Part, Per, count_parts, referenced_parts, why_no_part
from foodseg.data.samples import Sample, answer_fields, save_samples
from foodseg.data.samples import check_no_shared_images as check_no_shared_images
from foodseg.data.samples import iterate_samples as iterate_samples
from foodseg.data.samples import load_samples as load_samples

# 8 x 8 pixels of the original image: less is noise, and less than a token of the resized image.
MIN_AREA = 64


def write_single(
    root: Path | str, split: str, path: Path | str, per: Per = "ingredient"
) -> BuildReport:
    """Builds one split ("train" or "test") of the dataset folder `root` into a Parquet file.

    per: what gets one reference, each "ingredient" (as the paper's questions count) or each
    connected "component" of its mask. With "component" a sample's mask lacks the parts under
    MIN_AREA pixels of the original image; an ingredient without a part is "mask too small".

    Faults of single items are in the report and the rest is built. DataError is raised where
    nothing could be: a missing folder or file, broken JSON, an unknown split.
    """
    builder = _Builder(root, split, per)
    save_samples(builder.samples(), path)
    return builder.report()


def build_single(
    root: Path | str, split: str, per: Per = "ingredient"
) -> tuple[list[Sample], BuildReport]:
    """The samples and the report of `write_single`, without a file."""
    builder = _Builder(root, split, per)
    return list(builder.samples()), builder.report()


def check_choices(split: str, per: str) -> None:
    """Raises DataError for an unknown split or an unknown `per`."""
    if split not in SPLITS or per not in Per.__args__:
        raise DataError(f"split {split!r}, per {per!r}: choose from {SPLITS} and {Per.__args__}.")


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


def _test_photos(reader: FoodSeg103) -> dict[str, str]:
    """The test photos by their stem and by their bytes' SHA-256; none where there is no test."""
    if not (reader.root / "Images" / "img_dir" / "test").is_dir():
        return {}
    names: dict[str, str] = {}
    for stem in reader.dish_ids("test"):
        try:
            path = reader.image_path("test", stem)
            digest = sha256(read_file(path, reader.relative(path)))
        except FaultError:  # a link out of its folder, or unreadable: no test photo either
            continue
        names |= dict.fromkeys((stem, digest), reader.relative(path))
    return names


@dataclass
class _Plate:
    dish_id: str
    image: str
    image_sha256: str
    mask_file: str
    mask: np.ndarray  # uint8 (H, W)
    # References with their masks, by class id: turns of one plate often ask for the same food.
    parts: dict[int, tuple[Part, ...]] = field(default_factory=dict)


class _Builder:
    def __init__(self, root: Path | str, split: str, per: Per):
        check_choices(split, per)
        self.split, self.per = split, per
        self.reader, self.tally = FoodSeg103(root), Tally()
        self.categories = _categories(self.reader.root, self.tally)
        self.file = f"FoodReasonSeg_{split}.json"
        self.conversations = read_conversations(self.reader.root / self.file, self.categories)
        # A training photo that is a test photo too is left out: the test stays whole.
        self.test = _test_photos(self.reader) if split == "train" else {}
        # Of a dish's earlier entries: turns, those left out included; what was said in them.
        self.turns: Counter[str] = Counter()
        self.said: set[tuple[str, str, str]] = set()  # dish, question, answer

    def samples(self) -> Iterator[Sample]:
        """Every sample that can be built, in the file's order, with a progress bar."""
        for conversation in tqdm(self.conversations, desc=f"build {self.split}", unit="dish"):
            yield from self.build(conversation)

    def report(self) -> BuildReport:
        """The report of the conversations that were built so far."""
        return self.tally.report(self.split, self.per, MIN_AREA)

    def build(self, conversation: Conversation) -> list[Sample]:
        """The samples of one conversation; everything else goes into the tally."""
        self.tally.entries += 1
        plate = conversation.problem or self._load_plate(conversation)
        if isinstance(plate, Problem):
            self._leave_out_all(conversation, plate)
            return []
        dish = plate.dish_id
        if dish in self.turns:
            fix = "new turns were added to its turns, repeats left out"
            fix, where = f"{dish!r} has an earlier entry; {fix}", f"{conversation.field}.dish_id"
            self.tally.problems.append(Problem(self.file, where, "duplicate dish_id", fix))
        said: set[tuple[str, str, str]] = set()  # by the turns of this entry
        built = []
        for turn in conversation.turns:
            built.append(self._build_turn(plate, turn, said))
            said.add((dish, turn.question, turn.answer))
        self.turns[dish] += len(conversation.turns)
        self.said |= said
        return [sample for sample in built if sample is not None]

    def _load_plate(self, conversation: Conversation) -> _Plate | Problem:
        try:
            return self._read_plate(conversation.dish_id)
        except FaultError as fault:
            if fault.problem.field != "dish_id":
                return fault.problem
            return replace(fault.problem, file=self.file, field=f"{conversation.field}.dish_id")

    def _read_plate(self, dish_id: str) -> _Plate:
        reader, split = self.reader, self.split
        dish_id = reader.resolve_id(split, dish_id)
        self.tally.dishes.add(dish_id)
        image_path, mask_path = reader.image_path(split, dish_id), reader.mask_path(split, dish_id)
        image, mask_file = reader.relative(image_path), reader.relative(mask_path)
        data = read_file(image_path, image)
        if twin := self.test.get(dish_id) or self.test.get(sha256(data)):
            fix = f"it is {twin} too, which stays; take it out of one split"
            raise FaultError(image, "file", "photo in train and test", fix)
        photo = decode_photo(data, image)
        width, height = photo.image.size
        mask = decode_mask_file(read_file(mask_path, mask_file), mask_file)
        if mask.shape != (height, width):
            found = f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels"
            fix = f"{found}, the image {width}x{height}; bring them to one size"
            if photo.orientation >= 5 and mask.shape == (width, height):  # a quarter turn
                fix = f"{found}, as the photo is stored; turn it as EXIF says"
            raise FaultError(mask_file, "size", "image and mask sizes differ", fix)
        for label in np.unique(mask).tolist():
            if label not in EXCLUDED_LABELS | self.categories.keys():
                fix = f"no category has id {label}; its pixels were taken for background"
                self.tally.problems.append(Problem(mask_file, "pixels", "unknown class id", fix))
        return _Plate(dish_id, image, sha256(data), mask_file, mask)

    def _leave_out_all(self, conversation: Conversation, problem: Problem) -> None:
        self.tally.problems.append(problem)
        for turn in conversation.turns:
            # A turn that would have been left out anyway isn't lost by the plate's fault.
            own = turn.problems[0].reason if turn.problems else problem.reason
            self.tally.left_out[own if turn.problems or turn.asks else NO_MASK] += 1
            self.tally.problems += [fault for fault in turn.problems if fault is not problem]

    def _build_turn(
        self, plate: _Plate, turn: Turn, said: set[tuple[str, str, str]]
    ) -> Sample | None:
        problems, words = list(turn.problems), (plate.dish_id, turn.question, turn.answer)
        if not problems and not turn.asks:
            self.tally.left_out[NO_MASK] += 1
        elif not problems and words in self.said:
            self.tally.left_out["duplicate turn"] += 1  # its entry is a fault already
        else:
            if not problems and words in said:
                fix = "its conversation has the same question and answer before; take one out"
                problems.append(Problem(self.file, turn.field, "duplicate turn", fix))
            problems += self._missing_parts(plate, turn)
            if not problems:
                return self._sample(plate, turn)
            self.tally.problems += problems
            self.tally.left_out[problems[0].reason] += 1
        return None

    def _missing_parts(self, plate: _Plate, turn: Turn) -> list[Problem]:
        problems = []
        for class_id in turn.class_ids:
            if not self._parts(plate, class_id):
                name, area = self.categories[class_id], np.count_nonzero(plate.mask == class_id)
                found = f"{name!r} has {area} pixels in {plate.mask_file}"
                fix = f"{found}; correct the mask or the answer"
                problems.append(Problem(self.file, turn.field, why_no_part(area), fix))
        return problems

    def _parts(self, plate: _Plate, class_id: int) -> tuple[Part, ...]:
        if class_id not in plate.parts:
            mask = plate.mask == class_id
            plate.parts[class_id] = referenced_parts(mask, self.per, MIN_AREA)
            self.tally.parts_dropped += count_parts(mask, self.per) - len(plate.parts[class_id])
        return plate.parts[class_id]

    def _sample(self, plate: _Plate, turn: Turn) -> Sample:
        foods = {self.categories[i]: self._parts(plate, i) for i in turn.class_ids}
        number = self.turns[plate.dish_id] + turn.index
        sample = Sample(
            sample_id=f"{self.split}-{plate.dish_id}-{number}",
            dish_id=plate.dish_id,
            split=self.split,
            image=plate.image,
            width=plate.mask.shape[1],
            height=plate.mask.shape[0],
            question=turn.question,
            answer=turn.answer,
            image_sha256=plate.image_sha256,
            **answer_fields(foods),
        )
        self.tally.keep(sample)
        self.tally.unmarked += bool(turn.notes)
        self.tally.problems += turn.notes
        return sample
