"""How the shipped kitchen MLLM was made: `python -m foodseg.kitchen.pretraining.curriculum`.

Three stages, because next-token prediction alone teaches a model of this size no places: the
vision tower with dense targets (kitchen_sight.py), grounding of names with the tower frozen, and
answers by next-token prediction with regression heads beside it (kitchen_grounding.py). Each stage
is kept in the work folder, so an interrupted run goes on with the next one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from foodseg.common.provenance import find_commit
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, BASE_VALIDATION_SEEDS
from foodseg.kitchen.plates import DRAWING_VERSION
from foodseg.kitchen.pretraining.checks import measure
from foodseg.kitchen.pretraining.grounding import GroundingHeads, answer_losses
from foodseg.kitchen.pretraining.lessons import (
    FOOD_NAMES,
    Batch,
    Reader,
    draw_batch,
    draw_beginnings,
    tokenizer_texts,
)
from foodseg.kitchen.pretraining.mllm import (
    KITCHEN_MLLM_FOLDER,
    build_model,
    save_kitchen_mllm,
    write_provenance,
)
from foodseg.kitchen.pretraining.pictures import Pictures, draw_pictures
from foodseg.kitchen.pretraining.sight import SightHeads, encode_images, sight_targets
from foodseg.kitchen.pretraining.tokenizer import train_tokenizer
from foodseg.kitchen.pretraining.training import build_optimiser, run_steps, take_pictures

VOCABULARY = 1024
WORK_HELP = "folder where drawn plates and finished stages are kept"
SIGHT_WEIGHTS = {"food": 1.0, "patch": 1.0, "position": 3.0, "own": 10.0, "pooled": 10.0}
GROUNDING_WEIGHTS = {"words": 1.0, "name": 10.0, "box": 10.0, "point": 10.0, "value": 10.0}
ANSWER_WEIGHTS = (
    GROUNDING_WEIGHTS | {"begun": 1.0} | {name: 0.2 * w for name, w in SIGHT_WEIGHTS.items()}
)


@dataclass(frozen=True)
class Plan:
    """Plates, steps, plates a step and learning rates of the stages."""

    plates: int = 6000
    sight_steps: int = 1000
    sight_plates: int = 48
    sight_rate: float = 2e-3
    grounding_steps: int = 500
    grounding_plates: int = 16
    grounding_rate: float = 1.5e-3
    answers_steps: int = 1200
    answers_plates: int = 16
    answers_rate: float = 1e-3
    answers_sight_rate: float = 3e-4
    polish_steps: int = 1200
    polish_rate: float = 7e-4
    polish_sight_rate: float = 3e-4


class Course:
    """The model under training with all that the stages need."""

    def __init__(self, plan: Plan, seed: int, work: Path, device: torch.device, workers: int):
        self.plan, self.seed, self.work, self.device = plan, seed, work, device
        self.workers = workers
        self.pictures = draw_pictures(BASE_PLATE_SEEDS, plan.plates, workers, work)
        self.reader = Reader(train_tokenizer(tokenizer_texts(), VOCABULARY))
        self.model = build_model(self.reader.tokenizer, seed).to(device)
        # plain products: the fused kernel's backward is slower on a CPU at this size
        self.model.set_attn_implementation("eager")
        torch.manual_seed(seed)
        self.sight_heads = SightHeads(len(FOOD_NAMES)).to(device)
        self.heads = GroundingHeads().to(device)
        self.log: dict[str, dict] = {}

    @property
    def visual(self) -> nn.Module:
        return self.model.model.visual

    def name_vectors(self) -> torch.Tensor:
        """(foods, 256): the mean token embedding of each food's name."""
        weight = self.model.get_input_embeddings().weight
        return torch.stack([weight[ids].mean(0) for ids in self.reader.name_tokens()])

    def draw_plates(self, rng: np.random.Generator, count: int) -> Pictures:
        return take_pictures(self.pictures, rng.integers(len(self.pictures), size=count), rng)

    def state(self) -> dict:
        modules = {"model": self.model, "sight": self.sight_heads, "heads": self.heads}
        return {name: module.state_dict() for name, module in modules.items()} | {"log": self.log}

    def load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.sight_heads.load_state_dict(state["sight"])
        self.heads.load_state_dict(state["heads"])
        self.log = state["log"]


def sight_losses(course: Course, plates: Pictures) -> tuple[torch.Tensor, dict]:
    """Visual tokens of the plates and stage 1's losses on them."""
    device = course.device
    seen = encode_images(course.visual, torch.from_numpy(plates.images).to(device))
    rows = (plates.cells, plates.foods, plates.references)
    targets = sight_targets(*(torch.from_numpy(row).to(device) for row in rows))
    return seen, course.sight_heads.loss(seen, course.name_vectors(), targets)


