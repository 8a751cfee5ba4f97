"""Generate, then segment, then measure: one row of the results table.

Greedy completions; references scaled from the model image to the original; for each, SAM2's best
mask of its box and point; the union over references. An answer that can't be parsed scores I = 0,
U = |GT|, and no sample is ever left out. Where nothing in the photo answers some of the questions,
`[]` is an answer, to any of them (`reads_nothing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from foodseg.common.progress import tqdm
from foodseg.data.photos import read_photo
from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.evaluation.predictions import (
    Prediction,
    compare,
    finished_result,
    prediction_of,
    save_predictions,
)
from foodseg.evaluation.unfinished import Unfinished, depends_on
from foodseg.models.mllm import Mllm
from foodseg.models.segmenter import ImageEmbedding, Segmenter
from foodseg.presets import Preset
from foodseg.rl.answers import Answer, parse_answer
from foodseg.rl.evidence import to_original
from foodseg.rl.named_foods import food_names, named_in_conclusion
from foodseg.system import one_thread, roll_out

# The value of that name, made by the function unless it is known: `Unfinished.once`.
Once = Callable[[str, Callable[[], Any]], Any]


def evaluate(
    preset: Preset,
    row: str,
    samples: Sequence[Sample],
    mllm: Mllm,
    segmenter: Segmenter,
    labelled: bool = False,
) -> dict:
    """Answer every sample and write predictions.jsonl and result.json of this row.

    An interrupted evaluation goes on where it stopped, and a finished one is not made again.
    labelled: see `rl.answers.parse_answer`.
    """
    start, known = time.perf_counter(), depends_on(preset, samples, __name__, mllm, segmenter)
    known |= {"labelled": labelled}
    if done := finished_result(preset.predictions_folder(row), known):
        return done
    kept = Unfinished(preset.predictions_folder(row), known)
    texts: list[str] = []
    for i in tqdm(range(0, len(samples), preset.evaluation_batch), f"{row}: answers"):
        batch = samples[i : i + preset.evaluation_batch]
        texts += kept.once(f"answers from {i} on", partial(_answer, mllm, preset, batch))
    nothing = reads_nothing(samples)
    answers = [parse_answer(text, labelled, nothing) for text in texts]
    pairs = zip(answers, samples, strict=True)
    references = [to_original(*pair, preset.image_side) for pair in pairs]
    predictions = segment(preset, row, samples, answers, references, segmenter, kept.once)
    seconds = kept.seconds + time.perf_counter() - start
    hashes = mllm.adapter_hash, segmenter.decoder_hash
    return save_predictions(preset, row, predictions, seconds, *hashes, known=known)


def reads_nothing(samples: Sequence[Sample]) -> bool:
    """Whether `[]` answers these questions: it does where it is right for one of them."""
    return any(sample.no_target for sample in samples)


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
    answers = [replace(parse_answer(s.answer), nothing=s.no_target) for s in samples]
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
    answer without masks is unparsed, unless it says that nothing fits. once: `Unfinished.once`,
    where an interrupted evaluation is to go on. On a CPU in one thread.
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
            parsed = len(masks) > 0 or answer.nothing
            rows.append(asdict(compare(sample, masks.any(axis=0), parsed, *said)))
        return rows

    predictions: dict[int, Prediction] = {}
    with one_thread(preset.device):
        for image, indices in tqdm(by_image.items(), f"{row}: masks"):
            rows = once(f"masks of {image}", partial(predict, image, indices))
            predictions |= zip(indices, map(prediction_of, rows), strict=True)
    return [predictions[index] for index in range(len(samples))]
