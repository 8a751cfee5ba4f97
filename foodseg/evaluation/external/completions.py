"""Score what another model wrote for the test questions: two readings, a row of each.

The preset's SAM2 draws the masks of its boxes and points, as for every row of the kit's own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import file_hash
from foodseg.data.samples import Sample, load_samples
from foodseg.evaluation.evaluate import reads_nothing, segment
from foodseg.evaluation.external.entries import account, by_sample, named, read_entries
from foodseg.evaluation.external.readings import Reading
from foodseg.evaluation.external.rows import ExternalRow, check_row, rows_of_readings
from foodseg.evaluation.predictions import Prediction, save_predictions
from foodseg.presets import Preset
from foodseg.rl.answers import Answer, parse_answer
from foodseg.rl.evidence import to_original
from foodseg.rl.habits import FAILURES, failure_kind
from foodseg.system import load_segmenter


def score_completions(preset: Preset, path: Path, row: ExternalRow, reading: Reading) -> list[dict]:
    """Write predictions.jsonl and result.json of <row>-strict and <row>-lenient; returns both.

    A question without a completion counts as one that can't be read, and is named in the results.
    Raises DataError, and writes nothing, if the file can't be used.
    """
    start = time.perf_counter()
    rows = rows_of_readings(row, str(reading))
    for one in rows:
        check_row(preset, one)
    samples = load_samples(preset.samples_file("test"))
    texts = read_completions(path)
    asked = [sample.sample_id for sample in samples]
    given = account(path, asked, texts.keys(), file_hash(path))
    said = [texts.get(name, "") for name in asked]
    readers, nothing = (parse_answer, reading.read), reads_nothing(samples)
    answers = [[read(text, nothing=nothing) for text in said] for read in readers]
    predictions = _segment(preset, row.name, samples, answers, reading)
    seconds, results = time.perf_counter() - start, []
    for one, read, run in zip(rows, answers, predictions, strict=True):
        told = [answer for answer, name in zip(read, asked, strict=True) if name in texts]
        more = one.fields | {"completions": given | {"failures": count_failures(told)}}
        results.append(save_predictions(preset, one.name, run, seconds, **more))
    return results


def _segment(
    preset: Preset,
    row: str,
    samples: list[Sample],
    answers: Sequence[list[Answer]],
    reading: Reading,
) -> tuple[list[Prediction], list[Prediction]]:
    """SAM2's masks of the strict and of the lenient answers; each photo is embedded once."""
    references = []
    for place, read in zip((to_original, reading.to_original), answers, strict=True):
        pairs = zip(read, samples, strict=True)
        references += [place(*pair, preset.image_side) for pair in pairs]
    together = [answer for read in answers for answer in read]
    segmenter = load_segmenter(preset)
    predictions = segment(preset, row, samples * 2, together, references, segmenter)
    return predictions[: len(samples)], predictions[len(samples) :]


def read_completions(path: Path) -> dict[str, str]:
    """Each question's completion by sample id, of JSON lines {"id": ..., "text": ...}.

    Raises DataError with every fault. This kit's own predictions.jsonl is read too.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give the completions as JSON lines.")
    fix = 'write {"id": sample id, "text": completion}'
    entries = read_entries(path, ["id", "sample_id"], ["text", "completion"])
    found, problems = by_sample(path, entries, str, fix)
    if problems:
        why = f"{len(problems)} completions can't be used, so none was scored"
        raise DataError(f"{path}: {why}:\n{named(problems, chr(10))}")
    return {name: text for name, (_, text) in found.items()}


def count_failures(answers: Sequence[Answer]) -> dict[str, int]:
    """How many of the answers fail in each way; kinds that don't occur are left out."""
    counts = Counter(map(failure_kind, answers))
    return {kind: counts[kind] for kind in FAILURES if counts[kind]}
