"""What a supervised baseline is taught to write, and the masks that its words stand for.

No ground-truth reasoning exists, so the thinking is the data's own answer, without markup: it names
the foods, as LISA's and FoodLMM's training texts do, and it is what there is. A fixed sentence in
its place would teach the model to stop thinking, and no food would be named to be judged by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from foodseg.data.references import decode_mask
from foodseg.data.samples import Sample
from foodseg.models.mllm import VISION_TOKENS, Mllm
from foodseg.rl.answers import write_truth

SEG = "[SEG]"
# [SEG] takes a row of the vocabulary that no completion uses. LISA adds a row, and trains it with
# the whole embedding and head; here both are frozen, and tied. Qwen2.5-VL has 271 spare rows after
# its 151,665 tokens, but no text ever held one, so a frozen one can hardly win the arg max over the
# 270 others (our reading, not measured); the kitchen has none. This token's row is trained, as it
# closes every photo, and completions never hold it: to every other method it is banned.
SEG_TOKEN = "<|vision_end|>"

# LISA asks for a mask, and so in our words; the JSON that the presets' prompts ask for never comes.
SEG_TEMPLATE = "{question} Think, then answer with the mask."


@dataclass(frozen=True)
class Baseline:
    """One supervised method.

    write: (sample, side of the model image) -> target completion, `[SEG]` for the token.
    masks: sample -> bool (N, height, width), what each `[SEG]` of the target stands for; None for
    a method that writes references. template: the prompt's; None for the preset's. own: whether the
    targets are the base's own right answers (`supervised.own_answers`). nothing: learn `[]` from
    questions that nothing in the photo answers, too; without it a training leaves these out.

    Raises ValueError for `nothing` with masks or own answers, which would have nothing to learn.
    """

    name: str
    title: str
    write: Callable[[Sample, int], str]
    masks: Callable[[Sample], np.ndarray] | None = None
    template: str | None = None
    own: bool = False
    nothing: bool = False

    def __post_init__(self) -> None:
        if self.nothing and (self.masks or self.own):
            raise ValueError(
                f"{self.name!r}: nothing doesn't go with masks or own answers; leave one out."
            )


def write_references(sample: Sample, side: int) -> str:
    """The answer in the form that the reward asks for, in pixels of the model image."""
    return _completion(sample, write_truth(sample, side))


def write_own_answer(sample: Sample, side: int) -> str:
    """The completion that stands for the sample's answer, as it is."""
    return sample.answer


def write_one_token(sample: Sample, side: int) -> str:
    """One [SEG] for all that answers the question, as in LISA."""
    return _completion(sample, SEG)


def write_ingredient_tokens(sample: Sample, side: int) -> str:
    """One [SEG] after each reference's food, as in FoodLMM."""
    return _completion(sample, ", ".join(f"the {food} {SEG}" for food in sample.reference_foods))


def union_mask(sample: Sample) -> np.ndarray:
    """(1, height, width): the union over references."""
    return sample.union_mask()[None]


def reference_masks(sample: Sample) -> np.ndarray:
    """(N, height, width): one mask for each reference."""
    return np.stack([decode_mask(mask) for mask in sample.masks])


def _completion(sample: Sample, answer: str) -> str:
    return f"<think>{sample.answer}</think>\n<answer>{answer}</answer>"


SFT = Baseline("sft", "Supervised fine-tuning on references", write_references)
SFT_NOTHING = replace(
    SFT,
    name="sft-nothing",
    title="Supervised fine-tuning, “nothing here” is an answer",
    nothing=True,
)
SFT_OWN = Baseline("sft-own", "Fine-tuning on own right answers", write_own_answer, own=True)
LISA = Baseline("lisa", "LISA-style, one [SEG]", write_one_token, union_mask, SEG_TEMPLATE)
FOODLMM = Baseline(
    "lisa-ingredients",
    "LISA-style, one [SEG] for each ingredient (FoodLMM)",
    write_ingredient_tokens,
    reference_masks,
    SEG_TEMPLATE,
)


def seg_token_id(mllm: Mllm) -> int:
    """The id that stands for [SEG]."""
    return mllm.tokenizer.convert_tokens_to_ids(SEG_TOKEN)


def allow_seg(mllm: Mllm) -> None:
    """Let the model write [SEG], which is a banned vision token to every other method."""
    others = [token for token in VISION_TOKENS if token != SEG_TOKEN]
    mllm.banned_token_ids = mllm.tokenizer.convert_tokens_to_ids(others)


def to_tokens(mllm: Mllm, text: str) -> torch.Tensor:
    """Token ids (L,) of a target completion on the model's device, the end token last."""
    spelled = text.replace(SEG, SEG_TOKEN)
    ids = mllm.tokenizer(spelled, add_special_tokens=False)["input_ids"]
    return torch.tensor([*ids, mllm.eos_token_id], device=mllm.device)


def to_text(mllm: Mllm, tokens: torch.Tensor) -> str:
    """A completion's words, with [SEG] in them and without the end token."""
    kept = tokens[tokens != mllm.eos_token_id].tolist()
    return mllm.tokenizer.decode(kept).replace(SEG_TOKEN, SEG)
