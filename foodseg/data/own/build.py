"""Build samples from your own folder of images, masks and questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foodseg.common.errors import DataError
from foodseg.common.files import writing
from foodseg.common.progress import tqdm
from foodseg.data.build_report import BuildReport, Tally
from foodseg.data.foodseg103 import SPLITS, FaultError, Problem
from foodseg.data.own.folder import OwnFolder, OwnPhoto
from foodseg.data.own.questions import FILE, Question, read_questions
from foodseg.data.references import Part, Per, count_parts, referenced_parts, why_no_part
from foodseg.data.samples import Sample, answer_fields, save_samples
from foodseg.data.single import MIN_AREA, check_choices

PER: Per = "ingredient"  # a thing's mask gets one reference
_Thing = tuple[str, tuple[Part, ...]]  # its name, and its parts

# A missing file is often a typo, so blame the question's line, and this field of it.
_LACKING = {"missing image": "image", "missing mask": "things", "unknown thing": "things"}


def build_own(root: Path | str, split: str) -> tuple[list[Sample], BuildReport]:
    """Builds one split ("train" or "test") of your own folder, as `write_single` builds FoodSeg103.

    References and masks are in pixels of the photo as stored, masks COCO run-length encodings.
    In the report `turns` and `entries` are questions, `dishes` photos; a line of `questions.jsonl`
    without a readable split counts in train's.

    Faults of single questions are in the report and the rest is built. DataError is raised where
    nothing could be: a missing folder or file, no questions at all, an unknown split.
    """
    check_choices(split, PER)
    folder = OwnFolder(root)
    questions = read_questions(folder.root / FILE)
    leaked = _leaks(folder, questions) if split == "train" else {}
    by_image: defaultdict[str, list[Question]] = defaultdict(list)
    for question in (question for question in questions if question.split == split):
        by_image[question.image].append(question)
    builder = _Builder(folder, split, leaked)
    for image, asked in tqdm(by_image.items(), desc=f"build {split}", unit="photo"):
        builder.build(image, asked)
    samples = [builder.samples[line] for line in sorted(builder.samples)]
    return samples, builder.tally.report(split, PER, MIN_AREA)


def _leaks(folder: OwnFolder, questions: Sequence[Question]) -> dict[str, str]:
    """The train images that are the test's too, by name or by the bytes of the file."""
    images = {s: {q.image for q in questions if q.split == s and q.image} for s in SPLITS}
    test = {folder.image_hash(image): image for image in sorted(images["test"])}
    test.pop("", None)
    leaked = {image: test.get(folder.image_hash(image)) for image in sorted(images["train"])}
    leaked |= {image: image for image in images["train"] & images["test"]}
    return {image: twin for image, twin in leaked.items() if twin}


def _at(question: Question, problem: Problem) -> Problem:
    field, fix = _LACKING.get(problem.reason), f"{problem.file}: {problem.fix}"
    return question.problem(field, problem.reason, fix) if field else problem


@dataclass
class _Builder:
    folder: OwnFolder
    split: str
    leaked: dict[str, str]
    tally: Tally = field(default_factory=Tally)
    samples: dict[int, Sample] = field(default_factory=dict)  # by line
    named: set[Problem] = field(default_factory=set)

    def build(self, image: str, asked: Sequence[Question]) -> None:
        """Builds the questions about one image; everything else goes into the tally."""
        # Without an image's name the fault is the line's own.
        photo = _attempt(self.folder.read_photo, image) if image else None
        known: dict[str, _Thing | Problem] = {}
        if isinstance(photo, OwnPhoto):
            self.tally.dishes.add(photo.stem)
            things = dict.fromkeys(thing for question in asked for thing in question.things)
            known = {thing: _attempt(self._read_thing, photo, thing) for thing in things}
        for question in asked:
            self.tally.entries += 1
            found = [known[thing] for thing in question.things if thing in known]
            faults = [fault for fault in (photo, *found) if isinstance(fault, Problem)]
            problems = [*question.problems, *(_at(question, fault) for fault in faults)]
            if image in self.leaked:
                fix = f"images/{self.leaked[image]} is a test photo; take it out of one split"
                problems.append(question.problem("image", "photo in train and test", fix))
            # A fault of a file is named once, whatever number of questions it spoils.
            self.tally.problems += [p for p in problems if p not in self.named]
            self.named.update(problems)
            if problems:
                self.tally.left_out[problems[0].reason] += 1
            else:
                self.samples[question.line] = self._sample(question, photo, found)

    def _read_thing(self, photo: OwnPhoto, thing: str) -> _Thing:
        name, mask, file = self.folder.read_mask(photo, thing)
        parts = referenced_parts(mask, PER, MIN_AREA)
        if not parts:
            area = int(mask.sum())
            fix = f"{thing!r} has {area} pixels and needs {MIN_AREA}; correct the mask"
            raise FaultError(file, "pixels", why_no_part(area), fix)
        self.tally.parts_dropped += count_parts(mask, PER) - len(parts)
        return name, parts

    def _sample(self, question: Question, photo: OwnPhoto, found: Sequence[_Thing]) -> Sample:
        sample = Sample(
            sample_id=question.sample_id,
            dish_id=photo.stem,
            split=self.split,
            image=photo.file,
            width=photo.width,
            height=photo.height,
            question=question.question,
            answer=question.answer,
            image_sha256=photo.sha256,
            **answer_fields(dict(found)),  # two spellings of one thing are one
        )
        self.tally.keep(sample)
        return sample


def _attempt(step: Callable[..., Any], *arguments: object) -> Any:
    """What the step returns, or the fault that it raises."""
    try:
        return step(*arguments)
    except FaultError as fault:
        return fault.problem


def save_own(root: Path | str, out: Path | str) -> dict[str, BuildReport]:
    """Builds both splits into `out`: Parquet files, reports, and a link to the photos.

    `out` is `datasets/<name>` of a preset `replace(presets.KITCHEN, name=<name>)`. Raises DataError
    as `build_own`, or if it can't be written there or other photos are there.
    """
    root, out = Path(root), Path(out)
    built = {split: build_own(root, split) for split in SPLITS}
    link = out / "FoodSeg103"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if not link.exists() and not link.is_symlink():
            link.symlink_to(root.resolve(), target_is_directory=True)
        if not link.exists() or not link.samefile(root):
            raise DataError(f"{link}: other photos are there; build into another folder.")
        for split, (samples, report) in built.items():
            path = out / f"foodreasonseg_single_{split}.parquet"
            save_samples(samples, path)
            report.save(path.with_suffix(".report.json"))
    return {split: report for split, (_, report) in built.items()}


def summarise(report: BuildReport) -> str:
    """One line of what a split kept and left out."""
    left_out = ", ".join(f"{number} {reason}" for reason, number in report.left_out.items())
    text = "{} of {turns} questions are good, with {references} references; {dishes} photos"
    text = text.format(report.kept, **report.counts)
    if no_target := report.counts.get("no_target"):
        text += f"; {no_target} of them nothing in the photo answers"
    return f"{report.split}: {text}; left out: {left_out or 'none'}"
