"""How the shipped kitchen MLLM was made: `python -m foodseg.kitchen.pretraining.curriculum`.

Next-token prediction alone teaches a model of this size no places, so *knowledge* has three stages:
the vision tower with dense targets (vision.py), grounding of names with the tower frozen, and
answers with regression heads beside them (grounding.py). Then come *habits* (habits.py), with the
tower frozen. Base and knowledge are both kept: knowledge as the tensors that habits changed. The
work folder has what each stage has made.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from foodseg.common.files import write_json
from foodseg.common.provenance import provenance
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, BASE_VALIDATION_SEEDS
from foodseg.kitchen.plates import DRAWING_VERSION
from foodseg.kitchen.pretraining.course import Course, Plan, kept_pictures
from foodseg.kitchen.pretraining.habits import draw_manner, draw_reasoned
from foodseg.kitchen.pretraining.lessons import careful, draw_answers, draw_listings, right
from foodseg.kitchen.pretraining.loop import run_steps
from foodseg.kitchen.pretraining.measure import measure
from foodseg.kitchen.pretraining.mllm import SIDE, save_kitchen_mllm
from foodseg.kitchen.pretraining.precision import autocast_dtype
from foodseg.kitchen.pretraining.vision import encode_images
from foodseg.kitchen.pretraining.work_folder import WORK_HELP, load, save_whole
from foodseg.kitchen.questions import MANY_SHARE
from foodseg.models.mllm import Mllm
from foodseg.presets import KITCHEN

VALIDATION_QUESTIONS = 400
VISION_WEIGHTS = {"food": 1.0, "patch": 1.0, "position": 3.0, "own": 10.0, "pooled": 10.0}
GROUNDING_WEIGHTS = {"words": 1.0, "name": 10.0, "box": 10.0, "point": 10.0, "value": 10.0}
ANSWER_WEIGHTS = (
    GROUNDING_WEIGHTS | {"begun": 1.0} | {name: 0.2 * w for name, w in VISION_WEIGHTS.items()}
)


def train_vision(course: Course) -> dict:
    """Stage 1: the vision tower and the names' embeddings, dense targets."""
    plan = course.plan
    parameters = [*course.vision_parameters(), course.model.get_input_embeddings().weight]

    def losses(step: int) -> dict[str, torch.Tensor]:
        return course.vision_losses(course.draw_plates(course.rng(1, step), plan.vision_plates))[1]

    rates, checkpoint = [(plan.vision_rate, parameters)], course.checkpoint("vision")
    return run_steps("vision", plan.vision_steps, rates, losses, VISION_WEIGHTS, checkpoint)


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
    return run_steps(name, steps, rates, losses, GROUNDING_WEIGHTS, checkpoint)


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
        share = plan.several_share
        whole = draw_answers(course.reader, plates, [careful] * 2, rng, share)
        begun = draw_answers(course.reader, plates, [right] * 5, rng, share, begun=True)
        prefix = course.read_prefix(seen)
        parts["begun"] = course.answer_losses(prefix, begun)["words"]
        return parts | course.answer_losses(prefix, whole)

    language, vision = course.language_parameters(), course.vision_parameters()
    rates = [(plan.answers_rate, language), (plan.tower_rate, vision)]
    steps, checkpoint = plan.answers_steps, course.checkpoint("answers")
    return run_steps("answers", steps, rates, losses, ANSWER_WEIGHTS, checkpoint)


def train_habits(course: Course) -> dict:
    """Stage 4: the base's habits, and answers that reason; the tower is frozen."""
    plan = course.plan

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = course.rng(5, step)
        plates = course.draw_plates(rng, plan.answers_plates)
        with torch.no_grad():
            seen = encode_images(course.tower, plates.images)
        draws = [draw_manner, draw_reasoned]
        batch = draw_answers(course.reader, plates, draws, rng, MANY_SHARE)
        return course.answer_losses(course.read_prefix(seen), batch, plan.fact_temperature)

    rates, steps = [(plan.habits_rate, course.language_parameters())], plan.habits_steps
    checkpoint = course.checkpoint("habits")
    return run_steps("habits", steps, rates, losses, GROUNDING_WEIGHTS, checkpoint)


# A stage returns its log.
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
    parser.add_argument("--knowledge", type=Path, default=Path(KITCHEN.knowledge))
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
