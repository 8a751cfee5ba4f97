"""Drawn plates as tensors for training the kitchen SAM2: pictures, classes, references.

References are made wrong on purpose here (`jitter`), the way a language model's are: shifted as a
whole, and each corner on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foodseg.data.references import Reference, mask_to_reference
from foodseg.kitchen.dataset import draw_all
from foodseg.kitchen.plates import FOOD_NUMBERS, KITCHEN_FOODS, Plate, draw_plate
from foodseg.models.segmenter import scale_prompts, to_model_pixels

CLASSES = len(KITCHEN_FOODS) + 1  # background first


@dataclass(frozen=True)
class PlateTensors:
    """Plates at the model image's size, with one prompt for each food.

    images: uint8 (P, 3, s, s). classes: uint8 (P, s, s), FOOD_NUMBERS. plate, food: int64 (N,),
    which plate and which class a prompt asks for. corners: float32 (N, 3, 2), its box and point in
    pixels of the model image.
    """

    images: Tensor
    classes: Tensor
    plate: Tensor
    food: Tensor
    corners: Tensor

    def select(self, plates: Tensor) -> PlateTensors:
        """The given plates, renumbered from 0, with their prompts."""
        where = torch.full((len(self.images),), -1)
        where[plates] = torch.arange(len(plates))
        rows = (where[self.plate] >= 0).nonzero()[:, 0]
        prompts = where[self.plate[rows]], self.food[rows], self.corners[rows]
        return PlateTensors(self.images[plates], self.classes[plates], *prompts)


def plate_references(plate: Plate) -> list[Reference]:
    """One reference for each food of a plate, in the plate's pixels."""
    return [mask_to_reference(plate.mask == food) for food in plate.foods]


def draw_training_plates(first_seed: int, count: int, side: int, workers: int) -> PlateTensors:
    """Plates of seeds `first_seed`, `first_seed + 1`, ... at side x side pixels."""
    seeds = range(first_seed, first_seed + count)
    plates = draw_all(partial(_plate_arrays, side=side), seeds, workers)
    images, classes, foods, corners = zip(*plates, strict=True)
    plate = np.repeat(np.arange(count), [len(row) for row in foods])
    food = np.concatenate(foods).astype(np.int64)
    arrays = np.stack(images), np.stack(classes), plate, food, np.concatenate(corners)
    return PlateTensors(*map(torch.from_numpy, arrays))


def _plate_arrays(seed: int, side: int) -> tuple[np.ndarray, ...]:
    plate = draw_plate(seed)
    height, width = plate.mask.shape
    image = (to_model_pixels(plate.image, side) * 255).round().to(torch.uint8).numpy()
    rows = ((np.arange(side) + 0.5) * height / side).astype(int)
    columns = ((np.arange(side) + 0.5) * width / side).astype(int)
    classes = FOOD_NUMBERS[plate.mask][rows][:, columns]
    corners = scale_prompts(plate_references(plate), (width, height), side).numpy()
    return image, classes, FOOD_NUMBERS[list(plate.foods)], corners


def flip(batch: PlateTensors, generator: torch.Generator) -> PlateTensors:
    """Mirror and transpose the whole batch at random: eight views of each plate."""
    images, classes, corners = batch.images, batch.classes, batch.corners
    side = images.shape[-1]
    mirror_x, mirror_y, transpose = torch.randint(2, (3,), generator=generator).tolist()
    for axis, mirror in ((0, mirror_x), (1, mirror_y)):
        if mirror:
            images, classes = images.flip(-1 - axis), classes.flip(-1 - axis)
            corners = corners.clone()
            # Mirrored, the box's right side becomes its left one.
            corners[..., axis] = side - 1 - corners[:, (1, 0, 2), axis]
    if transpose:
        images, classes, corners = images.mT, classes.mT, corners.flip(-1)
    return PlateTensors(images, classes, batch.plate, batch.food, corners)


def jitter(corners: Tensor, strength: float, side: int, generator: torch.Generator) -> Tensor:
    """Make references (N, 3, 2) wrong, some more than others; boxes keep the order of corners.

    strength: 1 shifts the worst by 3% of the side, each corner by 4% more and the point by 3% more.
    """
    own = torch.tensor([0.04, 0.04, 0.03]).view(1, 3, 1)
    amount = side * strength * torch.rand(len(corners), 1, 1, generator=generator)
    shift = 0.03 * torch.randn(len(corners), 1, 2, generator=generator)
    moved = corners + amount * (shift + own * torch.randn(corners.shape, generator=generator))
    moved = moved.clamp(0, side - 1)
    first, second = moved[:, 0], moved[:, 1]
    return torch.stack([first.minimum(second), first.maximum(second), moved[:, 2]], dim=1)


def class_shares(classes: Tensor) -> Tensor:
    """uint8 (B, s, s) -> float32 (B, CLASSES, s/4, s/4): each class's share of a stride-4 cell."""
    batch, side, _ = classes.shape
    cells = classes.view(batch, side // 4, 4, side // 4, 4).transpose(2, 3).flatten(3).long()
    shares = torch.zeros(*cells.shape[:3], CLASSES)
    shares.scatter_add_(3, cells, torch.full(cells.shape, 1 / 16))
    return shares.permute(0, 3, 1, 2)
