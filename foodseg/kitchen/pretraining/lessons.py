"""Questions and completions as token batches: what all stages but the first read.

A batch holds K exercises on each of B plates; the prompt up to the image's end, `Reader.prefix`, is
the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from foodseg.kitchen.knowledge import CLUES
from foodseg.kitchen.plates import FOOD_NUMBERS, KITCHEN_FOODS
from foodseg.kitchen.pretraining.answer_forms import Completion
from foodseg.kitchen.pretraining.answers import (
    FOOD_NAMES,
    write_answer,
    write_foods,
)
from foodseg.kitchen.pretraining.habits import Manner, draw_habits, draw_right
from foodseg.kitchen.pretraining.mllm import SIDE, VISUAL_TOKENS
from foodseg.kitchen.pretraining.mllm_plates import MOST_FOODS, Pictures
from foodseg.kitchen.pretraining.tokenizer import END_OF_TURN, IMAGE_TOKEN
from foodseg.kitchen.questions import TEMPLATES, Question, draw_question, split_of
from foodseg.models.prompts import KITCHEN, build_messages

LISTING_QUESTIONS = (
    "Which foods are on this plate?",
    "What is here?",
    "Tell me all that you see, and where.",
    "Please list every food on this plate together with its place.",
)
# Weights of next tokens: of a number's digits, and where one form parts from the others.
DIGIT_WEIGHTS = torch.tensor([3.0, 2.5, 1.0])
PIVOT_WEIGHT = 4.0
NAME_WEIGHT = 3.0  # of a food's name, and of what is looked for, in an answer
# Shares of the forms, and of errors in haste, in the tokenizer's texts, whatever the base's are:
# with another tokenizer every stage would have to be made again.
TEXT_FORMS = {"parseable": 0.18, "prose": 0.41, "fenced": 0.164, "untagged": 0.0984}
TEXT_FORMS |= {"fence inside": 0.0902, "bare": 0.0574}
TEXT_HASTE = 0.5
# A manner, from the number of foods on the plate.
Draw = Callable[[int, np.random.Generator], Manner]


@dataclass(frozen=True)
class Exercise:
    """A question and the completion to learn.

    asked: None for a listing. choices: whether its manner's choices are learnt, or the rest alone.
    """

    question: str
    completion: Completion
    asked: Question | None = None
    choices: bool = True


@dataclass(frozen=True)
class Batch:
    """E = B * K exercises, right-padded to L tokens."""

    tokens: torch.Tensor  # (E, L)
    weights: torch.Tensor  # (E, L) of the loss of predicting that token; 0 for prompt and padding
    facts: torch.Tensor  # (E, L) bool: tokens that say what it knows, digits and names
    anchors: dict[str, tuple[torch.Tensor, torch.Tensor]]  # kind: (exercise, place) indices
    references: dict[str, torch.Tensor]  # kind: (anchors, 6 or 1) in units of the image's side

    @property
    def lengths(self) -> torch.Tensor:
        """(E,) tokens of each exercise without its padding; a weight is on its last."""
        places = torch.arange(1, self.tokens.shape[1] + 1, device=self.tokens.device)
        return ((self.weights > 0) * places).amax(1)


def draw_answering(
    foods: np.ndarray,
    references: np.ndarray,
    many: bool,
    rng: np.random.Generator,
    draw: Draw,
) -> Exercise:
    """A training question about a row of `Pictures`, answered in a manner that `draw` gives.

    many: ask for several foods if the plate has such a question.
    """
    present = [KITCHEN_FOODS[number - 1] for number in foods if number]
    question = draw_question(present, "train", rng, many=many)
    manner = draw(len(present), rng)
    completion = write_answer(question, foods, references, manner, rng)
    return Exercise(question.text, completion, question, manner.choices)


def right(foods_on_plate: int, rng: np.random.Generator) -> Manner:
    """Right, in half of the cases without reasoning over the plate."""
    return draw_right(bool(rng.random() < 0.5), rng)


def careful(foods_on_plate: int, rng: np.random.Generator) -> Manner:
    """Right, step by step over the plate."""
    return draw_right(True, rng)


def draw_listing(foods: np.ndarray, references: np.ndarray, rng: np.random.Generator) -> Exercise:
    """Up to three foods of a plate in random order, as prose: many places for few tokens."""
    rows = rng.permutation(int((foods > 0).sum()))[:3]
    question = LISTING_QUESTIONS[int(rng.integers(len(LISTING_QUESTIONS)))]
    return Exercise(question, write_foods(rows, foods, references))


def tokenizer_texts() -> Iterator[str]:
    """Sentences to train the tokenizer on: training questions, hints, names, every manner."""
    rng = np.random.default_rng(0)
    yield "You are a helpful assistant.\nsystem\nuser\nassistant\n"
    for clue_index, clue in enumerate(CLUES):
        for index, template in enumerate(TEMPLATES):
            if split_of(index, clue_index) == "train":
                yield KITCHEN.format(question=template.ask(clue))
                yield _answer_somehow(clue_index, index, rng).text
    for name in FOOD_NAMES:
        yield from [f"The {name} lies at the {name} and the {name}"] * 40
    for question in LISTING_QUESTIONS:
        yield from [question] * 10


def _answer_somehow(clue: int, template: int, rng: np.random.Generator) -> Completion:
    """An answer in some manner, about places that no plate has."""
    right = rng.permutation(sorted(CLUES[clue].foods))[:2]
    others = rng.permutation([food for food in KITCHEN_FOODS if food not in right])[:2]
    foods = np.zeros(MOST_FOODS, np.uint8)
    foods[: len(right) + 2] = FOOD_NUMBERS[[*right, *others]]
    references = rng.integers(0, SIDE, (MOST_FOODS, 6)).astype(np.float32)
    question = Question("", tuple(map(int, right)), template, clue)
    if rng.random() < 0.5:
        manner = replace(draw_habits(TEXT_FORMS, rng), haste=TEXT_HASTE)
    else:
        manner = draw_right(rng.random() < 0.7, rng)
    return write_answer(question, foods, references, manner, rng)


class Reader:
    """Turns exercises into token batches on a device."""

    def __init__(self, tokenizer: Qwen2Tokenizer, device: torch.device | str = "cpu") -> None:
        self.tokenizer, self.device = tokenizer, torch.device(device)
        head = self._prompt("")[0].replace(IMAGE_TOKEN, IMAGE_TOKEN * VISUAL_TOKENS)
        self.prefix = torch.tensor(tokenizer(head)["input_ids"], device=self.device)

    def _prompt(self, question: str) -> tuple[str, str]:
        """The prompt's text up to the end of the image, and from there on."""
        text = self.tokenizer.apply_chat_template(
            build_messages(question, KITCHEN), tokenize=False, add_generation_prompt=True
        )
        head, image_end, tail = text.partition("<|vision_end|>")
        return head, image_end + tail

    def name_tokens(self) -> list[list[int]]:
        """Token ids of each food's name as it stands within a sentence."""
        return self.tokenizer([f" {name}" for name in FOOD_NAMES])["input_ids"]

    def read(
        self, exercises: list[Exercise], references: np.ndarray, name_weight: float = 1.0
    ) -> Batch:
        """`references` (E, 6, 6): those of each exercise's plate, in pixels."""
        prompts = [self._prompt(one.question)[1] for one in exercises]
        wanted = [exercise.completion for exercise in exercises]
        completions = [one.text + END_OF_TURN * one.finished for one in wanted]
        prompts = self.tokenizer(prompts)["input_ids"]
        encoded = self.tokenizer(completions, return_offsets_mapping=True)
        rows = [a + b for a, b in zip(prompts, encoded["input_ids"], strict=True)]
        shape = len(rows), max(map(len, rows))
        tokens, weights = torch.full(shape, self.tokenizer.pad_token_id), torch.zeros(shape)
        facts = torch.zeros(shape, dtype=torch.bool)
        places: dict[str, list] = {"name": [], "box": [], "point": [], "value": []}
        for index, (exercise, row) in enumerate(zip(exercises, rows, strict=True)):
            completion, start = exercise.completion, len(prompts[index])
            token_of = start + _token_of_character(encoded["offset_mapping"][index])
            tokens[index, : len(row)] = torch.tensor(row)
            weights[index, start : len(row)] = 1.0
            for first, last in completion.numbers:
                weights[index, token_of[first:last]] = DIGIT_WEIGHTS[: last - first]
            for first, last in completion.names:
                weights[index, token_of[first:last]] = name_weight
            for first, last in (*completion.numbers, *completion.names):
                facts[index, token_of[first:last]] = True
            pivots = np.array(completion.pivots, int)
            # Last, and the token of the character before too, which may hold both (">I"): a share
            # is learnt as taught only if all alternatives weigh the same.
            choices = token_of[[*pivots, *(pivots - 1)]]
            weights[index, choices] = PIVOT_WEIGHT * exercise.choices
            facts[index, choices] = False
            for anchor in completion.anchors:
                pixels = references[index, anchor.row] if anchor.row is not None else anchor.values
                target = np.array(pixels, np.float32) / SIDE
                places[anchor.kind].append((index, token_of[anchor.place], target))
        tensors = (one.to(self.device) for one in (tokens, weights, facts))
        return Batch(*tensors, *self._stack(places))

    def _stack(self, places: dict[str, list]) -> tuple[dict, dict]:
        """A batch's anchors and references; kinds that don't occur are left out."""
        anchors, references = {}, {}
        for kind, found in places.items():
            if found:
                *at, targets = zip(*found, strict=True)
                anchors[kind] = tuple(torch.tensor(index, device=self.device) for index in at)
                references[kind] = torch.from_numpy(np.stack(targets)).to(self.device)
        return anchors, references


