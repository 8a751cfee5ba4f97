"""Qwen2.5-VL's vision tower over a batch of photos, in few large calls.

`transformers`' forward cuts patches with a 3-D convolution and, without the flash-attn package,
calls attention once for each window, photo and layer: 14,336 calls for eight photos of 840x840.
Here the same weights see the same numbers in another order: windows of equal length lie together,
so that a layer takes one call for each length that occurs (three at 840x840), and the convolution,
whose stride is its kernel, is the matrix product that it amounts to.

The loaded tower is read, never changed: names, shapes and saved files stay the official ones. That
is why this is a function and neither a registered attention function (`transformers` hands window
boundaries only to those whose name says flash, and asks the device for their lengths) nor a swap
of modules. tests/test_vision.py holds it to the tower's own forward.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

# Pieces of the sequence that attend to themselves: how many of which length, one after another.
Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """The order in which the patches of some photos go through the tower, and its way back.

    order: (M,) int64, the merged tokens (of 2x2 patches) sorted by their window's length; back:
    its inverse. positions: (N, 2) int64, row and column of each patch in that order. windows: the
    runs of that order. by_photo: (N,) int64, takes patches from that order to photos sorted by
    size; from_photo: its inverse; photos: the runs of photos.
    """

    order: torch.Tensor
    back: torch.Tensor
    positions: torch.Tensor
    windows: Runs
    by_photo: torch.Tensor
    from_photo: torch.Tensor
    photos: Runs


def cut_patches(photos: Sequence[Image.Image], processor, device: torch.device) -> torch.Tensor:
    """Normalised patches (N, channels * frames * side * side), float32, of RGB photos of one size.

    The values of `Qwen2VLImageProcessorPil` without resizing, but computed on `device`, to which
    the photos travel as bytes. Width and height must be multiples of two patches.
    """
    pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).to(device)
    batch, height, width, channels = pixels.shape
    patch, merge = processor.patch_size, processor.merge_size
    rows, columns = height // patch // merge, width // patch // merge
    pixels = pixels.view(batch, rows, merge, patch, columns, merge, patch, channels)
    pixels = pixels.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, channels, 1, patch * patch)
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    # Divided: rounded as the processor does it, which multiplies by the inverse in float64.
    pixels = pixels.float().div_(1 / processor.rescale_factor).sub_(mean).div_(std)
    # To the tower a photo is a film of equal frames.
    return pixels.expand(-1, -1, processor.temporal_patch_size, -1).flatten(1)


def embed_patches(tower: nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """The tower's patch embedding (N, hidden) of patches (N, ...), as a matrix product.

    The convolution's stride is its kernel, so each patch meets the kernel once.
    """
    weight = tower.patch_embed.proj.weight
    return F.linear(patches.to(weight.dtype), weight.flatten(1))


def encode_patches(
    tower: nn.Module, patches: torch.Tensor, grids: Sequence[tuple[int, int]]
) -> list[torch.Tensor]:
    """Visual tokens (V, D) of each photo, in the tower's dtype, by the tower's own weights.

    tower: `Qwen2_5_VisionTransformerPretrainedModel`. patches: (N, ...) of all photos in turn, as
    `cut_patches` or the official image processor has them. grids: patches down and across, for
    each photo. Equal to the tower's own forward up to rounding.
    """
    merge = tower.config.spatial_merge_size
    layout = _layout(
        tuple(grids), merge, tower.config.window_size, tower.config.patch_size, patches.device
    )
    hidden = embed_patches(tower, patches).unflatten(0, (-1, merge**2))[layout.order].flatten(0, 1)
    rotary = tower.rotary_pos_emb(hidden, layout.positions)
    rotary_by_photo = tuple(part[layout.by_photo] for part in rotary)
    for index, block in enumerate(tower.blocks):
        normed = block.norm1(hidden)
        if index in tower.fullatt_block_indexes:
            mixed = _attend(block.attn, normed[layout.by_photo], rotary_by_photo, layout.photos)
            mixed = mixed[layout.from_photo]
        else:
            mixed = _attend(block.attn, normed, rotary, layout.windows)
        hidden = hidden + mixed
        hidden = hidden + block.mlp(block.norm2(hidden))
    lengths = [rows * columns // merge**2 for rows, columns in grids]
    return list(tower.merger(hidden)[layout.back].split(lengths))


def _attend(attention: nn.Module, hidden: torch.Tensor, rotary, runs: Runs) -> torch.Tensor:
    """Attention within each piece: one call for all pieces of one length."""
    queries, keys, values = (
        attention.qkv(hidden).unflatten(1, (3, attention.num_heads, -1)).unbind(1)
    )
    queries, keys = apply_rotary_pos_emb_vision(queries, keys, *rotary)
    sizes = [count * length for count, length in runs]
    by_run = zip(*(x.split(sizes) for x in (queries, keys, values)), runs, strict=True)
    mixed = []
    for *parts, run in by_run:
        parts = (part.unflatten(0, run).transpose(1, 2) for part in parts)
        result = F.scaled_dot_product_attention(*parts, scale=attention.scaling)
        mixed.append(result.transpose(1, 2).reshape(-1, hidden.shape[1]))
    return attention.proj(torch.cat(mixed))


@functools.lru_cache(maxsize=8)
def _layout(
    grids: tuple[tuple[int, int], ...], merge: int, window: int, patch: int, device: torch.device
) -> Layout:
    """Computed on the CPU, once for photos of these sizes: no layer waits for the device."""
    unit = merge**2
    table = torch.tensor([(1, rows, columns) for rows, columns in grids])
    windowed, ends = get_vision_window_index(
        table, spatial_merge_size=merge, window_size=window, patch_size=patch
    )
    order, windows = _sort_pieces(windowed, (ends.diff() // unit).tolist())
    back = order.argsort()
    by_photo, photos = _sort_pieces(back, [rows * columns // unit for rows, columns in grids])
    by_photo = (by_photo[:, None] * unit + torch.arange(unit)).flatten()
    positions = get_vision_position_ids(table, merge).unflatten(0, (-1, unit))[order].flatten(0, 1)
    return Layout(
        order=order.to(device),
        back=back.to(device),
        positions=positions.to(device),
        windows=tuple((count, length * unit) for count, length in windows),
        by_photo=by_photo.to(device),
        from_photo=by_photo.argsort().to(device),
        photos=tuple((count, length * unit) for count, length in photos),
    )


def _sort_pieces(index: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, Runs]:
    """`index` with its pieces sorted by length, and how many there are of each."""
    pieces = sorted(index.split(lengths), key=len)
    runs = tuple((lengths.count(length), length) for length in sorted(set(lengths)))
    return torch.cat(pieces), runs
