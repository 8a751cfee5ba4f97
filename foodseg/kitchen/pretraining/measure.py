"""What the kitchen's base model can do, measured on plates and questions of its own validation.

Fresh plates (seeds from BASE_VALIDATION_SEEDS on) and training questions: test plates and test
questions stay unseen until the kit's own evaluation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from foodseg.kitchen.pretraining.lessons import FOOD_NAMES, MANY_SHARE, Exercise, draw_answering
from foodseg.kitchen.pretraining.mllm_plates import Pictures
from foodseg.models.mllm import Mllm, Prompt
from foodseg.models.rollouts import sample_rollouts
from foodseg.rl.answers import parse_answer
from foodseg.rl.named_foods import named_foods
from foodseg.rl.rewards import box_iou

BOX = re.compile(r"[\[(](\d+), (\d+), (\d+), (\d+)[\])]")
AT_ONCE = 64  # completions
LONGEST = 160  # tokens of a completion
LONGEST_THOUGHT = 40
OPENING = '</think>\n<answer>[{"bbox_2d": ['


@dataclass(frozen=True)
class Trial:
    """A validation question: its exercise, the plate's picture and what answers it."""

    exercise: Exercise
    image: np.ndarray  # uint8 (168, 168, 3)
    names: tuple[str, ...]
    references: np.ndarray  # (foods, 6) in pixels


def draw_trials(pictures: Pictures, count: int, seed: int) -> list[Trial]:
    rng = np.random.default_rng(seed)
    trials = []
    for plate in np.arange(count) % len(pictures):
        foods, references = pictures.foods[plate], pictures.references[plate]
        exercise = draw_answering(foods, references, bool(rng.random() < MANY_SHARE), rng)
        rows = list(exercise.rows)
        names = tuple(FOOD_NAMES[number - 1] for number in foods[rows])
        trials.append(Trial(exercise, pictures.images[plate], names, references[rows]))
    return trials


def complete(
    mllm: Mllm, prompts: Sequence[Prompt], longest: int = LONGEST, temperature: float = 0.0
) -> list[str]:
    """One completion of each prompt."""
    texts, options = [], {"max_new_tokens": longest, "temperature": temperature}
    for first in range(0, len(prompts), AT_ONCE):
        part = prompts[first : first + AT_ONCE]
        rollouts = sample_rollouts(mllm, part, group_size=1, seed=first, **options)
        texts += [rollout.texts[0] for rollout in rollouts]
    return texts


@torch.no_grad()
def begin(mllm: Mllm, prompt: Prompt, text: str) -> Prompt:
    """A prompt whose completion already has its first words."""
    ids = torch.tensor(mllm.tokenizer(text)["input_ids"], device=mllm.device)
    line = torch.arange(len(ids), device=mllm.device) + prompt.next_position
    return Prompt(
        torch.cat([prompt.input_ids, ids]),
        torch.cat([prompt.embeddings, mllm.embed_tokens(ids)]),
        torch.cat([prompt.position_ids, line.expand(3, -1)], dim=1),
    )


def localisation(text: str, references: np.ndarray) -> float:
    """Mean box IoU over the references, boxes in a completion of any form taken in their order."""
    boxes = np.array(BOX.findall(text), float).reshape(-1, 4)[: len(references)]
    return box_iou(boxes, references[: len(boxes), :4]).trace() / len(references)


def measure(mllm: Mllm, pictures: Pictures, count: int) -> dict:
    """Parse rates, naming and localisation of the model as it stands, as plain numbers.

    "forced": after the model's own thought, its answer is made to begin in the parseable form.
    """
    trials = draw_trials(pictures, count, seed=0)
    seen = mllm.embed_images([Image.fromarray(trial.image) for trial in trials])
    prompts = mllm.embed_prompts([trial.exercise.question for trial in trials], seen)
    greedy, sampled = complete(mllm, prompts), complete(mllm, prompts, temperature=1.0)
    thinking = [begin(mllm, prompt, "<think>") for prompt in prompts]
    thoughts = [text.split("</think>")[0] for text in complete(mllm, thinking, LONGEST_THOUGHT)]
    starts = [f"<think>{thought}{OPENING}" for thought in thoughts]
    forced = complete(mllm, [begin(mllm, *pair) for pair in zip(prompts, starts, strict=True)])
    parsed, parsed_sampled = (
        np.array([parse_answer(text).parsed for text in texts]) for texts in (greedy, sampled)
    )
    at_greedy, at_sampled, at_forced = (
        np.array([localisation(text, t.references) for text, t in zip(texts, trials, strict=True)])
        for texts in (greedy, sampled, ["[" + text for text in forced])
    )
    named = [
        set(named_foods(f"<think>{thought}</think>", FOOD_NAMES)) == set(trial.names)
        for thought, trial in zip(thoughts, trials, strict=True)
    ]
    one = np.array([len(trial.names) == 1 for trial in trials])
    by_template = defaultdict(list)
    for trial, good in zip(trials, parsed, strict=True):
        by_template[trial.exercise.template].append(good)
    values = {
        "greedy_parse_rate": parsed,
        "sampled_parse_rate": parsed_sampled,
        "named_right": named,
        "box_iou_greedy_parsed": at_greedy[parsed],
        "box_iou_greedy_any_form": at_greedy,
        "box_iou_sampled_any_form": at_sampled,
        "box_iou_sampled_parsed": at_sampled[parsed_sampled],
        "box_iou_forced": at_forced,
        "box_iou_forced_one_food": at_forced[one],
        "box_iou_forced_several_foods": at_forced[~one],
        "box_giou_zero_shot": at_greedy * parsed,
    }
    rates = {str(key): _mean(by_template[key]) for key in sorted(by_template)}
    means = {name: _mean(value) for name, value in values.items()}
    return {"questions": count, **means, "greedy_parse_rate_by_template": rates}


def _mean(values: Sequence) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
