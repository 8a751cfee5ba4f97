"""Score what another system predicted for the test questions, and keep it as a row."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.files import write_json, write_lines
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.data.foodseg103 import FaultError, Problem
from foodseg.data.references import encode_mask, intersection_union
from foodseg.data.samples import Sample, load_samples
from foodseg.evaluation.evaluate import Prediction, load_result, summarise
from foodseg.evaluation.external.masks import PredictedMasks, find_masks, read_mask
from foodseg.evaluation.external.rows import ExternalRow, check_row
from foodseg.presets import Preset

NAMED = 20  # of a long list; result.json has all


@dataclass(frozen=True)
class _Scored:
    predictions: list[Prediction]
    many_valued: tuple[str, ...]  # sample ids whose PNG has more than two values
    problems: tuple[Problem, ...]


def score(preset: Preset, path: Path, row: ExternalRow) -> dict:
    """Write predictions.jsonl and result.json of this row; returns the result.

    A question without a mask counts as an empty mask, and is named in the result. Raises DataError
    with every fault, and writes nothing, if a mask can't be used, odd-sized ones included: a
    number that rests on half of what a system predicted is nobody's.
    """
    start = time.perf_counter()
    check_row(preset, row)
    samples = load_samples(preset.samples_file("test"))
    found = find_masks(path)
    if not found.entries.keys() & {sample.sample_id for sample in samples}:
        raise DataError(
            f"{path}: none of its {len(found.entries)} masks is named after a test question of "
            f"preset {preset.name}; name them <sample_id>, as in {samples[0].sample_id}."
        )
    scored = _compare(samples, found)
    if problems := [*found.problems, *scored.problems]:
        raise DataError(
            f"{path}: {len(problems)} masks can't be used, so none was scored:\n"
            f"{named(problems, chr(10))}"
        )
    masks = _account(samples, found, scored) | {"source": path.resolve().name}
    return _save(preset, row, scored.predictions, masks, time.perf_counter() - start)


def _compare(samples: Sequence[Sample], found: PredictedMasks) -> _Scored:
    predictions, many_valued, problems = [], [], []
    for sample in tqdm(samples, "masks"):
        mask, given = np.zeros((sample.height, sample.width), dtype=bool), False
        if sample.sample_id in found.entries:
            try:
                mask, many = read_mask(found.entries[sample.sample_id], sample.size)
            except FaultError as fault:
                problems.append(fault.problem)
                continue
            given = True
            if many:
                many_valued.append(sample.sample_id)
        predictions.append(_prediction(sample, mask, given))
    return _Scored(predictions, tuple(many_valued), tuple(problems))


def _prediction(sample: Sample, mask: np.ndarray, given: bool) -> Prediction:
    intersection, union = intersection_union(mask, sample.union_mask())
    return Prediction(
        sample_id=sample.sample_id,
        completion="",
        parsed=given,
        foods_named=(),
        foods_right=False,
        references=(),
        mask=encode_mask(mask),
        intersection=intersection,
        union=union,
    )


def _account(samples: Sequence[Sample], found: PredictedMasks, scored: _Scored) -> dict:
    known = {sample.sample_id for sample in samples}
    return {
        "given": len(known & found.entries.keys()),
        "missing": [s.sample_id for s in samples if s.sample_id not in found.entries],
        "unknown": sorted(found.entries.keys() - known),
        "other_files": list(found.others),
        "many_valued": list(scored.many_valued),
        "sha256": found.sha256,
    }


def _save(
    preset: Preset, row: ExternalRow, predictions: list[Prediction], masks: dict, seconds: float
) -> dict:
    folder = preset.predictions_folder(row.name)
    # The result is written last and taken away first: with it, the predictions are its own.
    (folder / "result.json").unlink(missing_ok=True)
    result = {"preset": preset.name, "row": row.name, "system": row.system}
    result |= {"protocol": row.protocol, "adapter": None, "decoder": None}
    # Which foods the system named isn't known: it handed in masks.
    result |= summarise(predictions) | {"foods_right": None, "masks": masks}
    result |= {"seconds": round(seconds, 1), **provenance("cpu")}
    write_lines(folder / "predictions.jsonl", [asdict(p) for p in predictions])
    write_json(folder / "result.json", result)
    return load_result(folder)


def describe(result: dict) -> str:
    """The scored row as a table of one line, and by name what was missing or odd."""
    numbers = [
        f"{result[name]:.3f} [{low:.3f}, {high:.3f}]"
        for name, (low, high) in (
            ("giou", result["giou_interval"]),
            ("ciou", result["ciou_interval"]),
        )
    ]
    masks = result["masks"]
    given = f"{masks['given']} of {result['samples']}"
    cells = [result["row"], result["system"], result["protocol"], given, *numbers]
    lines = [
        "| row | system | protocol | masks | gIoU [95%] | cIoU [95%] |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        f"| {' | '.join(cells)} |",
    ]
    notes = (
        ("missing", "questions have no mask and count as empty"),
        ("unknown", "masks are named after no test question and were left out"),
        ("many_valued", "masks have more than two values; all but 0 are foreground"),
        ("other_files", "files are no masks and were left out"),
    )
    for key, what in notes:
        if masks[key]:
            lines.append(f"{len(masks[key])} {what}: {named(masks[key])}.")
    return "\n".join(lines)


def named(items: Iterable[object], separator: str = ", ") -> str:
    """The first of a long list by name, and how many more there are."""
    texts = [str(item) for item in items]
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return separator.join(texts[:NAMED] + more)
