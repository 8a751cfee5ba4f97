"""What a machine lacks for the paper preset, and what the preset will cost on it, from facts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from foodseg.models.mllm import MODEL_TYPE
from foodseg.presets import Preset
from foodseg.training.memory import USABLE_SHARE, GroupTokens, MemoryPlan, ModelSizes, plan_memory

# bfloat16 in the flash attention that the trainer calls.
CAPABILITY = (8, 0)
DRIVER = "580"  # the branch that the locked PyTorch, built for CUDA 13, asks for
# What everything is counted with: tokens of a prompt, and of a completion.
PROMPT, COMPLETION = 1100, 150
# Published dense rates: bfloat16 TFLOP/s, TB/s of memory, float32 TFLOP/s.
CARDS = {
    "H200": (989, 4.8, 67),
    "H100": (989, 3.35, 67),
    "A100": (312, 2.0, 19.5),
    "L40S": (362, 0.864, 91.6),
    "RTX 4090": (165, 1.0, 82.6),
    "A6000": (155, 0.77, 38.7),
    "RTX 3090": (71, 0.94, 35.6),
    "L4": (121, 0.3, 30.3),
}
# For each GB of weights, from the unit costs of docs/performance.md: TFLOP of a step of 64
# completions (GRPO, DAPO) and of one question, TB read by a batch that decodes.
STEP_TFLOP, QUESTION_TFLOP, DECODE_TB = (60, 44), 1.1, 0.132
# A batch decodes until its longest completion ends: the kitchen's have twice the mean's length.
LONGEST = 2
PHOTO_TFLOP = 1.8  # SAM2's image encoder, Hiera-L in float32, counted
SLOWDOWN = 2  # real code reaches about half of the published rates
QUESTIONS = 1000  # of the test split, until notebook 01 has counted them
# GB: of SAM2's largest checkpoint; of the data, packed and unpacked.
SEGMENTER_GB, DATA_GB = 0.9, 2.6


def _sizes(layers, hidden, intermediate, heads, key_heads, vocabulary, parameters) -> ModelSizes:
    """A Qwen2.5-VL of the hub in bfloat16, with the paper's LoRA of rank 64."""
    rank, keys = 64, key_heads * hidden // heads
    inputs_outputs = 2 * 2 * hidden + 2 * (hidden + keys) + 3 * (hidden + intermediate)
    adapter = 4 * rank * layers * inputs_outputs
    config = (layers, hidden, intermediate, heads, key_heads, vocabulary, rank)
    return ModelSizes(*config, weight_bytes=2 * parameters, adapter_bytes=adapter, itemsize=2)


# By hidden size: the 3B and the 7B (arXiv:2502.13923 and the published configurations).
SIZES = {
    2048: _sizes(36, 2048, 11_008, 16, 2, 151_936, 3_754_622_976),
    3584: _sizes(28, 3584, 18_944, 28, 4, 152_064, 8_292_166_656),
}


@dataclass(frozen=True)
class Facts:
    """What was found on a machine.

    gpu: the first one's name, "" if PyTorch can use none; capability: (major, minor); gpu_bytes: of
    its memory, free_bytes: of these, free now; driver: of NVIDIA's, its version, "" if there is
    none. home_free, cache_free: bytes where runs and data go, and where weights do; one_disk:
    whether these are the same. mllm, segmenter, data: whether each is on this machine; trained:
    bytes of the preset's runs. model_type, hidden: of the MLLM, "" and 0 if not known. hub: why the
    hub can't be asked, "" if it can. questions: of the test split, None until they are counted.
    """

    gpu: str
    capability: tuple[int, int]
    gpu_bytes: int
    free_bytes: int
    driver: str
    home_free: int
    cache_free: int
    one_disk: bool
    mllm: bool
    segmenter: bool
    data: bool
    trained: int
    model_type: str
    hidden: int
    hub: str
    questions: int | None

    @property
    def sizes(self) -> ModelSizes | None:
        """The MLLM's; None for one that is not known."""
        return SIZES.get(self.hidden)

    @property
    def fetch_gb(self) -> float:
        """Of weights that are not here."""
        mllm = self.sizes.weight_bytes / 1e9 if self.sizes else 0.0
        return mllm * (not self.mllm) + SEGMENTER_GB * (not self.segmenter)


