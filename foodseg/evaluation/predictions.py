"""One question's prediction, a row's predictions and its result: compared, summarised, kept.

No model is loaded or imported here, so that masks from elsewhere are scored without waiting for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.files import (
    file_hash,
    load_json,
    read_lines,
    sha256,
    write_json,
    write_lines,
    writing,
)
from foodseg.common.provenance import provenance
from foodseg.data.references import Reference, encode_mask, intersection_union, mask_area
from foodseg.data.samples import Sample
from foodseg.evaluation.intervals import difference_interval
from foodseg.evaluation.metrics import ciou, giou, giou_sums, measure
from foodseg.evaluation.unfinished import FILE
from foodseg.presets import Preset


@dataclass(frozen=True)
class Prediction:
    """One question answered. References and mask are in original-image pixels.

    image: the sample's, which names its plate: a plate's questions are no independent draws.
    parsed: whether there is any mask. foods_named: of `food_names`, those that the conclusion adds
    to the question's; foods_right: whether they are exactly the foods asked for, and where nothing
    is asked for whether it says so. mask: COCO RLE of the union; intersection, union: pixels.
    no_target: nothing in the photo answers the question; a prediction that says so is written down
    as one pixel found of one, IoU 1, and moves cIoU by no more than that pixel; any other has no
    intersection.
    """

    sample_id: str
    image: str
    completion: str
    parsed: bool
    foods_named: tuple[str, ...]
    foods_right: bool
    references: tuple[Reference, ...]
    mask: dict
    intersection: int
    union: int
    no_target: bool = False

    @property
    def marks_nothing(self) -> bool:
        """Whether it says that nothing answers the question: `[]`, or a mask that is empty."""
        return self.parsed and mask_area(self.mask) == 0


Run = Sequence[Prediction]


def compare(
    sample: Sample,
    mask: np.ndarray,
    parsed: bool,
    completion: str = "",
    foods: tuple[str, ...] = (),
) -> Prediction:
    """A predicted mask, bool (H, W) at the photo's size, compared with the truth."""
    right_nothing = sample.no_target and parsed and not mask.any()
    intersection, union = (1, 1) if right_nothing else intersection_union(mask, sample.union_mask())
    return Prediction(
        sample_id=sample.sample_id,
        image=sample.image,
        completion=completion,
        parsed=parsed,
        foods_named=foods,
        foods_right=right_nothing if sample.no_target else set(foods) == set(sample.foods),
        references=(),
        mask=encode_mask(mask),
        intersection=intersection,
        union=union,
        no_target=sample.no_target,
    )


def summarise(predictions: Sequence[Prediction]) -> dict:
    """The metrics of `scores` with bootstrap intervals, and its shares."""
    metrics = measure(*_areas(predictions), [p.image for p in predictions])
    return asdict(metrics) | _shares(predictions)


def scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    """gIoU, cIoU, parse rate, share of answers that name the right foods.

    Where some questions have no target, gRefCOCO's two accuracies (arXiv:2306.00968) as well:
    n_acc, the share of these that are answered so, t_acc, the share of the others that are not.
    """
    areas = _areas(predictions)
    return {"giou": giou(*areas), "ciou": ciou(*areas)} | _shares(predictions)


def _areas(predictions: Sequence[Prediction]) -> tuple[list[int], list[int]]:
    return [p.intersection for p in predictions], [p.union for p in predictions]


def _shares(predictions: Sequence[Prediction]) -> dict[str, float]:
    return {
        "parse_rate": float(np.mean([p.parsed for p in predictions])),
        "foods_right": float(np.mean([p.foods_right for p in predictions])),
        **_nothing_accuracies(predictions),
    }


def _nothing_accuracies(predictions: Sequence[Prediction]) -> dict[str, float]:
    if not any(p.no_target for p in predictions):
        return {}
    said = {
        no_target: [p.marks_nothing for p in predictions if p.no_target == no_target]
        for no_target in (True, False)
    }
    t_acc = 1 - float(np.mean(said[False])) if said[False] else float("nan")
    return {"no_target": len(said[True]), "n_acc": float(np.mean(said[True])), "t_acc": t_acc}


