"""How the shipped kitchen MLLM was made: `python -m foodseg.kitchen.pretraining.curriculum`.

Next-token prediction alone teaches a model of this size no places, so *knowledge* has three stages:
the vision tower with dense targets (vision.py), grounding of names with the tower frozen, and
answers with regression heads beside them (grounding.py). Then come *habits* (habits.py), by
next-token prediction with the tower frozen. Base and knowledge are both kept: knowledge as the
tensors that habits changed. The work folder has what each stage has made.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from foodseg.common.files import write_json
from foodseg.common.provenance import provenance
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, BASE_VALIDATION_SEEDS
from foodseg.kitchen.plates import DRAWING_VERSION
from foodseg.kitchen.pretraining.grounding import GroundingHeads, Prefix, answer_losses, read_prefix
from foodseg.kitchen.pretraining.habits import draw_manner
from foodseg.kitchen.pretraining.lessons import (
    FOOD_NAMES,
    Batch,
    Reader,
    careful,
    draw_answers,
    draw_listings,
    right,
    tokenizer_texts,
)
from foodseg.kitchen.pretraining.loop import run_steps
from foodseg.kitchen.pretraining.measure import measure
from foodseg.kitchen.pretraining.mllm import SIDE, build_model, save_kitchen_mllm
from foodseg.kitchen.pretraining.mllm_plates import Pictures, draw_pictures, take_pictures
from foodseg.kitchen.pretraining.precision import autocast_dtype
from foodseg.kitchen.pretraining.tokenizer import train_tokenizer
from foodseg.kitchen.pretraining.vision import VisionHeads, dense_targets, encode_images
from foodseg.kitchen.pretraining.work_folder import WORK_HELP, load, made_once, save_whole
from foodseg.models.mllm import Mllm
from foodseg.presets import KITCHEN

VOCABULARY = 1024
VALIDATION_QUESTIONS = 400
VISION_WEIGHTS = {"food": 1.0, "patch": 1.0, "position": 3.0, "own": 10.0, "pooled": 10.0}
GROUNDING_WEIGHTS = {"words": 1.0, "name": 10.0, "box": 10.0, "point": 10.0, "value": 10.0}
ANSWER_WEIGHTS = (
    GROUNDING_WEIGHTS | {"begun": 1.0} | {name: 0.2 * w for name, w in VISION_WEIGHTS.items()}
)


@dataclass(frozen=True)
class Plan:
    """Plates, steps, plates a step and learning rates of the stages."""

    plates: int = 6000
    vision_steps: int = 1500
    vision_plates: int = 48
    vision_rate: float = 2e-3
    grounding_steps: int = 500
    grounding_plates: int = 16
    grounding_rate: float = 1.5e-3
    answers_steps: int = 1600
    answers_plates: int = 16
    answers_rate: float = 1e-3
    tower_rate: float = 3e-4  # of the vision tower, while answers are learnt
    habits_steps: int = 500
    habits_rate: float = 3e-4


class Course:
    """The model under training with all that the stages need."""

    def __init__(self, plan: Plan, seed: int, work: Path, device: torch.device, workers: int):
        self.plan, self.seed, self.work, self.device = plan, seed, work, device
        self.workers = workers
        self.pictures = kept_pictures(work, BASE_PLATE_SEEDS, plan.plates, workers)
        self.reader = Reader(train_tokenizer(tokenizer_texts(), VOCABULARY), device)
        self.model = build_model(self.reader.tokenizer, seed).to(device)
        # plain products: the fused kernel's backward is slower on a CPU at this size
        self.model.set_attn_implementation("eager")
        torch.manual_seed(seed)
        self.vision_heads = VisionHeads(len(FOOD_NAMES)).to(device)
        self.heads = GroundingHeads().to(device)
        self.log: dict[str, dict] = {}

    @property
    def tower(self) -> nn.Module:
        return self.model.model.visual

    def vision_parameters(self) -> list[nn.Parameter]:
        return [*self.tower.parameters(), *self.vision_heads.parameters()]

    def language_parameters(self) -> list[nn.Parameter]:
        return [*self.model.model.language_model.parameters(), *self.heads.parameters()]

    def rng(self, stream: int, step: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, step])

    def checkpoint(self, name: str) -> Path:
        return self.work / f"{name}.unfinished.pt"

    def draw_plates(self, rng: np.random.Generator, count: int) -> Pictures:
        return take_pictures(self.pictures, rng.integers(len(self.pictures), size=count), rng)

    def vision_losses(self, plates: Pictures) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Visual tokens of the plates and stage 1's losses on them."""
        seen = encode_images(self.tower, plates.images)
        embeddings = self.model.get_input_embeddings().weight
        names = torch.stack([embeddings[ids].mean(0) for ids in self.reader.name_tokens()])
        targets = dense_targets(plates, self.device)
        return seen, self.vision_heads.losses(seen, names, targets)

    def read_prefix(self, seen: torch.Tensor) -> Prefix:
        return read_prefix(self.model, seen, self.reader.prefix)

    def answer_losses(self, prefix: Prefix, batch: Batch) -> dict[str, torch.Tensor]:
        return answer_losses(self.model, self.heads, prefix, batch)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "vision": self.vision_heads, "heads": self.heads}


