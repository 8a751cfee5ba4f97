"""How the shipped kitchen SAM2 was trained: `python -m foodseg.kitchen.pretraining.segmenter`.

On one CPU core, from random weights: dense targets for the image encoder, on plates of food and on
generic shapes, then prompts, whose references are exact at first and later as wrong as a language
model's. Prompts ask for shapes only, so the mask decoder has never had to cut out a food: a tool
that trains it finds something to learn. `segmenter_teaching.py` says why prompts alone are not
enough. float32 throughout: bfloat16 is slower here, even where the processor has it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from foodseg.common.files import write_json
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, BASE_VALIDATION_SEEDS
from foodseg.kitchen.plates import DRAWING_VERSION
from foodseg.kitchen.pretraining.segmenter_check import validate
from foodseg.kitchen.pretraining.segmenter_scenes import (
    Scenes,
    class_shares,
    draw_food_scenes,
    draw_shape_scenes,
    flip,
    jitter,
)
from foodseg.kitchen.pretraining.segmenter_teaching import (
    TrainingHeads,
    decoder_cells,
    prompt_loss,
    settle,
)
from foodseg.kitchen.pretraining.work_folder import WORK_HELP, load, made_once, save_whole
from foodseg.models.sam2 import build_sam2, decode_prompts, encode_pixels
from foodseg.models.sam2_checkpoints import KITCHEN_SAM2
from foodseg.models.segmenter import Segmenter, normalise
from foodseg.presets import KITCHEN

CHECKPOINT_EVERY = 150  # steps


@dataclass(frozen=True)
class Plan:
    """How the shipped weights are trained; everything random derives from `seed`."""

    seed: int = 0
    plates: int = 500  # of food: dense targets only
    shapes: int = 1500  # scenes of generic shapes: dense targets and prompts
    batch_plates: int = 4
    batch_shapes: int = 8  # scenes, about 27 prompts
    dense_steps: int = 300
    prompt_steps: int = 3400
    encoder_rate: float = 1e-3
    decoder_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 30
    classes_until: float = 0.5  # share of the prompt steps by which classes have faded out
    exact_until: float = 0.3  # and after which references get worse
    worst_from: float = 0.5  # and from which on they are as wrong as they will be


def training_loss(
    model: SAM2Base, heads: TrainingHeads, shapes: Scenes, plates: Scenes, plan: Plan, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one step and its parts; its randomness derives from seed and step alone."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    chosen = shapes.draw(plan.batch_shapes, generator)
    batch = flip(chosen.followed_by(plates.draw(plan.batch_plates, generator)), generator)
    features, levels = encode_pixels(model, normalise(batch.images.float() / 255))
    shares = class_shares(batch.classes)
    cells = decoder_cells(features, levels)
    dense = F.cross_entropy(heads.cells(cells), shares)
    affinity = heads.affinity_loss(cells, batch.classes, generator)
    if step < plan.dense_steps:
        return dense + affinity, {"dense": dense.item(), "affinity": affinity.item()}
    progress = (step - plan.dense_steps) / plan.prompt_steps
    strength = (progress - plan.exact_until) / (plan.worst_from - plan.exact_until)
    side = KITCHEN_SAM2.image_size
    corners = jitter(batch.corners, min(max(strength, 0.0), 1.0), side, generator)
    levels = tuple(level[batch.scene] for level in levels)
    logits, ious, tokens = decode_prompts(model, features[batch.scene], levels, corners)
    prompts = prompt_loss(logits, ious, shares[batch.scene, batch.kind][:, None])
    named = heads.tokens(tokens).flatten(0, 1)
    naming = F.cross_entropy(named, batch.kind.repeat_interleave(tokens.shape[1]))
    losses = {"prompts": prompts, "affinity": affinity, "naming": naming, "dense": dense}
    # Classes help the decoder to find its place; later they keep it from seeing things as wholes.
    loss = prompts + affinity + max(0.0, 1 - progress / plan.classes_until) * (dense + naming)
    return loss, {name: part.item() for name, part in losses.items()}


def learning_rate_factor(plan: Plan, step: int) -> float:
    """Warm-up at the start of either stage; a cosine to 0 over the prompts."""
    if step < plan.dense_steps:
        return min(1.0, (step + 1) / plan.warmup)
    step -= plan.dense_steps
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / plan.prompt_steps)
    return min(1.0, (step + 1) / plan.warmup) * cosine


def make_optimiser(model: SAM2Base, heads: TrainingHeads, plan: Plan) -> torch.optim.AdamW:
    encoder = list(model.image_encoder.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("image_encoder.")]
    rest = [*others, *heads.parameters()]
    groups = [
        {"params": encoder, "rate": plan.encoder_rate},
        {"params": rest, "rate": plan.decoder_rate},
    ]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=plan.weight_decay)


def train_kitchen_segmenter(work: Path, plan: Plan, workers: int = 1) -> SAM2Base:
    """Train from nothing; `work` keeps scenes and a checkpoint, so a second call continues."""
    shapes = _kept(work, "shapes", draw_shape_scenes, plan.shapes, workers)
    plates = _kept(work, "plates", draw_food_scenes, plan.plates, workers)
    torch.manual_seed(plan.seed)
    model, heads = build_sam2(KITCHEN_SAM2).train(), TrainingHeads(KITCHEN_SAM2.neck_dim)
    optimiser, first = make_optimiser(model, heads, plan), 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.is_file():
        state = load(checkpoint)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    last = plan.dense_steps + plan.prompt_steps
    bar = tqdm(range(first, last), initial=first, total=last, desc="train SAM2", mininterval=10)
    for step in bar:
        if step == plan.dense_steps:
            torch.manual_seed(plan.seed)
            settle(model, heads, shapes.images[:64])
            optimiser = make_optimiser(model, heads, plan)
        loss, parts = training_loss(model, heads, shapes, plates, plan, step)
        _update(optimiser, loss, learning_rate_factor(plan, step))
        bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()}, refresh=False)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == last:
            trained = {"model": model, "heads": heads, "optimiser": optimiser}
            state = {name: part.state_dict() for name, part in trained.items()}
            save_whole(state | {"step": step + 1}, checkpoint)
    return model.eval()


def _kept(work: Path, name: str, draw: Callable, count: int, workers: int) -> Scenes:
    wanted = BASE_PLATE_SEEDS, count, KITCHEN_SAM2.image_size
    file = work / f"{name}-{DRAWING_VERSION}-{'-'.join(map(str, wanted))}.pt"
    return Scenes(**made_once(file, lambda: vars(draw(*wanted, workers))))


def _update(optimiser: torch.optim.AdamW, loss: Tensor, factor: float) -> None:
    optimiser.zero_grad()
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = factor * group["rate"]
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()


def save_kitchen_segmenter(model: SAM2Base, folder: Path, made: dict) -> None:
    """Write the weights in float16, and how they were made and how good they are as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.half().contiguous() for name, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    segmenter = Segmenter.load(folder / "model.safetensors", KITCHEN_SAM2)
    first, count = BASE_VALIDATION_SEEDS, 100
    ious = {kind: round(iou, 4) for kind, iou in validate(segmenter, first, count).items()}
    validation = {"plates": f"{first}..{first + count - 1}", "mean_iou_by_reference": ious}
    write_json(folder / "provenance.json", made | {"validation": validation})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/kitchen_sam2"), help=WORK_HELP)
    parser.add_argument("--output", type=Path, default=Path(KITCHEN.segmenter).parent)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan, started = Plan(), time.time()
    model = train_kitchen_segmenter(arguments.work, plan, arguments.workers)
    made = {
        "made_by": "python -m foodseg.kitchen.pretraining.segmenter",
        "plan": asdict(plan),
        "training_plates": f"{BASE_PLATE_SEEDS}..{BASE_PLATE_SEEDS + plan.plates - 1}",
        "training_shapes": f"{BASE_PLATE_SEEDS}..{BASE_PLATE_SEEDS + plan.shapes - 1}",
        "drawing_version": DRAWING_VERSION,
        "seconds": round(time.time() - started),
        "cpu_seconds": round(time.process_time()),
        **provenance("cpu"),
    }
    save_kitchen_segmenter(model, arguments.output, made)


if __name__ == "__main__":
    main()
