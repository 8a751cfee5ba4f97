"""The work of the CUDA benchmark: a random model in true sizes, drawn plates, long questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig

from foodseg.bench.work import SEED, Shape, ban_end_token
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.data.references import mask_to_reference
from foodseg.data.samples import Sample
from foodseg.kitchen.plates import draw_plate
from foodseg.models import prompts
from foodseg.models.mllm import Mllm
from foodseg.models.random_mllm import qwen2_5_vl_3b, random_mllm
from foodseg.models.rollouts import Rollout
from foodseg.presets import KITCHEN, PAPER, Preset
from foodseg.rl.groups import Group

ADAPTER_STD = 0.02


@dataclass(frozen=True)
class Setting:
    """One shape on one device. prompt_tokens: what questions are lengthened to, photo included.

    repeats: timed runs of each phase, after one that warms up; the median counts.
    """

    config: Qwen2_5_VLConfig
    shape: Shape
    image_side: int
    prompt_tokens: int
    lora_rank: int
    dtype: str
    device: str
    repeats: int

    def preset(self, updates: int = 1) -> Preset:
        """The paper's preset at this shape, with so many updates for each rollout."""
        return replace(
            PAPER,
            image_side=self.image_side,
            prompt_template=prompts.KITCHEN,
            lora_rank=self.lora_rank,
            lora_alpha=2 * self.lora_rank,
            prompts_per_step=self.shape.prompts,
            group_size=self.shape.group_size,
            max_new_tokens=self.shape.length,
            updates_per_rollout=updates,
            warmup_steps=0,
            dtype=self.dtype,
            device=self.device,
        )

    def facts(self) -> dict:
        """What a reader must know of the shape, as JSON values."""
        return {
            "prompts": self.shape.prompts,
            "group_size": self.shape.group_size,
            "completion_tokens": self.shape.length,
            "prompt_tokens": self.prompt_tokens,
            "image_side": self.image_side,
            "lora_rank": self.lora_rank,
            "dtype": self.dtype,
            "repeats": self.repeats,
        }


def true_setting() -> Setting:
    """Qwen2.5-VL-3B at the shape whose floor is known: 8 x 8, 840x840, 1,100 + 150 tokens."""
    shape = Shape(prompts=8, group_size=8, length=150, updates=1)
    return Setting(qwen2_5_vl_3b(), shape, 840, 1100, 64, "bfloat16", "cuda", repeats=5)


def build_unadapted(setting: Setting) -> Mllm:
    """The random model, without an adapter."""
    return random_mllm(
        setting.config,
        KITCHEN.mllm,
        setting.image_side,
        setting.device,
        getattr(torch, setting.dtype),
        SEED,
        prompts.KITCHEN,
    )


def build_policy(setting: Setting) -> Mllm:
    """The random model with an adapter that does something, and no way to end a completion."""
    mllm = build_unadapted(setting)
    mllm.add_lora(setting.lora_rank, 2 * setting.lora_rank, SEED)
    generator = torch.Generator(mllm.device).manual_seed(SEED)
    for parameter in mllm.lora_parameters():
        parameter.data.normal_(0, ADAPTER_STD, generator=generator)
    ban_end_token(mllm)
    return mllm


def build_samples(mllm: Mllm, setting: Setting, folder: Path) -> list[Sample]:
    """As many plates as a step has prompts, drawn, enlarged and written to `folder` as JPEG."""
    return [_build_sample(mllm, setting, folder, index) for index in range(setting.shape.prompts)]


def _build_sample(mllm: Mllm, setting: Setting, folder: Path, index: int) -> Sample:
    plate, side = draw_plate(index), setting.image_side
    path = folder / f"{index}.jpg"
    image = Image.fromarray(plate.image).resize((side, side), Image.Resampling.BICUBIC)
    image.save(path, quality=90)
    labels = np.asarray(Image.fromarray(plate.mask).resize((side, side), Image.Resampling.NEAREST))
    foods = tuple(CATEGORIES[food] for food in plate.foods)
    return Sample(
        sample_id=f"bench-{index}-0",
        dish_id=str(index),
        split="train",
        image=str(path.absolute()),
        width=side,
        height=side,
        question=_lengthen("Which food here is rich in iron?", mllm, setting.prompt_tokens),
        answer=", ".join(foods),
        foods=foods,
        references=tuple(mask_to_reference(labels == food) for food in plate.foods),
        reference_foods=foods,
        masks=(),
    )


def _lengthen(question: str, mllm: Mllm, tokens: int) -> str:
    """The question with words after it until its prompt has nearly so many tokens."""
    side = mllm.image_side // (mllm.image_processor.patch_size * mllm.image_processor.merge_size)
    photo = torch.zeros(side**2, mllm.model.config.text_config.hidden_size, device=mllm.device)
    [prompt] = mllm.embed_prompts([question], [photo])
    word = " please"
    pieces = len(mllm.tokenizer(word, add_special_tokens=False)["input_ids"])
    return question + word * max(0, (tokens - prompt.length) // pieces)


def open_photos(samples: Sequence[Sample]) -> list[Image.Image]:
    """The samples' photos, decoded."""
    photos = [Image.open(sample.image) for sample in samples]
    for photo in photos:
        photo.load()
    return photos


def answer_well(samples: Sequence[Sample], rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The same rollouts with parseable texts, since random tokens would cost no scoring."""
    return [
        replace(rollout, texts=(_perfect_answer(sample),) * len(rollout.texts))
        for sample, rollout in zip(samples, rollouts, strict=True)
    ]


def _perfect_answer(sample: Sample) -> str:
    objects = [{"bbox_2d": list(r.box), "point_2d": list(r.point)} for r in sample.references]
    return f"<think>All of them.</think>\n<answer>{json.dumps(objects)}</answer>"


def teach(groups: Sequence[Group]) -> list[Group]:
    """The same groups with rewards that differ, so that no group is skipped for want of signal."""
    return [
        replace(
            group,
            points=tuple(p | {"accuracy": float(i % 4)} for i, p in enumerate(group.points)),
        )
        for group in groups
    ]
