"""Generate, then segment, then measure: one row of the results table.

Greedy completions; references scaled from the model image to the original; for each, SAM2's best
mask of its box and point; the union over references. An answer that can't be parsed scores I = 0,
U = |GT|, and no sample is ever left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foodseg.common.errors import DataError
from foodseg.common.files import (
    file_hash,
    load_json,
    read_lines,
    write_json,
    write_lines,
    writing,
)
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.data.photos import read_photo
from foodseg.data.references import Reference, encode_mask, intersection_union
from foodseg.data.samples import Sample
from foodseg.evaluation.metrics import measure
from foodseg.evaluation.unfinished import FILE, Unfinished, depends_on
from foodseg.models.mllm import Mllm
from foodseg.models.segmenter import ImageEmbedding, Segmenter
from foodseg.presets import Preset
from foodseg.rl.answers import Answer, parse_answer
from foodseg.rl.evidence import to_original
from foodseg.rl.named_foods import food_names, named_in_conclusion
from foodseg.system import one_thread, roll_out

# The value of that name, made by the function unless it is known: `Unfinished.once`.
Once = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Prediction:
    """One question answered. References and mask are in original-image pixels.

    image: the sample's, which names its plate: a plate's questions are no independent draws.
    parsed: whether there is any mask. foods_named: of `food_names`, those that the conclusion adds
    to the question's; foods_right: whether they are exactly the foods asked for. mask: COCO RLE of
    the union; intersection, union: pixels.
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


def evaluate(
    preset: Preset,
    row: str,
    samples: Sequence[Sample],
    mllm: Mllm,
    segmenter: Segmenter,
    labelled: bool = False,
) -> dict:
    """Answer every sample and write predictions.jsonl and result.json of this row.

    An interrupted evaluation goes on where it stopped. labelled: see `rl.answers.parse_answer`.
    """
    start, known = time.perf_counter(), depends_on(preset, samples, __name__, mllm, segmenter)
    known |= {"labelled": labelled}
    kept = Unfinished(preset.predictions_folder(row), known)
    texts: list[str] = []
    for i in tqdm(range(0, len(samples), preset.evaluation_batch), f"{row}: answers"):
        batch = samples[i : i + preset.evaluation_batch]
        texts += kept.once(f"answers from {i} on", partial(_answer, mllm, preset, batch))
    answers = [parse_answer(text, labelled) for text in texts]
    pairs = zip(answers, samples, strict=True)
    references = [to_original(*pair, preset.image_side) for pair in pairs]
    predictions = segment(preset, row, samples, answers, references, segmenter, kept.once)
    seconds = kept.seconds + time.perf_counter() - start
    hashes = mllm.adapter_hash, segmenter.decoder_hash
    return save_predictions(preset, row, predictions, seconds, *hashes)


def _answer(mllm: Mllm, preset: Preset, batch: Sequence[Sample]) -> list[str]:
    """Each sample's greedy completion."""
    rollouts = roll_out(mllm, preset, batch, group_size=1, temperature=0.0)
    return [rollout.texts[0] for rollout in rollouts]


def _make(name: str, value: Callable[[], Any]) -> Any:
    """Make a value, without keeping it as `Unfinished.once` does."""
    return value()


def evaluate_bound(preset: Preset, samples: Sequence[Sample], segmenter: Segmenter) -> dict:
    """The upper bound: the ground truth's own references, then SAM2."""
    start = time.perf_counter()
    answers = [parse_answer(sample.answer) for sample in samples]
    references = [sample.references for sample in samples]
    predictions = segment(preset, "bound", samples, answers, references, segmenter)
    return save_predictions(preset, "bound", predictions, time.perf_counter() - start)


def segment(
    preset: Preset,
    row: str,
    samples: Sequence[Sample],
    answers: Sequence[Answer],
    references: Sequence[tuple[Reference, ...]],
    segmenter: Segmenter,
    once: Once = _make,
) -> list[Prediction]:
    """SAM2's masks for each sample's references, compared with the truth; once: `segment_by`'s."""

    def masks_of(embedding: ImageEmbedding, index: int) -> np.ndarray:
        return segmenter.predict(embedding, references[index])

    predictions = segment_by(masks_of, preset, row, samples, answers, segmenter, once)
    pairs = zip(predictions, references, strict=True)
    return [replace(prediction, references=one) for prediction, one in pairs]