def train_sight(course: Course) -> None:
    """Stage 1: the vision tower and the names' embeddings, dense targets."""
    plan, rng = course.plan, np.random.default_rng([course.seed, 1])
    embedding = course.model.get_input_embeddings().weight
    parameters = [*course.visual.parameters(), *course.sight_heads.parameters(), embedding]
    optimiser = build_optimiser(parameters, plan.sight_rate)

    def losses(step: int) -> dict[str, torch.Tensor]:
        return sight_losses(course, course.draw_plates(rng, plan.sight_plates))[1]

    course.log["sight"] = run_steps(
        "1 sight", plan.sight_steps, optimiser, losses, SIGHT_WEIGHTS, course.device
    )


def move_batch(batch: Batch, device: torch.device) -> Batch:
    def move(value):
        if isinstance(value, dict):
            return {key: move(part) for key, part in value.items()}
        if isinstance(value, tuple):
            return tuple(move(part) for part in value)
        return value.to(device)

    return Batch(**{name: move(value) for name, value in vars(batch).items()})


def train_grounding(course: Course, name: str, stream: int) -> None:
    """Stage 2: listings of foods with their places; the tower is frozen."""
    plan, rng = course.plan, np.random.default_rng([course.seed, stream])
    parameters = [*course.model.model.language_model.parameters(), *course.heads.parameters()]
    optimiser = build_optimiser(parameters, plan.grounding_rate)

    def losses(step: int) -> dict[str, torch.Tensor]:
        plates = course.draw_plates(rng, plan.grounding_plates)
        batch = move_batch(draw_batch(course.reader, plates, 2, 0, rng), course.device)
        with torch.no_grad():
            images = torch.from_numpy(plates.images).to(course.device)
            seen = encode_images(course.visual, images)
        return answer_losses(course.model, course.heads, seen, batch)

    course.log[name] = run_steps(
        f"2 {name}", plan.grounding_steps, optimiser, losses, GROUNDING_WEIGHTS, course.device
    )


def train_answers(course: Course, phase: str, stream: int) -> None:
    """Stage 3: answers in all forms, everything trained, the tower gently.

    Whole answers teach places; mere beginnings of answers teach what the many questions mean, with
    many more of them in the same time.
    """
    plan, rng = course.plan, np.random.default_rng([course.seed, stream])
    steps, rate, sight_rate, whole_count, begun_count = {
        "answers": (plan.answers_steps, plan.answers_rate, plan.answers_sight_rate, 2, 5),
        "polish": (plan.polish_steps, plan.polish_rate, plan.polish_sight_rate, 3, 2),
    }[phase]
    parameters = [*course.model.model.language_model.parameters(), *course.heads.parameters()]
    optimiser = build_optimiser(parameters, rate)
    sight = [*course.visual.parameters(), *course.sight_heads.parameters()]
    optimiser.add_param_group({"params": sight, "lr": sight_rate})

    def losses(step: int) -> dict[str, torch.Tensor]:
        plates = course.draw_plates(rng, plan.answers_plates)
        seen, parts = sight_losses(course, plates)
        whole = draw_batch(course.reader, plates, 0, whole_count, rng)
        whole = move_batch(whole, course.device)
        begun = draw_beginnings(course.reader, plates, begun_count, rng)
        begun = move_batch(begun, course.device)
        parts |= answer_losses(course.model, course.heads, seen, whole)
        parts["begun"] = answer_losses(course.model, course.heads, seen, begun)["words"]
        return parts

    course.log[phase] = run_steps(
        f"3 {phase}", steps, optimiser, losses, ANSWER_WEIGHTS, course.device
    )


STAGES = {
    "sight": train_sight,
    "grounding": lambda course: train_grounding(course, "grounding", 2),
    "grounding2": lambda course: train_grounding(course, "grounding2", 4),
    "answers": lambda course: train_answers(course, "answers", 3),
    "polish": lambda course: train_answers(course, "polish", 5),
}


def finish(course: Course, folder: Path, questions: int) -> dict:
    """Save the model, load it again, measure it on validation plates; returns the provenance."""
    provenance = {
        "seed": course.seed,
        "plan": asdict(course.plan),
        "plates": {"first_seed": BASE_PLATE_SEEDS, "count": course.plan.plates},
        "drawing_version": DRAWING_VERSION,
        "stages": course.log,
        "device": str(course.device),
        "commit": find_commit(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    tokenizer = course.reader.tokenizer
    save_kitchen_mllm(course.model, tokenizer, folder, provenance)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    pictures = draw_pictures(BASE_VALIDATION_SEEDS, questions, course.workers, course.work)
    measured = measure(model.to(course.device), course.reader, pictures, questions)
    provenance["measured"] = {"plates_first_seed": BASE_VALIDATION_SEEDS, **measured}
    write_provenance(folder, provenance)
    return provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/kitchen_mllm"), help=WORK_HELP)
    parser.add_argument("--out", type=Path, default=KITCHEN_MLLM_FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    course = Course(Plan(), options.seed, options.work, device, options.workers)
    for name, stage in STAGES.items():
        file = options.work / f"{name}.pt"
        if file.exists():
            course.load(torch.load(file, map_location=device, weights_only=True))
            continue
        stage(course)
        torch.save(course.state(), file)
    print(json.dumps(finish(course, options.out, questions=400)["measured"], indent=2))


if __name__ == "__main__":
    main()