def kept_pictures(work: Path, first_seed: int, count: int, workers: int) -> Pictures:
    """Plates of seeds from `first_seed` on, drawn once for a work folder."""

    def draw() -> dict[str, torch.Tensor]:
        pictures = draw_pictures(first_seed, count, workers)
        return {name: torch.from_numpy(rows) for name, rows in vars(pictures).items()}

    rows = made_once(work / f"pictures-{DRAWING_VERSION}-{first_seed}-{count}.pt", draw)
    return Pictures(**{name: row.numpy() for name, row in rows.items()})


def train_vision(course: Course) -> dict:
    """Stage 1: the vision tower and the names' embeddings, dense targets."""
    plan = course.plan
    parameters = [*course.vision_parameters(), course.model.get_input_embeddings().weight]

    def losses(step: int) -> dict[str, torch.Tensor]:
        return course.vision_losses(course.draw_plates(course.rng(1, step), plan.vision_plates))[1]

    rates, checkpoint = [(plan.vision_rate, parameters)], course.checkpoint("vision")
    return run_steps("1 vision", plan.vision_steps, rates, losses, VISION_WEIGHTS, checkpoint)


def train_grounding(course: Course, name: str, stream: int) -> dict:
    """Stage 2: listings of foods with their places; the tower is frozen."""
    plan = course.plan

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = course.rng(stream, step)
        plates = course.draw_plates(rng, plan.grounding_plates)
        batch = draw_listings(course.reader, plates, 2, rng)
        with torch.no_grad():
            seen = encode_images(course.tower, plates.images)
        return course.answer_losses(course.read_prefix(seen), batch)

    rates, steps = [(plan.grounding_rate, course.language_parameters())], plan.grounding_steps
    checkpoint = course.checkpoint(name)
    return run_steps(f"2 {name}", steps, rates, losses, GROUNDING_WEIGHTS, checkpoint)


def train_answers(course: Course) -> dict:
    """Stage 3: right answers; everything trained, the tower gently.

    Two whole answers on each plate, step by step, teach places; the beginnings of five more, which
    take little time, teach what the many questions mean. About half of these are direct, since
    short answers teach that fastest.
    """
    plan = course.plan

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = course.rng(3, step)
        plates = course.draw_plates(rng, plan.answers_plates)
        seen, parts = course.vision_losses(plates)
        whole = draw_answers(course.reader, plates, 2, careful, rng)
        begun = draw_answers(course.reader, plates, 5, right, rng, begun=True)
        prefix = course.read_prefix(seen)
        parts["begun"] = course.answer_losses(prefix, begun)["words"]
        return parts | course.answer_losses(prefix, whole)

    language, vision = course.language_parameters(), course.vision_parameters()
    rates = [(plan.answers_rate, language), (plan.tower_rate, vision)]
    steps, checkpoint = plan.answers_steps, course.checkpoint("answers")
    return run_steps("3 answers", steps, rates, losses, ANSWER_WEIGHTS, checkpoint)


