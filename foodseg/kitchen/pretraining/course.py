"""What the stages of the kitchen MLLM's curriculum share: their sizes, model, heads and plates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from foodseg.kitchen.dataset import BASE_PLATE_SEEDS
from foodseg.kitchen.plates import DRAWING_VERSION
from foodseg.kitchen.pretraining.grounding import GroundingHeads, Prefix, answer_losses, read_prefix
from foodseg.kitchen.pretraining.lessons import FOOD_NAMES, Batch, Reader, tokenizer_texts
from foodseg.kitchen.pretraining.mllm import build_model
from foodseg.kitchen.pretraining.mllm_plates import Pictures, draw_pictures, take_pictures
from foodseg.kitchen.pretraining.tokenizer import train_tokenizer
from foodseg.kitchen.pretraining.vision import VisionHeads, dense_targets, encode_images
from foodseg.kitchen.pretraining.work_folder import made_once

VOCABULARY = 1024


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
    answers_steps: int = 2000
    answers_plates: int = 16
    answers_rate: float = 1e-3
    tower_rate: float = 3e-4  # of the vision tower, while answers are learnt
    several_share: float = 0.5  # of the batches of right answers, for several foods
    habits_steps: int = 1000
    habits_rate: float = 5e-4
    # Of names and numbers while habits are learnt, so that a sampled answer is worth what its
    # habits are: else chance in its digits decides about most rewards.
    fact_temperature: float = 2.0


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

    def answer_losses(
        self, prefix: Prefix, batch: Batch, temperature: float = 1.0
    ) -> dict[str, torch.Tensor]:
        return answer_losses(self.model, self.heads, prefix, batch, temperature)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "vision": self.vision_heads, "heads": self.heads}


def kept_pictures(work: Path, first_seed: int, count: int, workers: int) -> Pictures:
    """Plates of seeds from `first_seed` on, drawn once for a work folder."""

    def draw() -> dict[str, torch.Tensor]:
        pictures = draw_pictures(first_seed, count, workers)
        return {name: torch.from_numpy(rows) for name, rows in vars(pictures).items()}

    rows = made_once(work / f"pictures-{DRAWING_VERSION}-{first_seed}-{count}.pt", draw)
    return Pictures(**{name: row.numpy() for name, row in rows.items()})