def gpu_problems(preset: Preset, facts: Facts) -> list[str]:
    """What training and answering lack, a sentence each with the fix."""
    if not facts.gpu:
        if facts.driver:
            fix = f"install a driver of branch {DRIVER} or newer"
            return [f"GPU: PyTorch can't use the one here (NVIDIA's driver {facts.driver}); {fix}."]
        rest = "rent one of 24 GB, or run the kitchen (`make`), which needs none"
        return [f"GPU: there is no CUDA GPU here, and the paper preset trains on one; {rest}."]
    if facts.capability < CAPABILITY:
        is_, needs = (".".join(map(str, pair)) for pair in (facts.capability, CAPABILITY))
        fix = "take an Ampere or newer (RTX 30xx, A100, L4)"
        return [f"GPU: {facts.gpu} has compute capability {is_}, bfloat16 needs {needs}; {fix}."]
    needed = least_memory(preset, facts.sizes) if facts.sizes else 0
    if facts.gpu_bytes < needed:
        fix = "take a larger GPU" + ", or the 3B (leave MLLM= out)" * (facts.hidden != 2048)
        has = f"{facts.gpu} has {facts.gpu_bytes / 1e9:.1f} GB"
        return [f"GPU memory: {has}, and the smallest plan needs {needed / 1e9:.1f}; {fix}."]
    if facts.free_bytes < needed:
        has = f"{facts.free_bytes / 1e9:.1f} of {facts.gpu_bytes / 1e9:.1f} GB are free"
        fix = "end what else uses the GPU"
        return [f"GPU memory: {has}, and the smallest plan needs {needed / 1e9:.1f}; {fix}."]
    return []


def fetch_problems(preset: Preset, facts: Facts, door: str, seeds: int) -> list[str]:
    """What fetching and keeping lack, a sentence each with the fix; door: "data" or "all"."""
    problems = []
    if facts.model_type and facts.model_type != MODEL_TYPE:
        found = f"the model_type of {preset.mllm} is {facts.model_type}"
        problems.append(f"MLLM: {found}, and this kit runs Qwen2.5-VL only; name one of these.")
    if door == "all" and not facts.data:
        problems.append(f"Data: {preset.dataset} does not hold FoodReasonSeg; run `make data`.")
    weights = door == "all" and not (facts.mllm and facts.segmenter)
    if facts.hub and (weights or not facts.data):
        lacking = ["weights"] * weights + ["data"] * (not facts.data)
        what = "the " + " and ".join(lacking)
        fix = "fetch them elsewhere and bring them along (docs/paper_preset.md)"
        problems.append(f"Network: {facts.hub}, and {what} are not all here; {fix}.")
    return problems + _disk_problems(facts, door, seeds)


def _disk_problems(facts: Facts, door: str, seeds: int) -> list[str]:
    kept = needed_gb(facts, door, seeds)
    if facts.one_disk:
        places = [("FOODSEG_HOME", facts.home_free, sum(kept))]
    else:
        places = [
            ("FOODSEG_HOME", facts.home_free, kept[0]),
            ("HF_HOME", facts.cache_free, kept[1]),
        ]
    return [
        f"Disk: {free / 1e9:.1f} GB are free and {needed:.1f} are needed; make room, or set {name} "
        "to another disk."
        for name, free, needed in places
        if free < needed * 1e9
    ]


def needed_gb(facts: Facts, door: str, seeds: int) -> tuple[float, float]:
    """(where runs and data go, in the hub's cache): what is still to be written."""
    data = DATA_GB * (not facts.data)
    if door == "data":
        return data, 0.0
    # A training keeps its adapter, and with the state that it goes on from three times as much.
    runs = 2 * seeds * 4 * facts.sizes.adapter_bytes if facts.sizes else 0
    return data + max(runs - facts.trained, 0) / 1e9, facts.fetch_gb


