"""What a model card must say of the base model and of the data: names, licences, limits."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Base:
    """A base model.

    name: as the card's front matter names it. source: what `from_pretrained` takes. licence: the
    front matter's fields; terms: what whoever uses or passes on the adapter must know.
    """

    name: str
    source: str
    licence: dict[str, str]
    terms: str
    limits: tuple[str, ...] = ()


KITCHEN_BASE = Base(
    name="kitchen_mllm",
    source="foodseg/weights/kitchen_mllm",
    licence={"license": "apache-2.0"},
    terms="Apache-2.0, as the kit and the kitchen weights that ship with it (`kitchen_mllm`).",
    limits=(
        "The kitchen shows the method with a model of 4 million parameters and drawn plates. It "
        "is of no use on real photos, and its numbers can't be compared with the paper's.",
    ),
)

# The licence's text: sections 2 (non-commercial), 3 (a copy, a notice of changes, the attribution)
# and 4b ("Built with Qwen") of the Qwen RESEARCH LICENSE AGREEMENT of September 19, 2024.
QWEN_3B = Base(
    name="Qwen/Qwen2.5-VL-3B-Instruct",
    source="Qwen/Qwen2.5-VL-3B-Instruct",
    licence={
        "license": "other",
        "license_name": "qwen-research",
        "license_link": "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE",
    },
    terms="""\
**Built with Qwen.** The base model stands under the Qwen Research License, which this adapter, a
work derived from it, carries on: it may be used and passed on **for research and evaluation only,
not commercially**. Whoever passes it on gives along a
[copy of that agreement](https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE), says
what was changed (this card does: a LoRA adapter was trained, the base's own weights are untouched)
and keeps this notice: "Qwen is licensed under the Qwen RESEARCH LICENSE AGREEMENT, Copyright (c)
Alibaba Cloud. All Rights Reserved.\"""",
)

# By the last part of where the base was loaded from: a hub id, or a folder of that name.
_BASES = {"kitchen_mllm": KITCHEN_BASE, "Qwen2.5-VL-3B-Instruct": QWEN_3B}


def find_base(source: str) -> Base:
    """The base of that hub id or folder; of one that the kit doesn't know, the licence is open."""
    last = source.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if last in _BASES:
        return _BASES[last]
    is_folder = source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source
    name = last if is_folder else source
    return Base(
        name=name,
        source=name,
        licence={"license": "other"},
        terms=f"The licence of the base model, {name}, holds for this adapter too. The kit does "
        "not know it: look it up, and name it here before you pass the adapter on.",
    )


@dataclass(frozen=True)
class Data:
    """What was learnt from; names: as the card's front matter has them."""

    names: tuple[str, ...]
    title: str
    terms: str
    limits: tuple[str, ...] = field(default=())


KITCHEN_DATA = Data(
    names=("foodseg-kitchen",),
    title="FoodReasonSeg-Single, built from plates and questions that the kit draws itself",
    terms="Made by the kit (notebook 01), under the kit's licence, Apache-2.0.",
)
FOODREASONSEG = Data(
    names=("EduardoPacheco/FoodSeg103", "Yueha0/FoodReasonSeg"),
    title="FoodReasonSeg-Single, built from FoodSeg103 and FoodReasonSeg",
    # As foodseg/data/fetch/sources.py has it.
    terms="""\
FoodSeg103 (Wu et al. 2021, https://xiongweiwu.github.io/foodseg103.html) is released under
Apache-2.0 with its code; its photos come from Recipe1M, whose own terms go on holding for them.
FoodReasonSeg (Yin et al. 2023, https://huggingface.co/datasets/Yueha0/FoodReasonSeg) was written
with GPT-4 about these photos: its licence stands on that page. No photo and no question is part of
this adapter.""",
    limits=("It knows the 103 foods of FoodSeg103, photographed for recipes.",),
)


def find_data(preset: str) -> Data:
    """What the preset of that name learns from."""
    if preset in ("smoke", "kitchen", "dry-run"):
        return KITCHEN_DATA
    if preset == "paper":
        return FOODREASONSEG
    return Data(
        names=(),
        title=f"data of your own (preset {preset})",
        terms="The kit does not know its licence: name it here before you pass the adapter on.",
    )
