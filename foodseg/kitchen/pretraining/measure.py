"""What the kitchen's model can do, measured on plates and questions of its own validation.

Fresh plates (seeds from BASE_VALIDATION_SEEDS on) and training questions: test plates and test
questions stay unseen until the kit's own evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from foodseg.evaluation.any_form import read_any_form
from foodseg.kitchen.plates import FOOD_NUMBERS
from foodseg.kitchen.pretraining.answers import FOOD_NAMES
from foodseg.kitchen.pretraining.lessons import careful, draw_answering
from foodseg.kitchen.pretraining.mllm_plates import Pictures
from foodseg.kitchen.questions import MANY_SHARE
from foodseg.models.mllm import Mllm, Prompt
from foodseg.models.rollouts import sample_rollouts
from foodseg.presets import KITCHEN
from foodseg.rl.answers import parse_answer
from foodseg.rl.habits import habits
from foodseg.rl.named_foods import named_foods
from foodseg.rl.rewards import box_iou

AT_ONCE = 64  # completions


@dataclass(frozen=True)
class Trial:
    """A validation question, the plate's picture and what answers it."""

    question: str
    image: np.ndarray  # uint8 (168, 168, 3)
    names: tuple[str, ...]
    references: np.ndarray  # (foods, 6) in pixels


def draw_trials(pictures: Pictures, count: int, seed: int) -> list[Trial]:
    """`count` questions, plate after plate."""
    rng, trials = np.random.default_rng(seed), []
    for plate in np.arange(count) % len(pictures):
        foods, references = pictures.foods[plate], pictures.references[plate]
        many = bool(rng.random() < MANY_SHARE)
        exercise = draw_answering(foods, references, many, rng, careful)
        rows = np.flatnonzero(np.isin(foods, FOOD_NUMBERS[list(exercise.asked.foods)]))
        names = tuple(FOOD_NAMES[number - 1] for number in foods[rows])
        trials.append(Trial(exercise.question, pictures.images[plate], names, references[rows]))
    return trials


def complete(mllm: Mllm, prompts: Sequence[Prompt], temperature: float = 0.0) -> list[str]:
    """One completion of each prompt."""
    texts, options = [], {"max_new_tokens": KITCHEN.max_new_tokens, "temperature": temperature}
    for first in range(0, len(prompts), AT_ONCE):
        part = prompts[first : first + AT_ONCE]
        rollouts = sample_rollouts(mllm, part, group_size=1, seed=first, **options)
        texts += [rollout.texts[0] for rollout in rollouts]
    return texts


def measure(mllm: Mllm, pictures: Pictures, count: int) -> dict:
    """What greedy and sampled answers are like, as plain numbers."""
    trials = draw_trials(pictures, count, seed=0)
    seen = mllm.embed_images([Image.fromarray(trial.image) for trial in trials])
    prompts = mllm.embed_prompts([trial.question for trial in trials], seen)
    return {
        "questions": count,
        "greedy": describe(complete(mllm, prompts), trials),
        "sampled": describe(complete(mllm, prompts, temperature=1.0), trials),
    }


def describe(texts: Sequence[str], trials: Sequence[Trial]) -> dict[str, float | None]:
    """Parse rate, naming, places read in any form, and the share of answers with each habit.

    box_l1: the median over boxes of right foods of the mean absolute error, in pixels of 168.
    None: of no answer.
    """
    pairs = list(zip(texts, trials, strict=True))
    errors = [error for pair in pairs for error in box_errors(*pair)]
    kinds = [habits(text) for text in texts]
    right = np.array([set_of(text) == set(t.names) for text, t in pairs])
    several = np.array([len(trial.names) > 1 for trial in trials])
    steps = np.array([kind["step by step"] for kind in kinds])
    values = {
        "parsed": [parse_answer(text).parsed for text in texts],
        "named_right": right,
        "named_right_several": right[several],
        "named_right_step_by_step": right[steps],
        "named_right_hasty": right[~steps],
        "box_iou_any_form": [localisation(*pair) for pair in pairs],
    } | {kind: [one[kind] for one in kinds] for kind in kinds[0]}
    means = {name: round(float(np.mean(v)), 4) if len(v) else None for name, v in values.items()}
    return means | {"box_l1": round(float(np.median(errors)), 3) if errors else None}


def set_of(text: str) -> set[str]:
    """The foods that the thought settles on, whatever the form of the answer."""
    return set(named_foods(text, FOOD_NAMES))


def localisation(text: str, trial: Trial) -> float:
    """Mean box IoU over the references, boxes of any form taken in their order."""
    boxes = _boxes(text)[: len(trial.references)]
    return float(box_iou(boxes, trial.references[: len(boxes), :4]).trace() / len(trial.references))


def box_errors(text: str, trial: Trial) -> list[float]:
    """Mean absolute errors of the boxes of an answer that names the right foods."""
    boxes = _boxes(text)
    if set_of(text) != set(trial.names) or len(boxes) != len(trial.references):
        return []
    return np.abs(boxes - trial.references[:, :4]).mean(1).tolist()


def _boxes(text: str) -> np.ndarray:
    return np.array([one.box for one in read_any_form(text).objects], float).reshape(-1, 4)
