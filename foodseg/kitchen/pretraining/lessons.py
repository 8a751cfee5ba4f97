"""Questions and completions as token batches: what stages 2 and 3 of the curriculum read.

A batch holds K exercises on each of B plates. The prompt up to the image is the same for all, so
it is read once a plate and its keys and values serve all K exercises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from foodseg.data.foodseg103 import CATEGORIES
from foodseg.kitchen.plates import KITCHEN_FOODS
from foodseg.kitchen.pretraining.answers import (
    FORMS,
    Completion,
    draw_form,
    draw_thought,
    write_completion,
)
from foodseg.kitchen.pretraining.mllm import SIDE, VISUAL_TOKENS
from foodseg.kitchen.pretraining.pictures import Pictures
from foodseg.kitchen.pretraining.tokenizer import END_OF_TURN, IMAGE_TOKEN
from foodseg.kitchen.questions import CLUES, MAX_ANSWERS, TEMPLATES, split_of
from foodseg.models.prompts import KITCHEN, build_messages

FOOD_NAMES = tuple(CATEGORIES[food] for food in KITCHEN_FOODS)
LISTING_QUESTIONS = (
    "Which foods are on this plate?",
    "What is here?",
    "Tell me all that you see, and where.",
    "Please list every food on this plate together with its place.",
)
MANY_SHARE = 0.4  # of the questions on plates that have one with several answers, as in the data


@dataclass(frozen=True)
class Exercise:
    """A question, the completion to learn, and the plate's foods that it refers to, in order."""

    question: str
    completion: Completion
    rows: tuple[int, ...]  # of the plate's foods and references
    template: int  # index into TEMPLATES; -1: a listing


@dataclass(frozen=True)
class Batch:
    """E = B * K exercises, right-padded to L tokens."""

    prefix: torch.Tensor  # (P,) token ids up to the end of the image
    tokens: torch.Tensor  # (E, L)
    weights: torch.Tensor  # (E, L) of the loss of predicting that token; 0 for prompt and padding
    anchors: dict[str, tuple[torch.Tensor, torch.Tensor]]  # kind: (exercise, place) indices
    references: dict[str, torch.Tensor]  # kind: (anchors, 6 or 1) in units of the image's side


def draw_question(
    foods: np.ndarray, many: bool, rng: np.random.Generator
) -> tuple[int, int, frozenset[int]]:
    """Template, clue and answering class ids of a training question, shared out as in the data.

    many: ask for two or three foods if the plate has such a question.
    """
    present = {KITCHEN_FOODS[number - 1] for number in foods if number}
    fitting = [(clue, CLUES[clue].answers(present)) for clue in range(len(CLUES))]
    fitting = [(clue, answers) for clue, answers in fitting if 0 < len(answers) <= MAX_ANSWERS]
    several = [row for row in fitting if len(row[1]) > 1]
    one = [row for row in fitting if len(row[1]) == 1]
    pool = several if many and several else one
    clue, answers = pool[int(rng.integers(len(pool)))]
    phrasings = [
        index
        for index, template in enumerate(TEMPLATES)
        if template.fits(CLUES[clue], len(answers)) and split_of(index, clue) == "train"
    ]
    return phrasings[int(rng.integers(len(phrasings)))], clue, frozenset(answers)


def draw_answering(
    foods: np.ndarray, references: np.ndarray, many: bool, rng: np.random.Generator
) -> Exercise:
    """A training question about a plate, answered in a form drawn by its template's shares."""
    template, clue, answers = draw_question(foods, many, rng)
    rows = tuple(
        row for row, number in enumerate(foods) if number and KITCHEN_FOODS[number - 1] in answers
    )
    names = [FOOD_NAMES[foods[row] - 1] for row in rows]
    thought = draw_thought(CLUES[clue].hint, names, rng)
    completion = write_completion(draw_form(template, rng), thought, names, references[list(rows)])
    return Exercise(TEMPLATES[template].ask(CLUES[clue]), completion, rows, template)


def draw_listing(foods: np.ndarray, references: np.ndarray, rng: np.random.Generator) -> Exercise:
    """Up to three foods of a plate in random order, as prose: many places for few tokens."""
    rows = tuple(int(row) for row in rng.permutation(int((foods > 0).sum()))[:3])
    names = [FOOD_NAMES[foods[row] - 1] for row in rows]
    question = LISTING_QUESTIONS[int(rng.integers(len(LISTING_QUESTIONS)))]
    return Exercise(
        question, write_completion("prose", "", names, references[list(rows)]), rows, -1
    )


def tokenizer_texts() -> Iterator[str]:
    """Sentences to train the tokenizer on: training questions, hints, names, every form."""
    rng = np.random.default_rng(0)
    yield "You are a helpful assistant.\nsystem\nuser\nassistant\n"
    for clue_index, clue in enumerate(CLUES):
        names = [FOOD_NAMES[KITCHEN_FOODS.index(food)] for food in sorted(clue.foods)][:2]
        references = rng.integers(0, SIDE, (len(names), 6)).astype(np.float32)
        for index, template in enumerate(TEMPLATES):
            if split_of(index, clue_index) == "train":
                yield KITCHEN.format(question=template.ask(clue))
                thought = draw_thought(clue.hint, names, rng)
                form = FORMS[(index + clue_index) % len(FORMS)]
                yield write_completion(form, thought, names, references).text
    for name in FOOD_NAMES:
        yield from [f"The {name} lies at the {name} and the {name}"] * 40
    for question in LISTING_QUESTIONS:
        yield from [question] * 10


