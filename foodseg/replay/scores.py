"""How far the methods get on the test questions, and where a run still fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.data.references import decode_mask
from foodseg.data.samples import Sample
from foodseg.evaluation.base_rows import ANY_FORM, KNOWLEDGE
from foodseg.evaluation.predictions import Prediction, load_predictions, load_result
from foodseg.presets import Preset
from foodseg.replay.runs import Run
from foodseg.report.baselines import BASELINES
from foodseg.report.failures import FOUND, first_of_each, iou, outcome
from foodseg.report.results import (
    ANY_FORM_TITLE,
    BOUND_TITLE,
    KNOWLEDGE_TITLE,
)

BASE = "base"


@dataclass(frozen=True)
class Bar:
    """A row's gIoU on the test questions; kind: base, trained or bound."""

    title: str
    kind: str
    giou: float


@dataclass(frozen=True, eq=False)
class Failure:
    """A test question that a run answers wrongly; kind: one of `report.failures.OUTCOMES`."""

    sample: Sample
    prediction: Prediction
    kind: str

    @property
    def mask(self) -> np.ndarray:
        return decode_mask(self.prediction.mask)

    @property
    def iou(self) -> float:
        return iou(self.prediction)


@dataclass(frozen=True, eq=False)
class Failures:
    """One of each kind; right: of so many `questions` those with the right foods and mask."""

    shown: list[Failure]
    right: int
    questions: int


def bars(preset: Preset, runs: Sequence[Run]) -> list[Bar]:
    """What was measured of the base, the runs, the supervised baselines and the bounds."""
    rows = [(BASE, "Base", "base"), (ANY_FORM, ANY_FORM_TITLE, "base")]
    seed = min((run.seed for run in runs), default=0)
    rows += [(f"{b.name}-seed{seed}", b.title, "trained") for b in BASELINES]
    rows += [(run.name, run.title, "trained") for run in runs if _of_its_adapter(preset, run)]
    rows += [(KNOWLEDGE, KNOWLEDGE_TITLE, "bound"), ("bound", BOUND_TITLE, "bound")]
    folders = [(preset.predictions_folder(row), *words) for row, *words in rows]
    measured = [(folder, *words) for folder, *words in folders if _has_result(folder)]
    return [Bar(title, kind, load_result(folder)["giou"]) for folder, title, kind in measured]


def failures(preset: Preset, run: Run, samples: Sequence[Sample]) -> Failures | None:
    """Where a run still fails among these test samples; None if it was not evaluated on them."""
    folder = preset.predictions_folder(run.name)
    if not _of_its_adapter(preset, run):
        return None
    predictions = load_predictions(folder)
    if [p.sample_id for p in predictions] != [sample.sample_id for sample in samples]:
        return None
    kinds = [outcome(*pair) for pair in zip(samples, predictions, strict=True)]
    first = first_of_each(samples, predictions)
    shown = [Failure(samples[i], predictions[i], kind) for kind, i in first.items()]
    return Failures(shown, kinds.count(FOUND), len(kinds))


def _has_result(folder) -> bool:
    return (folder / "result.json").exists()


def _of_its_adapter(preset: Preset, run: Run) -> bool:
    """Whether the run's predictions are those of the adapter that it has now."""
    folder = preset.predictions_folder(run.name)
    return _has_result(folder) and load_result(folder)["adapter"] == run.result["adapter"]
