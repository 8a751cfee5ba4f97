"""What the kitchen's base model can do, measured on plates and questions of its own validation.

Fresh plates (seeds from BASE_VALIDATION_SEEDS on) and training questions: test plates and test
questions stay unseen until the kit's own evaluation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from foodseg.evaluation.named_foods import named_foods
from foodseg.kitchen.pretraining.lessons import (
    FOOD_NAMES,
    MANY_SHARE,
    Exercise,
    Reader,
    draw_answering,
)
from foodseg.kitchen.pretraining.mllm import build_image_processor
from foodseg.kitchen.pretraining.pictures import Pictures
from foodseg.rl.answers import parse_answer

BOX = re.compile(r"[\[(](\d+), (\d+), (\d+), (\d+)[\])]")
CHUNK = 64
LONGEST = 160
LONGEST_THOUGHT = 40


@dataclass(frozen=True)
class Trial:
    """A validation question: its exercise, and which plate it is about."""

    exercise: Exercise
    plate: int


def draw_trials(pictures: Pictures, count: int, seed: int) -> list[Trial]:
    rng = np.random.default_rng(seed)
    trials = []
    for index in range(count):
        plate = index % len(pictures)
        foods, references = pictures.foods[plate], pictures.references[plate]
        many = bool(rng.random() < MANY_SHARE)
        trials.append(Trial(draw_answering(foods, references, many, rng), plate))
    return trials


@torch.no_grad()
def complete(
    model: Qwen2_5_VLForConditionalGeneration,
    reader: Reader,
    images: np.ndarray,
    texts: list[str],
    seed: int | None = None,
    longest: int = LONGEST,
) -> list[str]:
    """Continuations of prompts whose text after the image is `texts`; sampled if there is a seed.

    images: uint8 (N, 168, 168, 3). Goes through the official processor and `generate`.
    """
    completions = []
    if seed is not None:
        torch.manual_seed(seed)
    for first in range(0, len(texts), CHUNK):
        inputs = _pad_left(reader, texts[first : first + CHUNK], model.config.image_token_id)
        pixels = build_image_processor()(
            images=list(images[first : first + CHUNK]), do_resize=False, return_tensors="pt"
        )
        inputs = {name: part.to(model.device) for name, part in (inputs | dict(pixels)).items()}
        tokens = model.generate(
            **inputs, max_new_tokens=longest, do_sample=seed is not None, top_k=0, top_p=1.0
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        completions += reader.tokenizer.batch_decode(new, skip_special_tokens=True)
    return completions


def _pad_left(reader: Reader, texts: list[str], image_token: int) -> dict[str, torch.Tensor]:
    rows = [reader.prefix.tolist() + ids for ids in reader.tokenizer(texts)["input_ids"]]
    longest = max(map(len, rows))
    padding = reader.tokenizer.pad_token_id
    tokens = torch.tensor([[padding] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    types = (tokens == image_token).int()
    return {"input_ids": tokens, "attention_mask": mask, "mm_token_type_ids": types}


def box_iou(first, second) -> float:
    """IoU of two boxes x1, y1, x2, y2 of whole pixels, corners included."""
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [max(b[2] - b[0] + 1, 0) * max(b[3] - b[1] + 1, 0) for b in (first, second)]
    return shared / max(sum(areas) - shared, 1)


def localisation(text: str, references: np.ndarray) -> float:
    """Mean box IoU over the references, boxes in a completion of any form taken in their order."""
    boxes = [tuple(map(int, found)) for found in BOX.findall(text)]
    pairs = zip(boxes, references, strict=False)
    return sum(box_iou(box, reference) for box, reference in pairs) / len(references)


def measure(
    model: Qwen2_5_VLForConditionalGeneration, reader: Reader, pictures: Pictures, count: int
) -> dict:
    """Parse rates, naming and localisation of the model as it stands, as plain numbers."""
    trials = draw_trials(pictures, count, seed=0)
    images = pictures.images[[trial.plate for trial in trials]]
    prompts = [reader.prompt_text(trial.exercise.question) for trial in trials]
    greedy = complete(model, reader, images, prompts)
    sampled = complete(model, reader, images, prompts, seed=0)
    starts = [prompt + "<think>" for prompt in prompts]
    thoughts = complete(model, reader, images, starts, longest=LONGEST_THOUGHT)
    thoughts = [thought.split("</think>")[0] for thought in thoughts]
    opening = '</think>\n<answer>[{"bbox_2d": ['
    starts = [s + thought + opening for s, thought in zip(starts, thoughts, strict=True)]
    forced = ["[" + text for text in complete(model, reader, images, starts)]
    parsed = np.array([parse_answer(text).parsed for text in greedy])
    parsed_sampled = np.array([parse_answer(text).parsed for text in sampled])
    references = [pictures.references[trial.plate][list(trial.exercise.rows)] for trial in trials]
    scores = {
        name: np.array([localisation(*pair) for pair in zip(texts, references, strict=True)])
        for name, texts in (("greedy", greedy), ("sampled", sampled), ("forced", forced))
    }
    named = [
        _named_right(thought, trial, pictures)
        for thought, trial in zip(thoughts, trials, strict=True)
    ]
    single = np.array([len(row) == 1 for row in references])
    by_template = defaultdict(list)
    for trial, good in zip(trials, parsed, strict=True):
        by_template[trial.exercise.template].append(good)
    return {
        "questions": count,
        "greedy_parse_rate": _round(parsed),
        "greedy_parse_rate_by_template": {
            str(key): _round(by_template[key]) for key in sorted(by_template)
        },
        "sampled_parse_rate": _round(parsed_sampled),
        "named_right": _round(named),
        "box_iou_greedy_parsed": _round(scores["greedy"][parsed]),
        "box_iou_greedy_any_form": _round(scores["greedy"]),
        "box_iou_sampled_any_form": _round(scores["sampled"]),
        "box_iou_sampled_parsed": _round(scores["sampled"][parsed_sampled]),
        "box_iou_forced": _round(scores["forced"]),
        "box_iou_forced_one_food": _round(scores["forced"][single]),
        "box_iou_forced_several_foods": _round(scores["forced"][~single]),
        "box_giou_zero_shot": _round(scores["greedy"] * parsed),
    }


def _named_right(thought: str, trial: Trial, pictures: Pictures) -> bool:
    numbers = pictures.foods[trial.plate][list(trial.exercise.rows)]
    named = named_foods(f"<think>{thought}</think>", FOOD_NAMES)
    return set(named) == {FOOD_NAMES[number - 1] for number in numbers}


def _round(values) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
