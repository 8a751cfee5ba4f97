"""Stage 1 of the kitchen MLLM's curriculum: the vision tower alone, with dense targets.

Each visual token is asked what lies under it, where it is, and where the food that it belongs to
lies; each food's name, as a query over the visual tokens, is asked for that food's box and point.
Classes are the token embeddings of the foods' names, which ties vision to words.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from foodseg.kitchen.pretraining.mllm import GRID, MERGE, SIDE, TEXT_SIZES, build_image_processor
from foodseg.kitchen.pretraining.mllm_plates import Pictures
from foodseg.models.fast.vision import cut_patches, encode_patches

WIDTH = TEXT_SIZES["hidden_size"]


def encode_images(tower: nn.Module, images: np.ndarray) -> torch.Tensor:
    """Visual tokens (B, 36, 256) of uint8 images (B, 168, 168, 3), with gradients for the tower."""
    device = tower.patch_embed.proj.weight.device
    patches = cut_patches(images, build_image_processor(), device)
    # In training the fused kernel takes a third more time on a CPU at this size.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.stack(encode_patches(tower, patches, [(GRID, GRID)] * len(images)))


class VisionHeads(nn.Module):
    """Linear readers of the dense targets; dropped after the training."""

    def __init__(self, foods: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(0.1 * torch.randn(1, WIDTH))
        self.patches = nn.Linear(WIDTH, MERGE * MERGE * (foods + 1))
        self.position = nn.Linear(WIDTH, 2)
        self.own = nn.Linear(WIDTH, 6)
        self.pooled = nn.Linear(WIDTH, 6)

    def losses(self, seen: torch.Tensor, names: torch.Tensor, targets: dict) -> dict:
        """Losses by name; seen (B, 36, 256), names (foods, 256), targets of `dense_targets`.

        Coordinates are in units of the image's side.
        """
        seen = F.rms_norm(seen.float(), (WIDTH,))
        classes = torch.cat([self.nothing, names.float()])
        food = F.cross_entropy((seen @ classes.T).flatten(0, 1), targets["food"].flatten())
        patches = self.patches(seen).unflatten(-1, (MERGE * MERGE, -1))
        patch = F.cross_entropy(patches.flatten(0, 2), targets["patches"].flatten())
        position = F.l1_loss(self.position(seen), targets["position"].expand(len(seen), -1, -1))
        inside = targets["food"] > 0
        own = F.l1_loss(self.own(seen)[inside], targets["own"][inside])
        queries = classes[targets["foods"].long()]
        weights = (queries @ seen.transpose(1, 2)).softmax(-1)
        there = targets["foods"] > 0
        pooled = F.l1_loss(self.pooled(weights @ seen)[there], targets["references"][there])
        return {"food": food, "patch": patch, "position": position, "own": own, "pooled": pooled}


def dense_targets(plates: Pictures, device: torch.device) -> dict[str, torch.Tensor]:
    """What `VisionHeads` should read off the visual tokens of these plates."""
    arrays = plates.cells, plates.foods, plates.references
    cells, foods, references = (torch.from_numpy(array).to(device) for array in arrays)
    side = GRID // MERGE
    patches = cells.view(-1, side, MERGE, side, MERGE).transpose(2, 3).flatten(3).flatten(1, 2)
    counts = F.one_hot(patches.long(), 256).sum(2)
    counts[..., 0] = 0
    food = torch.where(counts.amax(-1) > 0, counts.argmax(-1), 0)
    match = (foods[:, None] == food[..., None]) & (food[..., None] > 0)
    own = (match[..., None] * references[:, None]).sum(2) / SIDE
    line = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    return {
        "food": food,
        "patches": patches.long(),
        "own": own,
        "position": torch.stack([x, y], -1).view(1, -1, 2),
        "foods": foods,
        "references": references / SIDE,
    }
