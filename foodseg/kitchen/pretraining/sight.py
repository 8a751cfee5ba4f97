"""Stage 1 of the kitchen MLLM's curriculum: the vision tower alone, with dense targets.

Next-token prediction alone teaches a model of this size names and no places. So each visual token
is first asked what lies under it, where it is, and where the food that it belongs to lies; and
each food's name, as a query over the visual tokens, is asked for that food's box and point.
Classes are the token embeddings of the foods' names, which ties vision to words.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from foodseg.kitchen.pretraining.mllm import MERGE, PATCH, SIDE, TEXT_SIZES, VISUAL_TOKENS

WIDTH = TEXT_SIZES["hidden_size"]
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def cut_patches(images: torch.Tensor) -> torch.Tensor:
    """uint8 images (B, 168, 168, 3) to normalised patches (B, 144, 588) in the processor's order.

    As Qwen2-VL's image processor, except that the second, equal frame is left out.
    """
    mean, std = images.new_tensor(MEAN, dtype=torch.float32), torch.tensor(STD).to(images.device)
    pixels = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    side = SIDE // PATCH // MERGE
    pixels = pixels.reshape(-1, 3, side, MERGE, PATCH, side, MERGE, PATCH)
    return pixels.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(len(images), -1, 3 * PATCH * PATCH)


def encode_images(visual: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Visual tokens (B, 36, 256) of uint8 images (B, 168, 168, 3) by Qwen2.5-VL's own tower.

    Equal to the tower's forward for images of this one size, but batched: `transformers` loops
    over images and windows when flash attention isn't there.
    """
    patches = cut_patches(images)
    kernel = visual.patch_embed.proj.weight
    hidden = F.linear(patches, kernel.sum(2).flatten(1))
    order, rotary = _window_order(visual, images.device)
    hidden = hidden.view(len(images), VISUAL_TOKENS, MERGE * MERGE, -1)[:, order]
    hidden = hidden.reshape(len(images), VISUAL_TOKENS * MERGE * MERGE, -1)
    for index, block in enumerate(visual.blocks):
        windows = 1 if index in visual.fullatt_block_indexes else 4
        hidden = hidden + _attend(block.attn, block.norm1(hidden), rotary, windows)
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged = visual.merger(hidden).view(len(images), VISUAL_TOKENS, -1)
    return merged[:, torch.argsort(order)]


def _window_order(visual: nn.Module, device: torch.device):
    grid = torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]], device=device)
    positions = get_vision_position_ids(grid, MERGE)
    order, _ = get_vision_window_index(
        grid, spatial_merge_size=MERGE, window_size=visual.window_size, patch_size=PATCH
    )
    rotary = visual.rotary_pos_emb(torch.zeros(1, device=device), positions)
    width = MERGE * MERGE
    return order, tuple(
        part.view(VISUAL_TOKENS, width, -1)[order].view(VISUAL_TOKENS * width, -1)
        for part in rotary
    )


def _attend(attention: nn.Module, hidden: torch.Tensor, rotary, windows: int) -> torch.Tensor:
    batch, length, width = hidden.shape
    queries, keys, values = (
        attention.qkv(hidden).view(batch, length, 3, attention.num_heads, -1).unbind(2)
    )
    cosine, sine = (part.unsqueeze(-2).to(queries.dtype) for part in rotary)
    queries, keys = (part * cosine + rotate_half(part) * sine for part in (queries, keys))
    shape = batch * windows, length // windows, attention.num_heads, -1
    queries, keys, values = (
        part.reshape(shape).transpose(1, 2) for part in (queries, keys, values)
    )
    # plain products: the fused kernel's backward is three times slower on a CPU at this size
    scores = (queries * attention.scaling) @ keys.transpose(-1, -2)
    mixed = scores.softmax(-1).to(values.dtype) @ values
    return attention.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class SightHeads(nn.Module):
    """What stage 1 reads off the visual tokens; dropped afterwards."""

    def __init__(self, foods: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(0.1 * torch.randn(1, WIDTH))
        self.patches = nn.Linear(WIDTH, MERGE * MERGE * (foods + 1))
        self.position = nn.Linear(WIDTH, 2)
        self.own = nn.Linear(WIDTH, 6)
        self.pooled = nn.Linear(WIDTH, 6)

    def loss(self, seen: torch.Tensor, names: torch.Tensor, targets: dict) -> dict:
        """Losses by name; `seen` (B, 36, 256), `names` (foods, 256), targets of `sight_targets`.

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


def sight_targets(cells: torch.Tensor, foods: torch.Tensor, references: torch.Tensor) -> dict:
    """Dense targets of a batch of `Pictures` rows (cells, foods, references), as tensors."""
    side = SIDE // PATCH // MERGE
    patches = (
        cells.view(-1, side, MERGE, side, MERGE)
        .transpose(2, 3)
        .reshape(-1, VISUAL_TOKENS, MERGE * MERGE)
    )
    counts = F.one_hot(patches.long(), 256).sum(2)
    counts[..., 0] = 0
    food = torch.where(counts.amax(-1) > 0, counts.argmax(-1), 0)
    match = (foods[:, None] == food[..., None]) & (food[..., None] > 0)
    own = (match[..., None] * references[:, None]).sum(2) / SIDE
    line = (torch.arange(side, device=cells.device) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    return {
        "food": food,
        "patches": patches.long(),
        "own": own,
        "position": torch.stack([x, y], -1).view(1, VISUAL_TOKENS, 2),
        "foods": foods,
        "references": references / SIDE,
    }