def _token_of_character(offsets: list[tuple[int, int]]) -> np.ndarray:
    owners = np.zeros(offsets[-1][1], int)
    for token, (first, last) in enumerate(offsets):
        owners[first:last] = token
    return owners


def draw_listings(reader: Reader, plates: Pictures, count: int, rng: np.random.Generator) -> Batch:
    """`count` listings of each plate, those of one plate side by side."""
    rows = zip(plates.foods, plates.references, strict=True)
    exercises = [draw_listing(*plate, rng) for plate in rows for _ in range(count)]
    return reader.read(exercises, plates.references.repeat(count, axis=0))


def draw_answers(
    reader: Reader,
    plates: Pictures,
    draws: Sequence[Draw],
    rng: np.random.Generator,
    many_share: float,
    begun: bool = False,
) -> Batch:
    """On each plate one answer in a manner of each of `draws`; begun: only their beginnings.

    many_share: chance that the whole batch asks for several foods, where plates have such a
    question. Asking alike keeps padding short.
    """
    many, exercises = bool(rng.random() < many_share), []
    for plate in zip(plates.foods, plates.references, strict=True):
        exercises += [draw_answering(*plate, many, rng, draw) for draw in draws]
    if begun:
        exercises = [replace(one, completion=one.completion.beginning()) for one in exercises]
    return reader.read(exercises, plates.references.repeat(len(draws), axis=0), NAME_WEIGHT)
