"""Score what another system predicted for the test questions, and keep it as a row."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.number_text import with_interval
from foodseg.common.progress import tqdm
from foodseg.data.foodseg103 import FaultError
from foodseg.data.samples import Sample, load_samples
from foodseg.evaluation.external.masks import PredictedMasks, find_masks, read_mask
from foodseg.evaluation.external.rows import ExternalRow, check_row
from foodseg.evaluation.predictions import Prediction, compare, save_predictions
from foodseg.presets import Preset

NAMED = 20  # of a long list; result.json has all


def score(preset: Preset, path: Path, row: ExternalRow) -> dict:
    """Write predictions.jsonl and result.json of this row; returns the result.

    A question without a mask counts as an empty mask, and is named in the result. Raises DataError
    with every fault, and writes nothing, if any mask can't be used.
    """
    start = time.perf_counter()
    check_row(preset, row)
    samples = load_samples(preset.samples_file("test"))
    found = find_masks(path)
    asked = [sample.sample_id for sample in samples]
    if not found.problems and not found.entries.keys() & set(asked):
        why = f"none of its {len(found.entries)} masks is named after a test question of preset"
        fix = f"name them <sample_id>, as in {asked[0]}"
        raise DataError(f"{path}: {why} {preset.name}; {fix}.")
    predictions, many_valued = _compare(path, samples, found)
    account = {
        "given": len(found.entries.keys() & set(asked)),
        "missing": [sample_id for sample_id in asked if sample_id not in found.entries],
        "unknown": sorted(found.entries.keys() - set(asked)),
        "other_files": list(found.others),
        "many_valued": many_valued,
        "sha256": found.sha256,
        "source": path.resolve().name,
    }
    return save_predictions(
        preset,
        row.name,
        predictions,
        time.perf_counter() - start,
        device="cpu",
        system=row.system,
        protocol=row.protocol,
        foods_right=None,  # not known: it handed in masks
        masks=account,
    )


def _compare(
    path: Path, samples: Sequence[Sample], found: PredictedMasks
) -> tuple[list[Prediction], list[str]]:
    """The predictions, and the sample ids whose PNG has more than two values."""
    predictions, many_valued, problems = [], [], list(found.problems)
    for sample in tqdm(samples, "masks"):
        entry = found.entries.get(sample.sample_id)
        mask, many = np.zeros((sample.height, sample.width), dtype=bool), False
        try:
            if entry:
                mask, many = read_mask(entry, sample.size)
        except FaultError as fault:
            problems.append(fault.problem)
            continue
        many_valued += [sample.sample_id] * many
        predictions.append(compare(sample, mask, parsed=entry is not None))
    if problems:
        why = f"{len(problems)} masks can't be used, so none was scored"
        raise DataError(f"{path}: {why}:\n{named(problems, chr(10))}")
    return predictions, many_valued


def describe(result: dict) -> str:
    """The scored row as a table of one line, and by name what was missing or odd."""
    numbers = [with_interval(result[m], result[f"{m}_interval"]) for m in ("giou", "ciou")]
    masks = result["masks"]
    given = f"{masks['given']} of {result['samples']}"
    cells = [result["row"], result["system"], result["protocol"], given, *numbers]
    lines = [
        "| row | system | protocol | masks | gIoU [95%] | cIoU [95%] |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        f"| {' | '.join(cells)} |",
    ]
    notes = {
        "missing": "questions have no mask and count as empty",
        "unknown": "masks are named after no test question and were left out",
        "many_valued": "masks have more than two values; all but 0 are foreground",
        "other_files": "files are no masks and were left out",
    }
    for key, what in notes.items():
        if masks[key]:
            lines.append(f"{len(masks[key])} {what}: {named(masks[key])}.")
    return "\n".join(lines)


def named(items: Iterable[object], separator: str = ", ") -> str:
    """The first of a long list by name, and how many more there are."""
    texts = [str(item) for item in items]
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return separator.join(texts[:NAMED] + more)
