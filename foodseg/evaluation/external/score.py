"""Score the masks that another system predicted for the test questions, and keep them as a row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm
from foodseg.data.foodseg103 import FaultError
from foodseg.data.samples import Sample, load_samples
from foodseg.evaluation.external.entries import account, named
from foodseg.evaluation.external.masks import PredictedMasks, find_masks, read_mask
from foodseg.evaluation.external.rows import ExternalRow, check_row
from foodseg.evaluation.predictions import Prediction, compare, save_predictions
from foodseg.presets import Preset


def score(preset: Preset, path: Path, row: ExternalRow) -> dict:
    """Write predictions.jsonl and result.json of this row; returns the result.

    A question without a mask counts as an empty mask, and is named in the result. Raises DataError
    with every fault, and writes nothing, if any mask can't be used.
    """
    start = time.perf_counter()
    check_row(preset, row)
    samples = load_samples(preset.samples_file("test"))
    found = find_masks(path)
    predictions, many_valued = _compare(path, samples, found)
    masks = account(path, [s.sample_id for s in samples], found.entries.keys(), found.sha256)
    masks |= {"other_files": list(found.others), "many_valued": many_valued}
    seconds = time.perf_counter() - start
    # Which foods it means is not known: it handed in masks.
    more = row.fields | {"foods_right": None, "masks": masks}
    return save_predictions(preset, row.name, predictions, seconds, device="cpu", **more)


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
