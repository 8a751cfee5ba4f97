"""The kitchen SAM2: its configuration, its shipped weights, and how they were trained.

`python -m foodseg.kitchen.pretraining.segmenter` rebuilds the weights from nothing, on one CPU
core: dense targets for the image encoder, then prompts, whose references are exact at first and
later as wrong as a language model's. `segmenter_teaching.py` says why prompts alone don't do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from tqdm import tqdm

from foodseg.common.provenance import find_commit
from foodseg.data.references import Reference
from foodseg.kitchen.dataset import BASE_PLATE_SEEDS, BASE_VALIDATION_SEEDS
from foodseg.kitchen.plates import DRAWING_VERSION, draw_plate
from foodseg.kitchen.pretraining.segmenter_plates import (
    PlateTensors,
    cached_training_plates,
    class_shares,
    flip,
    jitter,
    plate_references,
)
from foodseg.kitchen.pretraining.segmenter_teaching import TrainingHeads, prompt_loss, settle
from foodseg.models.sam2 import KITCHEN_SAM2, build_sam2, decode_prompts, encode_pixels
from foodseg.models.segmenter import Segmenter, normalise, scale_prompts
from foodseg.presets import PACKAGE

KITCHEN_SAM2_FOLDER = PACKAGE / "weights" / "kitchen_sam2"

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
    logits, ious, tokens = decode_prompts(
        model, features[batch.plate], tuple(f[batch.plate] for f in levels), corners
    )
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
    known = {id(parameter) for parameter in encoder}
    rest = [p for module in (model, heads) for p in module.parameters() if id(p) not in known]
    groups = [
        {"params": encoder, "rate": plan.encoder_rate},
        {"params": rest, "rate": plan.decoder_rate},
    ]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=plan.weight_decay)


def train_kitchen_segmenter(work: Path, plan: Plan, workers: int = 1) -> SAM2Base:
    """Train from nothing; `work` keeps plates and a checkpoint, so a second call continues."""
    work.mkdir(parents=True, exist_ok=True)
    side = KITCHEN_SAM2.image_size
    plates = cached_training_plates(work, BASE_PLATE_SEEDS, plan.plates, side, workers)
    torch.manual_seed(plan.seed)
    model, heads = build_sam2(KITCHEN_SAM2).train(), TrainingHeads(KITCHEN_SAM2.neck_dim)
    optimiser, first = make_optimiser(model, heads, plan), 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
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
            torch.save(state | {"step": step + 1}, checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)
    return model.eval()


def _update(optimiser: torch.optim.AdamW, loss: Tensor, factor: float) -> None:
    optimiser.zero_grad()
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = factor * group["rate"]
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()


def validate(segmenter: Segmenter, first_seed: int, count: int, strength: float = 0.0) -> float:
    """Mean IoU over all foods of drawn plates, at the plates' own size, by the way users go.

    `strength` makes the references wrong (see `jitter`); 0 leaves them exact.
    """
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


def save_kitchen_segmenter(model: SAM2Base, folder: Path, provenance: dict[str, object]) -> None:
    """Write the weights in float16 with what made them and how good they are."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.half().contiguous() for name, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    segmenter = Segmenter.load(folder / "model.safetensors", KITCHEN_SAM2)
    provenance["validation"] = {
        "plates": f"{BASE_VALIDATION_SEEDS}..{BASE_VALIDATION_SEEDS + 99}",
        "mean_iou_exact_references": round(validate(segmenter, BASE_VALIDATION_SEEDS, 100), 4),
        "mean_iou_wrong_references": round(validate(segmenter, BASE_VALIDATION_SEEDS, 100, 1.0), 4),
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/kitchen_sam2"))
    parser.add_argument("--output", type=Path, default=KITCHEN_SAM2_FOLDER)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw plates")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan, started = Plan(), time.time()
    model = train_kitchen_segmenter(arguments.work, plan, arguments.workers)
    provenance = {
        "made_by": "python -m foodseg.kitchen.pretraining.segmenter",
        "plan": asdict(plan),
        "training_plates": f"{BASE_PLATE_SEEDS}..{BASE_PLATE_SEEDS + plan.plates - 1}",
        "drawing_version": DRAWING_VERSION,
        "seconds": round(time.time() - started),
        "device": f"cpu, 1 thread, {platform.machine()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "commit": find_commit(),
    }
    save_kitchen_segmenter(model, arguments.output, provenance)


if __name__ == "__main__":
    main()
