"""What can be asked: the test plates with their questions, and the words that training has seen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256
from foodseg.data.photos import Photo, read_photo
from foodseg.data.samples import Sample, load_samples
from foodseg.presets import Preset, require

THUMBNAIL = 112  # pixels, the longest side
NOTEBOOK = "01_build_foodreasonseg_single"


@dataclass(frozen=True)
class Plate:
    """A test photo and the questions that are asked about it."""

    path: Path
    samples: tuple[Sample, ...]

    @property
    def questions(self) -> list[str]:
        return [sample.question for sample in self.samples]

    def sample(self, question: str) -> Sample | None:
        """The plate's own question in these words, whose answer is known; None for another."""
        same = (s for s in self.samples if s.question.split() == question.split())
        return next(same, None)

    def photo(self) -> Photo:
        """The upright photo; raises DataError if it is another than the samples were built from."""
        return read_photo(self.path, self.samples[0].image_sha256)

    def thumbnail(self) -> Image.Image:
        image = self.photo().image
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return image


def load_plates(preset: Preset) -> list[Plate]:
    """The preset's test plates; raises DataError if notebook 01 was not run."""
    found: dict[str, list[Sample]] = {}
    for sample in load_samples(require(preset.samples_file("test"), NOTEBOOK)):
        found.setdefault(sample.image, []).append(sample)
    return [Plate(preset.dataset / image, tuple(samples)) for image, samples in found.items()]


def suggest_questions(preset: Preset, photo: str | Path) -> list[str]:
    """A test plate's own questions, known by its file's bytes; raises DataError for another photo.

    A preset's drawn plates are all that its model knows.
    """
    read_photo(photo)  # what is no photo is refused as such
    found, plates = file_sha256(Path(photo)), load_plates(preset)
    for plate in plates:
        if plate.samples[0].image_sha256 == found:
            return plate.questions
    raise DataError(
        f"{photo}: no test plate of preset {preset.name}, so it has no questions of its own; "
        f"name one of {plates[0].path.parent}, or ask in your own words."
    )


def load_vocabulary(preset: Preset) -> frozenset[str]:
    """The words of all training questions; raises DataError if notebook 01 was not run."""
    samples = load_samples(require(preset.samples_file("train"), NOTEBOOK))
    return frozenset(_words(sample.question for sample in samples))


def words_unseen_in_training(preset: Preset, question: str) -> list[str]:
    """The question's words that mean nothing to a model made for drawn plates.

    None for a preset of a general model, and none where the questions are not on disk.
    """
    if not (preset.train_plates and preset.samples_file("train").exists()):
        return []
    return unseen_words(question, load_vocabulary(preset))


def unseen_words(question: str, vocabulary: frozenset[str]) -> list[str]:
    """The question's words that no training question has, in their order, each once."""
    return [word for word in dict.fromkeys(_words([question])) if word not in vocabulary]


def warn_of_words(words: Sequence[str]) -> str:
    """What to expect of a question with these words; "" without any."""
    if not words:
        return ""
    listed = ", ".join(f"“{word}”" for word in words)
    return f"No training question has {listed}: the answer may be confident and mean nothing."


def _words(questions: Iterable[str]) -> list[str]:
    return [w for question in questions for w in re.findall(r"[^\W\d_]+", question.casefold())]