def train_habits(course: Course) -> dict:
    """Stage 4: answers by the base's habits; the tower is frozen, places are known."""
    plan = course.plan

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = course.rng(5, step)
        plates = course.draw_plates(rng, plan.answers_plates)
        with torch.no_grad():
            seen = encode_images(course.tower, plates.images)
        batch = draw_answers(course.reader, plates, 2, draw_manner, rng)
        return {"words": course.answer_losses(course.read_prefix(seen), batch)["words"]}

    language = list(course.model.model.language_model.parameters())
    rates, checkpoint = [(plan.habits_rate, language)], course.checkpoint("habits")
    return run_steps("4 habits", plan.habits_steps, rates, losses, {"words": 1.0}, checkpoint)


# A stage returns its log. The first number is its stream of random numbers.
STAGES = {
    "vision": train_vision,
    "grounding": lambda course: train_grounding(course, "grounding", 2),
    "grounding2": lambda course: train_grounding(course, "grounding2", 4),
    "answers": train_answers,
    "habits": train_habits,
}
KNOWLEDGE = "answers"  # the last stage of knowledge
# By then SAM2's training, which runs beside this one, has left its core free. Sums depend on the
# number of threads, so it is fixed by stage and not by the machine.
THREADS = {"answers": 2, "habits": 2}
KNOWLEDGE_FILE = Path(KITCHEN.mllm).parent / "kitchen_knowledge" / "model.safetensors"


def run_stages(course: Course, work: Path) -> None:
    """Every stage that the work folder does not hold yet."""
    for name, stage in STAGES.items():
        file, modules = work / f"{name}.pt", course.modules()
        if file.exists():
            state = load(file)
            for part, module in modules.items():
                module.load_state_dict(state[part])
            course.log = state["log"]
        else:
            torch.set_num_threads(THREADS.get(name, 1))
            course.log[name] = stage(course)
            states = {part: module.state_dict() for part, module in modules.items()}
            save_whole(states | {"log": course.log}, file)


def finish(course: Course, base: Path, knowledge: Path, work: Path) -> dict:
    """Save base and knowledge, load both again, measure them; returns their provenance.

    base: folder of the whole model. knowledge: file of the tensors that differ from the base's.
    """
    before = load(work / f"{KNOWLEDGE}.pt")["model"]
    save_kitchen_mllm(course.model, course.reader.tokenizer, base)
    save_differences(before, course.model.state_dict(), knowledge)
    pictures = kept_pictures(work, BASE_VALIDATION_SEEDS, VALIDATION_QUESTIONS, course.workers)
    measured = {}
    for name, file in (("base", None), ("knowledge", knowledge)):
        mllm = Mllm.load(
            base, image_side=SIDE, template=KITCHEN.prompt_template, device=str(course.device)
        )
        if file:
            mllm.model.load_state_dict(load_file(file), strict=False)
        measured[name] = measure(mllm, pictures, VALIDATION_QUESTIONS)
    made = {
        "command": "python -m foodseg.kitchen.pretraining.curriculum",
        "seed": course.seed,
        "plan": asdict(course.plan),
        "plates": {"first_seed": BASE_PLATE_SEEDS, "count": course.plan.plates},
        "drawing_version": DRAWING_VERSION,
        "stages": course.log,
        **provenance(str(course.device)),
        "autocast": str(autocast_dtype(course.device)),
        "measured": {"plates_first_seed": BASE_VALIDATION_SEEDS, **measured},
    }
    write_json(base / "provenance.json", made)
    return made


def save_differences(before: dict, after: dict, file: Path) -> None:
    """The tensors of `before` that `after` does not equal, in float16."""
    halves = {name: tensor.half().contiguous() for name, tensor in before.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    # Tied to the embeddings, which are saved.
    halves.pop("lm_head.weight", None)
    save_file({n: t for n, t in halves.items() if not torch.equal(t, after[n].half())}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/kitchen_mllm"), help=WORK_HELP)
    parser.add_argument("--out", type=Path, default=Path(KITCHEN.mllm))
    parser.add_argument("--knowledge", type=Path, default=KNOWLEDGE_FILE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw plates")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    course = Course(Plan(), options.seed, options.work, device, options.workers)
    run_stages(course, options.work)
    made = finish(course, options.out, options.knowledge, options.work)
    print(json.dumps(made["measured"], indent=2))


if __name__ == "__main__":
    main()