def plan(preset: Preset, sizes: ModelSizes, gpu_bytes: int) -> MemoryPlan:
    """How one update goes through a GPU of so many bytes."""
    group = GroupTokens(PROMPT, (COMPLETION,) * preset.group_size)
    free = int(USABLE_SHARE * gpu_bytes) - sizes.held_bytes
    return plan_memory(sizes, [group] * preset.groups_per_update, free)


def least_memory(preset: Preset, sizes: ModelSizes) -> int:
    """Bytes of the smallest GPU for which there is a plan."""
    return math.ceil((sizes.held_bytes + plan(preset, sizes, 0).forward_bytes) / USABLE_SHARE)


def hours(preset: Preset, sizes: ModelSizes, card: str, seeds: int, questions: int) -> list[float]:
    """[of all trainings, of all answers to the test questions]: computed, not measured.

    The test questions are answered by the base three times (as it is, in samples, by the parents'
    protocol) and by each adapter. SAM2 embeds their photos, one a question at most, for these rows,
    the bound and the answers read in any form.
    """
    tflops, bandwidth, float32_tflops = CARDS[card]
    gigabytes = sizes.weight_bytes / 1e9
    decoding = LONGEST * DECODE_TB / bandwidth
    batches = preset.steps * len(STEP_TFLOP) * seeds
    work = sum(STEP_TFLOP) * preset.steps * seeds * preset.round_size / 64
    training = gigabytes * (work / tflops + batches * decoding)
    batches = math.ceil(questions / preset.evaluation_batch)
    answering = gigabytes * (questions * QUESTION_TFLOP / tflops + batches * decoding)
    photos = questions * PHOTO_TFLOP / float32_tflops
    passes = 3 + len(STEP_TFLOP) * seeds
    answers = passes * answering + (passes + 2) * photos
    return [SLOWDOWN * seconds / 3600 for seconds in (training, answers)]


def describe(preset: Preset, facts: Facts, seeds: int) -> list[str]:
    """What is here and what it will cost, a line each."""
    gpu, free = facts.gpu or "none", facts.free_bytes
    if facts.gpu:
        gpu += f", {facts.gpu_bytes / 1e9:.1f} GB, {free / 1e9:.1f} of them free"
    stored = sum(needed_gb(facts, "all", seeds))
    fetched = facts.fetch_gb + DATA_GB / 2 * (not facts.data)
    room = facts.home_free / 1e9
    lines = [
        f"models: {preset.mllm}, {preset.segmenter}",
        f"GPU: {gpu}",
        f"to fetch: {fetched:.1f} GB; to be written: {stored:.1f} GB, of {room:.0f} that are free",
    ]
    if not facts.sizes:
        return [*lines, "memory and hours: not known for a model of this size"]
    if facts.gpu and free >= least_memory(preset, facts.sizes):
        chosen = plan(preset, facts.sizes, free)
        lines.append(chosen.sentence(preset.groups_per_update, facts.sizes.layers))
    return [*lines, _hours_line(preset, facts, seeds)]


def _hours_line(preset: Preset, facts: Facts, seeds: int) -> str:
    known = next((name for name in CARDS if re.search(rf"\b{name}\b", facts.gpu)), None)
    card = known or "A100"
    questions = facts.questions or QUESTIONS
    training, answers = hours(preset, facts.sizes, card, seeds, questions)
    counted = "counted" if facts.questions else "until notebook 01 has counted them"
    runs = f"{2 * seeds} trainings of {preset.steps} steps"
    rows = f"{3 + 2 * seeds} rows of answers to {questions:,} test questions ({counted})"
    where = "" if known else f" for an {card}"
    return f"hours, computed{where}: {training:.1f} for {runs}, {answers:.1f} for {rows}"
