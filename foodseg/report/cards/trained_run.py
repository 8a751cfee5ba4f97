"""A finished run's folder, read for its model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, load_json
from foodseg.evaluation.base_rows import ANY_FORM, KNOWLEDGE
from foodseg.models.mllm import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from foodseg.models.segmenter import DECODER, MASK_HEAD
from foodseg.presets import DRAWN, DRY_RUN


@dataclass(frozen=True)
class Base:
    """A base model; name and licence: as the card's front matter has them."""

    name: str
    source: str  # what `from_pretrained` takes
    licence: dict[str, str]


KITCHEN_BASE = Base("kitchen_mllm", "foodseg/weights/kitchen_mllm", {"license": "apache-2.0"})
QWEN_3B = Base(
    "Qwen/Qwen2.5-VL-3B-Instruct",
    "Qwen/Qwen2.5-VL-3B-Instruct",
    {
        "license": "other",
        "license_name": "qwen-research",
        "license_link": "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE",
    },
)
# By preset.
DATASETS = dict.fromkeys([DRY_RUN, *(preset.name for preset in DRAWN)], ("foodseg-kitchen",))
DATASETS["paper"] = ("EduardoPacheco/FoodSeg103", "Yueha0/FoodReasonSeg")
# What an adapter's results stand beside, in words.
REFERENCE_ROWS = {
    "base": "before any training",
    ANY_FORM: "its same answers, read in any form",
    KNOWLEDGE: "the base before it was taught its habits of answering",
    "bound": "SAM2, given the true boxes and points",
}


def find_base(source: str) -> Base:
    """The base of that hub id or folder; of one that the kit doesn't know, the licence is open."""
    last = source.replace("\\", "/").rstrip("/").rpartition("/")[2]
    for known in (KITCHEN_BASE, QWEN_3B):
        if last == known.name.rpartition("/")[2]:
            return known
    is_folder = source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source
    name = last if is_folder else source  # a folder's path says nothing to others
    return Base(name, name, {"license": "other"})


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its folder, its result (which holds its config) and its base.

    datasets: what it learnt from, as the front matter names it; empty for data of your own.
    evaluations: results as `evaluate` writes them, this adapter's first, then those REFERENCE_ROWS
    that answered as many questions; empty before this adapter was evaluated.
    """

    folder: Path
    result: dict
    base: Base
    datasets: tuple[str, ...]
    evaluations: tuple[dict, ...]

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def rewarded(self) -> bool:
        """Whether it learnt from a reward, rather than from true answers."""
        return "reward" in self.result["recipe"]

    @property
    def decoder(self) -> bool:
        """Whether SAM2's mask decoder was trained along."""
        return (self.adapter / DECODER).exists()

    @property
    def mask_head(self) -> bool:
        """Whether it writes [SEG], for a mask head of its own."""
        return (self.adapter / MASK_HEAD).exists()

    @property
    def split(self) -> str:
        """The plates it is evaluated on: `python -m foodseg.ablations --split` names runs so."""
        return "validation" if "-validation-seed" in self.folder.name else "test"


def read_run(folder: Path) -> TrainedRun:
    """Read a finished run; raises DataError naming what is missing."""
    # Without this, "." would have no name to look for predictions by.
    folder = folder.resolve()
    weights, settings = (folder / "adapter" / name for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG))
    for file in (folder / "result.json", weights, settings):
        if not file.is_file():
            raise DataError(
                f"{file}: it is missing; name the folder of a finished run, such as "
                "runs/kitchen/dapo-seed0."
            )
    result = load_json(folder / "result.json")
    if file_hash(weights) != result["adapter"]:
        raise DataError(
            f"{weights}: it is not the file that this run trained ({result['adapter']}); train it "
            "again."
        )
    source = load_json(settings)["base_model_name_or_path"]
    datasets = DATASETS.get(result["preset"]["name"].partition("--")[0], ())
    evaluations = _read_evaluations(folder, result)
    return TrainedRun(folder, result, find_base(source), datasets, evaluations)


def _read_evaluations(folder: Path, result: dict) -> tuple[dict, ...]:
    suffix = "-validation" if "-validation-seed" in folder.name else ""
    rows = (folder.name, *(f"{row}{suffix}" for row in REFERENCE_ROWS))
    files = [folder.parent / "predictions" / row / "result.json" for row in rows]
    own, *others = [load_json(f) if f.exists() else None for f in files]
    trained = (result["adapter"], result.get("decoder"))
    if own is None or (own["adapter"], own.get("decoder")) != trained:
        return ()
    return own, *(other for other in others if other and other["samples"] == own["samples"])
