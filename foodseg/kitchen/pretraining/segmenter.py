"""How the shipped kitchen SAM2 was trained: `python -m foodseg.kitchen.pretraining.segmenter`.

On one CPU core, from random weights: dense targets for the image encoder, then prompts, whose
references are exact at first and later as wrong as a language model's. `segmenter_teaching.py`
says why prompts alone are not enough.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from foodseg.common.files import write_json
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.data.references import Reference
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, BASE_VALIDATION_SEEDS
from foodseg.kitchen.plates import DRAWING_VERSION, draw_plate
from foodseg.kitchen.pretraining.segmenter_plates import (
    PlateTensors,
    class_shares,
    draw_training_plates,
    flip,
    jitter,
    plate_references,
)
from foodseg.kitchen.pretraining.segmenter_teaching import TrainingHeads, prompt_loss, settle
from foodseg.kitchen.pretraining.work_folder import WORK_HELP, load, made_once, save_whole
from foodseg.models.sam2 import KITCHEN_SAM2, build_sam2, decode_prompts, encode_pixels
from foodseg.models.segmenter import Segmenter, normalise, scale_prompts
from foodseg.presets import KITCHEN

CHECKPOINT_EVERY = 200  # steps


@dataclass(frozen=True)
class Plan:
    """How the shipped weights are trained; everything random derives from `seed`."""

    seed: int = 0
    plates: int = 3000
    batch: int = 16  # plates, about 55 prompts
    dense_steps: int = 300
    prompt_steps: int = 1800
    encoder_rate: float = 1e-3
    decoder_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 30
    exact_until: float = 0.3  # share of the prompt steps after which references get worse
    worst_from: float = 0.5  # and from which on they are as wrong as they will be


def training_loss(
    model: SAM2Base, heads: TrainingHeads, plates: PlateTensors, plan: Plan, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one step and its parts; its randomness derives from seed and step alone."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    chosen = torch.randperm(len(plates.images), generator=generator)[: plan.batch]
    batch = flip(plates.select(chosen), generator)
    features, levels = encode_pixels(model, normalise(batch.images.float() / 255))
    shares = class_shares(batch.classes)
    dense = F.cross_entropy(heads.read_cells(features, levels), shares)
    if step < plan.dense_steps:
        return dense, {"dense": dense.item()}
    progress = (step - plan.dense_steps) / plan.prompt_steps
    strength = (progress - plan.exact_until) / (plan.worst_from - plan.exact_until)
    side = KITCHEN_SAM2.image_size
    corners = jitter(batch.corners, min(max(strength, 0.0), 1.0), side, generator)
    levels = tuple(level[batch.plate] for level in levels)
    logits, ious, tokens = decode_prompts(model, features[batch.plate], levels, corners)
    prompts = prompt_loss(logits, ious, shares[batch.plate, batch.food][:, None])
    named = heads.tokens(tokens).flatten(0, 1)
    naming = F.cross_entropy(named, batch.food.repeat_interleave(tokens.shape[1]))
    parts = {"prompts": prompts.item(), "naming": naming.item(), "dense": dense.item()}
    return prompts + (1 - progress) * (dense + naming), parts


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
    """Train from nothing; `work` keeps plates and a checkpoint, so a second call continues."""
    plates = _kept_plates(work, plan, workers)
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
            settle(model, heads, plates.images[:64])
            optimiser = make_optimiser(model, heads, plan)
        loss, parts = training_loss(model, heads, plates, plan, step)
        _update(optimiser, loss, learning_rate_factor(plan, step))
        bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()}, refresh=False)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == last:
            trained = {"model": model, "heads": heads, "optimiser": optimiser}
            state = {name: part.state_dict() for name, part in trained.items()}
            save_whole(state | {"step": step + 1}, checkpoint)
    return model.eval()


def _kept_plates(work: Path, plan: Plan, workers: int) -> PlateTensors:
    wanted = BASE_PLATE_SEEDS, plan.plates, KITCHEN_SAM2.image_size
    file = work / f"plates-{DRAWING_VERSION}-{'-'.join(map(str, wanted))}.pt"
    plates = made_once(file, lambda: vars(draw_training_plates(*wanted, workers)))
    return PlateTensors(**plates)


def _update(optimiser: torch.optim.AdamW, loss: Tensor, factor: float) -> None:
    optimiser.zero_grad()
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = factor * group["rate"]
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()


def validate(segmenter: Segmenter, first_seed: int, count: int, strength: float = 0.0) -> float:
    """Mean IoU over all foods of drawn plates, at their own size; strength: of `jitter`."""
    generator = torch.Generator().manual_seed(first_seed)
    ious = []
    for seed in range(first_seed, first_seed + count):
        plate = draw_plate(seed)
        embedding = segmenter.embed_image(plate.image)
        references = plate_references(plate)
        if strength:
            references = _wrong_references(references, embedding.size, strength, generator)
        for mask, food in zip(segmenter.predict(embedding, references), plate.foods, strict=True):
            truth = plate.mask == food
            ious.append((mask & truth).sum() / (mask | truth).sum())
    return float(np.mean(ious))


def _wrong_references(
    references: list[Reference], size: tuple[int, int], strength: float, generator: torch.Generator
) -> list[Reference]:
    side = KITCHEN_SAM2.image_size
    corners = jitter(scale_prompts(references, size, side), strength, side, generator)
    back = (corners * torch.tensor(size) / side).long().flatten(1).tolist()
    return [Reference(box=tuple(row[:4]), point=tuple(row[4:])) for row in back]


def save_kitchen_segmenter(model: SAM2Base, folder: Path, made: dict) -> None:
    """Write the weights in float16, and how they were made and how good they are as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.half().contiguous() for name, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    segmenter = Segmenter.load(folder / "model.safetensors", KITCHEN_SAM2)
    first = BASE_VALIDATION_SEEDS
    validation = {
        "plates": f"{first}..{first + 99}",
        "mean_iou_exact_references": round(validate(segmenter, first, 100), 4),
        "mean_iou_wrong_references": round(validate(segmenter, first, 100, 1.0), 4),
    }
    write_json(folder / "provenance.json", made | {"validation": validation})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/kitchen_sam2"), help=WORK_HELP)
    parser.add_argument("--output", type=Path, default=Path(KITCHEN.segmenter).parent)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw plates")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan, started = Plan(), time.time()
    model = train_kitchen_segmenter(arguments.work, plan, arguments.workers)
    made = {
        "made_by": "python -m foodseg.kitchen.pretraining.segmenter",
        "plan": asdict(plan),
        "training_plates": f"{BASE_PLATE_SEEDS}..{BASE_PLATE_SEEDS + plan.plates - 1}",
        "drawing_version": DRAWING_VERSION,
        "seconds": round(time.time() - started),
        **provenance("cpu"),
    }
    save_kitchen_segmenter(model, arguments.output, made)


if __name__ == "__main__":
    main()
