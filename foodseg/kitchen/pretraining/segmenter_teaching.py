"""What a small SAM2 needs to learn from random weights, besides prompts and their masks.

Trained on prompts alone its mask decoder did not find the place that a prompt pointed at (IoU 0.2
to 0.4). Three things cure that:
1. dense targets first: the image encoder learns which food or shape every cell shows
   (`TrainingHeads`);
2. a decoder that starts out looking where it is told (`settle`);
3. an auxiliary loss by which each mask token must name the kind of shape it was asked for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from foodseg.kitchen.pretraining.segmenter_scenes import CLASSES
from foodseg.models.mask_loss import mask_losses
from foodseg.models.sam2 import encode_pixels
from foodseg.models.segmenter import normalise


class TrainingHeads(nn.Module):
    """Readers of the dense and auxiliary targets; dropped after the training."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cells = nn.Sequential(
            nn.Conv2d(dim + dim // 8 + dim // 4, 64, 1), nn.GELU(), nn.Conv2d(64, CLASSES, 1)
        )
        self.tokens = nn.Linear(dim, CLASSES)

    def read_cells(self, features: Tensor, high_resolution: tuple[Tensor, Tensor]) -> Tensor:
        """Class logits (B, CLASSES, s/4, s/4) from what the mask decoder is given."""
        finest, finer = high_resolution
        size = finest.shape[-2:]
        levels = [F.interpolate(f, size, mode="bilinear") for f in (finer, features)]
        return self.cells(torch.cat([finest, *levels], dim=1))


@torch.no_grad()
def settle(model: SAM2Base, heads: TrainingHeads, images: Tensor) -> None:
    """Prepare the mask decoder, between the dense stage and the prompts.

    The features, which have outgrown the positional encoding, shrink to standard deviation 0.5; the
    dense head makes up for it. Each attention head compares the sine and cosine of a few
    frequencies: its logit is largest where query and key are at the same place.
    """
    spread = encode_pixels(model, normalise(images.float() / 255))[0].std()
    prompts, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    linear = [*model.image_encoder.neck.convs.parameters(), model.no_mem_embed]
    for parameter in (*linear, decoder.conv_s0.bias, decoder.conv_s1.bias):
        parameter.mul_(0.5 / spread)
    heads.cells[0].weight.div_(0.5 / spread)
    for embedding in (*prompts.point_embeddings, prompts.not_a_point_embed):
        embedding.weight.mul_(0.1)
    prompts.no_mask_embed.weight.zero_()
    decoder.mask_tokens.weight.mul_(0.3)
    decoder.iou_token.weight.mul_(0.3)
    frequencies = prompts.pe_layer.positional_encoding_gaussian_matrix.norm(dim=0).argsort()
    coarse, fine = frequencies.chunk(2)
    for layer in decoder.transformer.layers:
        _compare_positions(layer.cross_attn_token_to_image, fine, len(frequencies))
        _compare_positions(layer.cross_attn_image_to_token, coarse, len(frequencies))
    _compare_positions(decoder.transformer.final_attn_token_to_image, fine, len(frequencies))


def _compare_positions(attention: nn.Module, chosen: Tensor, total: int) -> None:
    # SAM's positional encoding is (sines, cosines); its head dimension is even here, so the two
    # rows that belong to one frequency stay in one head.
    chosen = chosen[torch.randperm(len(chosen))]
    rows = 2 * torch.arange(len(chosen))
    selection = torch.zeros_like(attention.q_proj.weight)
    selection[rows, chosen] = selection[rows + 1, chosen + total] = 2.5
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.mul_(0.1).add_(selection)
        projection.bias.zero_()


def prompt_loss(logits: Tensor, ious: Tensor, target: Tensor) -> Tensor:
    """Loss of N prompts: logits (N, 3, h, w), predicted IoU (N, 3), target shares (N, 1, h, w).

    BCE + Dice, half for the best of the three masks and half for all; and each mask's own IoU.
    """
    target = target.expand_as(logits)
    bce, dice = mask_losses(logits, target)
    losses = 5 * bce + dice
    mask, truth = logits > 0, target > 0.5
    union = (mask | truth).sum((-2, -1)).clamp(min=1)
    reached = (mask & truth).sum((-2, -1)) / union
    return (0.5 * losses.amin(1) + 0.5 * losses.mean(1)).mean() + F.mse_loss(ious, reached)