class Reader:
    """Turns exercises into token batches."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        self.tokenizer = tokenizer
        text = tokenizer.apply_chat_template(
            build_messages("", KITCHEN), tokenize=False, add_generation_prompt=True
        )
        head, self.tail = text.split("<|vision_end|>")
        head = head.replace(IMAGE_TOKEN, IMAGE_TOKEN * VISUAL_TOKENS)
        self.prefix = torch.tensor(tokenizer(head)["input_ids"])

    def name_tokens(self) -> list[list[int]]:
        """Token ids of each food's name as it stands within a sentence."""
        return self.tokenizer([f" {name}" for name in FOOD_NAMES])["input_ids"]

    def prompt_text(self, question: str) -> str:
        """The prompt's text after the image."""
        worded = KITCHEN.format(question=question)
        return f"<|vision_end|>{worded}{self.tail.removeprefix(KITCHEN.format(question=''))}"

    def read(self, exercises: list[Exercise], references: np.ndarray) -> Batch:
        """`references` (E, 6, 6): those of each exercise's plate, in pixels."""
        prompts = [self.prompt_text(exercise.question) for exercise in exercises]
        completions = [
            exercise.completion.text + END_OF_TURN * exercise.completion.finished
            for exercise in exercises
        ]
        prompt_ids = self.tokenizer(prompts)["input_ids"]
        encoded = self.tokenizer(completions, return_offsets_mapping=True)
        lengths = [len(a) + len(b) for a, b in zip(prompt_ids, encoded["input_ids"], strict=True)]
        shape = len(exercises), max(lengths)
        tokens = torch.full(shape, self.tokenizer.pad_token_id)
        weights = torch.zeros(shape)
        places: dict[str, list] = {"name": [], "box": [], "point": [], "value": []}
        for index, exercise in enumerate(exercises):
            start, end = len(prompt_ids[index]), lengths[index]
            tokens[index, :end] = torch.tensor(prompt_ids[index] + encoded["input_ids"][index])
            token_of = _token_of_character(encoded["offset_mapping"][index])
            weights[index, start:end] = 1.0
            for first, last in exercise.completion.numbers:
                for digit, place in enumerate(range(first, last)):
                    weights[index, start + token_of[place]] = (3.0, 2.5, 1.0)[digit]
            for place in exercise.completion.pivots:
                weights[index, start + token_of[place]] = 4.0
            for anchor in exercise.completion.anchors:
                row = exercise.rows[anchor.reference]
                place = start + token_of[anchor.place]
                columns = slice(None) if anchor.column is None else [anchor.column]
                target = references[index, row, columns] / SIDE
                places[anchor.kind].append((index, place, target))
        anchors, targets = _stack_places(places)
        return Batch(self.prefix, tokens, weights, anchors, targets)


def _token_of_character(offsets: list[tuple[int, int]]) -> list[int]:
    owners = [0] * offsets[-1][1]
    for token, (first, last) in enumerate(offsets):
        owners[first:last] = [token] * (last - first)
    return owners


def _stack_places(places: dict[str, list]):
    anchors, targets = {}, {}
    for kind, rows in places.items():
        if not rows:
            continue
        anchors[kind] = tuple(torch.tensor([row[i] for row in rows]) for i in (0, 1))
        targets[kind] = torch.from_numpy(np.stack([row[2] for row in rows]))
    return anchors, targets


def draw_batch(
    reader: Reader, plates: Pictures, listings: int, answers: int, rng: np.random.Generator
) -> Batch:
    """`listings` + `answers` exercises on each plate, those of one plate side by side.

    A whole batch asks for one food or for several, so that little of it is padding.
    """
    exercises, many = [], rng.random() < MANY_SHARE
    for foods, references in zip(plates.foods, plates.references, strict=True):
        exercises += [draw_listing(foods, references, rng) for _ in range(listings)]
        exercises += [draw_answering(foods, references, many, rng) for _ in range(answers)]
    return reader.read(exercises, plates.references.repeat(listings + answers, axis=0))


def draw_beginnings(
    reader: Reader, plates: Pictures, count: int, rng: np.random.Generator
) -> Batch:
    """The beginnings of `count` answers on each plate: many questions for few tokens."""
    exercises, many = [], rng.random() < MANY_SHARE
    for foods, references in zip(plates.foods, plates.references, strict=True):
        whole = [draw_answering(foods, references, many, rng) for _ in range(count)]
        exercises += [replace(part, completion=part.completion.beginning()) for part in whole]
    return reader.read(exercises, plates.references.repeat(count, axis=0))