def segment_by(
    masks_of: Callable[[ImageEmbedding, int], np.ndarray],
    preset: Preset,
    row: str,
    samples: Sequence[Sample],
    answers: Sequence[Answer],
    segmenter: Segmenter,
    once: Once = _make,
) -> list[Prediction]:
    """The union of each answer's masks, compared with the truth; each photo is embedded once.

    masks_of: (the photo's embedding, index of the sample) -> bool (N, H, W) at the photo's size; an
    answer without masks is unparsed. once: `Unfinished.once`, where an interrupted evaluation is
    to go on. On a CPU in one thread.
    """
    names = food_names(samples)
    by_image: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        by_image.setdefault(sample.image, []).append(index)

    def predict(image: str, indices: list[int]) -> list[dict]:
        photo = read_photo(preset.dataset / image, samples[indices[0]].image_sha256)
        embedding, rows = segmenter.embed_image(photo.image), []
        for index in indices:
            masks, sample, answer = masks_of(embedding, index), samples[index], answers[index]
            said = answer.completion, named_in_conclusion(answer, sample, names)
            rows.append(asdict(compare(sample, masks.any(axis=0), len(masks) > 0, *said)))
        return rows

    predictions: dict[int, Prediction] = {}
    with one_thread(preset.device):
        for image, indices in tqdm(by_image.items(), f"{row}: masks"):
            rows = once(f"masks of {image}", partial(predict, image, indices))
            predictions |= zip(indices, map(_prediction, rows), strict=True)
    return [predictions[index] for index in range(len(samples))]


def compare(
    sample: Sample,
    mask: np.ndarray,
    parsed: bool,
    completion: str = "",
    foods: tuple[str, ...] = (),
) -> Prediction:
    """A predicted mask, bool (H, W) at the photo's size, compared with the truth."""
    intersection, union = intersection_union(mask, sample.union_mask())
    return Prediction(
        sample_id=sample.sample_id,
        image=sample.image,
        completion=completion,
        parsed=parsed,
        foods_named=foods,
        foods_right=set(foods) == set(sample.foods),
        references=(),
        mask=encode_mask(mask),
        intersection=intersection,
        union=union,
    )


def summarise(predictions: Sequence[Prediction]) -> dict:
    """Metrics with bootstrap intervals, parse rate, share of answers that name the right foods."""
    counts = [p.intersection for p in predictions], [p.union for p in predictions]
    metrics = measure(*counts, [p.image for p in predictions])
    return asdict(metrics) | {
        "parse_rate": float(np.mean([p.parsed for p in predictions])),
        "foods_right": float(np.mean([p.foods_right for p in predictions])),
    }


def save_predictions(
    preset: Preset,
    row: str,
    predictions: list[Prediction],
    seconds: float,
    adapter: str | None = None,
    decoder: str | None = None,
    device: str | None = None,
    **more: Any,
) -> dict:
    """Write predictions.jsonl and result.json of this row; returns the result.

    seconds: what answering took. adapter, decoder: hashes of trained weights, None for the base's
    own. device: what it ran on, if not the preset's. more: goes into the result.
    """
    folder = preset.predictions_folder(row)
    # The result is removed first and written last: if it is there, the predictions are its own.
    with writing(folder / "result.json"):
        (folder / "result.json").unlink(missing_ok=True)
    result = {"preset": preset.name, "row": row, "adapter": adapter, "decoder": decoder}
    result |= summarise(predictions) | more
    result |= {"seconds": round(seconds, 1), **provenance(device or preset.device)}
    write_lines(folder / "predictions.jsonl", [asdict(p) for p in predictions])
    result["predictions"] = file_hash(folder / "predictions.jsonl")
    write_json(folder / "result.json", result)
    with writing(folder / FILE):
        (folder / FILE).unlink(missing_ok=True)
    return load_result(folder)


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
        predictions.append(_prediction(row))
    return predictions


def _prediction(row: dict) -> Prediction:
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