def counts(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Intersections and unions, int (runs, questions), and the plate of each question."""
    pairs = np.array([[(p.intersection, p.union) for p in run] for run in runs])
    return pairs[..., 0], pairs[..., 1], [p.image for p in runs[0]]


def paired_difference(runs: Sequence[Run], others: Sequence[Run]) -> tuple[float, float, float]:
    """gIoU of one method's runs less that of another's: mean, and its 95% interval.

    Over plates, the same for both, and each method's seeds; both must have answered the same
    questions. A single run counts as a method without seeds.
    """
    row, other = giou_sums(*counts(runs)), giou_sums(*counts(others))
    return float(row.scores.mean() - other.scores.mean()), *difference_interval(row, other)


def save_predictions(
    preset: Preset,
    row: str,
    predictions: list[Prediction],
    seconds: float,
    adapter: str | None = None,
    decoder: str | None = None,
    device: str | None = None,
    known: dict | None = None,
    **more: Any,
) -> dict:
    """Write predictions.jsonl and result.json of this row; returns the result.

    seconds: what answering took. adapter, decoder: hashes of trained weights, None for the base's
    own. device: what it ran on, if not the preset's. known: all that decides the predictions, for
    `finished_result`. more: goes into the result.
    """
    folder = preset.predictions_folder(row)
    # The result is removed first and written last: if it is there, the predictions are its own.
    with writing(folder / "result.json"):
        (folder / "result.json").unlink(missing_ok=True)
    result = {"preset": preset.name, "row": row, "adapter": adapter, "decoder": decoder}
    result |= summarise(predictions) | more
    result |= {"seconds": round(seconds, 1), **provenance(device or preset.device)}
    write_lines(folder / "predictions.jsonl", map(_as_row, predictions))
    result["predictions"] = file_hash(folder / "predictions.jsonl")
    result |= {"depends_on": _digest(known)} if known else {}
    write_json(folder / "result.json", result)
    with writing(folder / FILE):
        (folder / FILE).unlink(missing_ok=True)
    return load_result(folder)


def finished_result(folder: Path, known: dict) -> dict | None:
    """The folder's result if it is of these very conditions and its predictions are whole."""
    if not (folder / "result.json").exists():
        return None
    result, answers = load_result(folder), folder / "predictions.jsonl"
    if result.get("depends_on") != _digest(known) or not answers.exists():
        return None
    return result if file_hash(answers) == result["predictions"] else None


def _digest(known: dict) -> str:
    return sha256(json.dumps(known).encode())


def _as_row(prediction: Prediction) -> dict:
    """Its fields; no_target only where it is so, as it is in few data."""
    row = asdict(prediction)
    return row if row.pop("no_target") is False else row | {"no_target": True}


def load_predictions(folder: Path) -> list[Prediction]:
    """The predictions that `evaluate` wrote to the folder.

    Raises DataError if another version did, or if the file was cut or changed since.
    """
    file, predictions = folder / "predictions.jsonl", []
    known = load_result(folder) if (folder / "result.json").exists() else {}
    if known.get("predictions", file_hash(file)) != file_hash(file):
        fix = "remove result.json beside it and evaluate this row again"
        raise DataError(f"{file}: it was cut or changed after it was written; {fix}.")
    for row in read_lines(file):
        if "image" not in row:
            fix = "another version wrote it; evaluate this row again or remove its folder"
            raise DataError(f"{folder.name}/predictions.jsonl: field image is missing: {fix}.")
        predictions.append(prediction_of(row))
    return predictions


def prediction_of(row: dict) -> Prediction:
    """From its fields as JSON has them, without tuples."""
    references = tuple(
        Reference(
            *(tuple(one[part]) for part in ("box", "point")),
            tuple(map(tuple, one.get("more", ()))),
        )
        for one in row["references"]
    )
    return Prediction(**row | {"foods_named": tuple(row["foods_named"]), "references": references})


def load_result(folder: Path) -> dict:
    """The result that `evaluate` wrote to the folder."""
    return load_json(folder / "result.json")
