"""Rows that tell what the untrained base knows from the form in which it says it.

Beside the base as it is scored: its same answers read in any form; the best of several samples of
each question, which is what a reward could point out; the base asked as the parents' papers ask it;
and the base before its habits, its knowledge, which `evaluate` measures with
`system.load_knowledge`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from foodseg.common.progress import tqdm
from foodseg.data.photos import read_photo
from foodseg.data.references import sample_ious
from foodseg.data.samples import Sample
from foodseg.evaluation.any_form import read_any_form
from foodseg.evaluation.evaluate import reads_nothing, segment
from foodseg.evaluation.predictions import Prediction, finished_result, save_predictions
from foodseg.evaluation.unfinished import Unfinished, depends_on
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE
from foodseg.models.segmenter import Segmenter
from foodseg.presets import Preset
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import to_original
from foodseg.system import roll_out

# Of each question. With eight, a training group's, the kitchen's row took more than 40 seconds: of
# its 348 questions, sampling for 64 took 7.4 s of one core; with four it took 5.1 s.
SAMPLES = 4
ANY_FORM, BEST_OF, KNOWLEDGE = "base-any-form", f"base-best-of-{SAMPLES}", "knowledge"
PARENTS = "base-parents"


def evaluate_any_form(
    preset: Preset, samples: Sequence[Sample], completions: Sequence[str], segmenter: Segmenter
) -> dict:
    """The row of the base's own greedy completions, one a sample, read in any form."""
    start = time.perf_counter()
    answers = [read_any_form(text, nothing=reads_nothing(samples)) for text in completions]
    pairs = zip(answers, samples, strict=True)
    references = [to_original(*pair, preset.image_side) for pair in pairs]
    predictions = segment(preset, ANY_FORM, samples, answers, references, segmenter)
    return save_predictions(preset, ANY_FORM, predictions, time.perf_counter() - start)


def evaluate_best_of(
    preset: Preset, samples: Sequence[Sample], mllm: Mllm, segmenter: Segmenter
) -> dict:
    """The row of the best of SAMPLES completions of each question, by the IoU of its mask.

    Sampled at the trainings' temperature, read strictly. The result has the gIoU of a single one
    of them, `sampled_giou`: the mean over all.
    """
    start, known = time.perf_counter(), depends_on(preset, samples, __name__, mllm, segmenter)
    if done := finished_result(preset.predictions_folder(BEST_OF), known):
        return done
    kept = Unfinished(preset.predictions_folder(BEST_OF), known)
    texts = _sample_texts(preset, samples, mllm, kept)
    repeated = [sample for sample in samples for _ in range(SAMPLES)]
    answers = [parse_answer(text, nothing=reads_nothing(samples)) for text in texts]
    pairs = zip(answers, repeated, strict=True)
    references = [to_original(*pair, preset.image_side) for pair in pairs]
    predictions = segment(preset, BEST_OF, repeated, answers, references, segmenter, kept.once)
    best, mean = best_of(predictions)
    seconds = kept.seconds + time.perf_counter() - start
    return save_predictions(preset, BEST_OF, best, seconds, known=known, sampled_giou=mean)


def evaluate_parents(
    preset: Preset, samples: Sequence[Sample], mllm: Mllm, segmenter: Segmenter
) -> dict:
    """The row of the base asked by `preset.parents`, as Seg-Zero and VisionReasoner test.

    Their form of prompt in our words, the question in lower case and without its last mark; greedy
    under the repetition penalty of the model's own generation_config; photos resized bilinearly.
    The fifth difference, SAM 2.0, is the user's to choose (SEGMENTER=). The result has the penalty.
    """
    start, known = time.perf_counter(), depends_on(preset, samples, __name__, mllm, segmenter)
    penalty = mllm.model.generation_config.repetition_penalty or 1.0
    known |= {"parents": repr(preset.parents), "penalty": penalty}
    if done := finished_result(preset.predictions_folder(PARENTS), known):
        return done
    kept = Unfinished(preset.predictions_folder(PARENTS), known)
    texts = _parents_texts(preset, samples, mllm, penalty, kept)
    answers = [parse_answer(text, nothing=reads_nothing(samples)) for text in texts]
    pairs = zip(answers, samples, strict=True)
    references = [to_original(*pair, preset.image_side) for pair in pairs]
    predictions = segment(preset, PARENTS, samples, answers, references, segmenter, kept.once)
    seconds = kept.seconds + time.perf_counter() - start
    more = {"known": known, "repetition_penalty": penalty}
    return save_predictions(preset, PARENTS, predictions, seconds, **more)


def _parents_texts(
    preset: Preset, samples: Sequence[Sample], mllm: Mllm, penalty: float, kept: Unfinished
) -> list[str]:
    theirs = replace(preset, max_new_tokens=preset.parents.max_new_tokens)
    asked = [replace(s, question=s.question.lower().strip('."?!')) for s in samples]
    size = preset.image_side, preset.image_side

    def answer(first: int) -> list[str]:
        batch, photos = asked[first : first + preset.evaluation_batch], {}
        for sample in batch:
            photo = read_photo(preset.dataset / sample.image, sample.image_sha256).image
            photos[sample.image] = photo.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        options = {"photos": photos, "repetition_penalty": penalty}
        return [r.texts[0] for r in roll_out(mllm, theirs, batch, 1, 0.0, **options)]

    texts, own = [], mllm.template
    mllm.template = preset.parents.prompt_template
    try:
        for i in tqdm(range(0, len(asked), preset.evaluation_batch), f"{PARENTS}: answers"):
            texts += kept.once(f"answers from {i} on", partial(answer, i))
    finally:
        mllm.template = own
    return texts


def best_of(predictions: Sequence[Prediction]) -> tuple[list[Prediction], float]:
    """Of each question's SAMPLES predictions, which stand together, the best; the mean IoU of all.

    Of equal ones the first.
    """
    ious = sample_ious([p.intersection for p in predictions], [p.union for p in predictions])
    chosen = ious.reshape(-1, SAMPLES).argmax(axis=1)
    starts = np.arange(len(chosen)) * SAMPLES
    return [predictions[index] for index in starts + chosen], float(ious.mean())


def _sample_texts(
    preset: Preset, samples: Sequence[Sample], mllm: Mllm, kept: Unfinished
) -> list[str]:
    """SAMPLES completions of each question, one question's after another's."""

    def sample(first: int) -> list[str]:
        batch = samples[first : first + preset.evaluation_batch]
        rollouts = roll_out(mllm, preset, batch, SAMPLES, TEMPERATURE, seed=first)
        return [text for rollout in rollouts for text in rollout.texts]

    texts: list[str] = []
    for i in tqdm(range(0, len(samples), preset.evaluation_batch), f"{BEST_OF}: samples"):
        texts += kept.once(f"samples from {i} on", partial(sample, i))
    return texts
