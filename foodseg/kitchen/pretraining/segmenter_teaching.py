"""What a small SAM2 needs to learn from random weights, besides prompts and their masks.

Trained on prompts alone its mask decoder did not find the place that a prompt pointed at (IoU 0.2
to 0.4). Four things cure that:
1. dense targets first: the image encoder learns which food or shape every cell shows
   (`TrainingHeads`);
2. a decoder that starts out looking where it is told (`settle`);
3. an auxiliary loss by which each mask token must name the kind of shape it was asked for;
4. features that tell whether two cells show the same thing, whatever it is, on shapes and on foods
   (`TrainingHeads.affinity_loss`): with classes alone the decoder learns the shapes' classes by
   heart and takes a food's most striking part for the whole (docs/kitchen.md has the numbers).
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

AFFINITY_CELLS = 160  # of a scene, compared with one another


class TrainingHeads(nn.Module):
    """Readers of the dense and auxiliary targets; dropped after the training."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        given = dim + dim // 8 + dim // 4
        self.cells = nn.Sequential(nn.Conv2d(given, 64, 1), nn.GELU(), nn.Conv2d(64, CLASSES, 1))
        self.tokens = nn.Linear(dim, CLASSES)
        self.codes = nn.Conv2d(given, 16, 1)
        self.nearness = nn.Parameter(torch.tensor([2.0, 1.0]))  # at distance 0, and its decline

    def affinity_loss(self, cells: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Whether two cells show the same thing, from the distance of their codes; a mean BCE.

        cells: `decoder_cells`. classes: (B, s, s) of the same scenes. Things of a scene are drawn
        equally often, whatever their size, and same and other pairs have the same weight.
        """
        middle = classes[:, 2::4, 2::4].flatten(1).long()
        shares = torch.stack([1 / row.bincount(minlength=CLASSES)[row] for row in middle])
        chosen = torch.multinomial(shares, AFFINITY_CELLS, generator=generator)
        codes = self.codes(cells).flatten(2).mT
        codes = codes.gather(1, chosen[..., None].expand(-1, -1, codes.shape[2]))
        shown = middle.gather(1, chosen)
        same = (shown[:, :, None] == shown[:, None]).float()
        logits = self.nearness[0] - self.nearness[1] * torch.cdist(codes, codes).square()
        weights = torch.where(same > 0, 0.5 / same.mean(), 0.5 / (1 - same.mean()))
        return F.binary_cross_entropy_with_logits(logits, same, weights)


def decoder_cells(features: Tensor, high_resolution: tuple[Tensor, Tensor]) -> Tensor:
    """What the mask decoder is given, level on level: (B, D + D/4 + D/8, s/4, s/4)."""
    finest, finer = high_resolution
    size = finest.shape[-2:]
    levels = [F.interpolate(f, size, mode="bilinear") for f in (finer, features)]
    return torch.cat([finest, *levels], dim=1)


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
    for head in (heads.cells[0], heads.codes):
        head.weight.div_(0.5 / spread)
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
