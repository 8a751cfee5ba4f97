"""Drawn scenes as tensors for training the kitchen SAM2: pictures, classes, references.

A scene is a plate of food or of generic shapes; foods and shapes are numbered in one list.

References are made wrong on purpose here (`jitter`), the way a language model's are: shifted as a
whole, and each corner on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foodseg.data.references import Reference, mask_to_reference
from foodseg.kitchen.dataset import draw_all
from foodseg.kitchen.plates import FOOD_NUMBERS, KITCHEN_FOODS, Plate, draw_plate
from foodseg.kitchen.pretraining.shapes import SHAPES, draw_shapes
from foodseg.models.segmenter import scale_prompts, to_model_pixels

CLASSES = 1 + len(KITCHEN_FOODS) + len(SHAPES)  # background first, then foods, then shapes
_SHAPE_NUMBERS = np.zeros(256, np.uint8)
_SHAPE_NUMBERS[list(SHAPES)] = 1 + len(KITCHEN_FOODS) + np.arange(len(SHAPES))


@dataclass(frozen=True)
class Scenes:
    """Scenes at the model image's size, and prompts for things in them.

    images: uint8 (S, 3, s, s). classes: uint8 (S, s, s), 0 to CLASSES - 1. scene, kind: int64
    (N,), which scene and which class a prompt asks for. corners: float32 (N, 3, 2), its box and
    point in pixels of the model image.
    """

    images: Tensor
    classes: Tensor
    scene: Tensor
    kind: Tensor
    corners: Tensor

    def select(self, scenes: Tensor) -> Scenes:
        """The given scenes, renumbered from 0, with their prompts."""
        where = torch.full((len(self.images),), -1)
        where[scenes] = torch.arange(len(scenes))
        rows = (where[self.scene] >= 0).nonzero()[:, 0]
        prompts = where[self.scene[rows]], self.kind[rows], self.corners[rows]
        return Scenes(self.images[scenes], self.classes[scenes], *prompts)

    def draw(self, count: int, generator: torch.Generator) -> Scenes:
        """That many of these scenes at random, each at most once."""
        return self.select(torch.randperm(len(self.images), generator=generator)[:count])

    def followed_by(self, others: Scenes) -> Scenes:
        """These scenes with their prompts, then the others without theirs."""
        images = torch.cat([self.images, others.images])
        classes = torch.cat([self.classes, others.classes])
        return Scenes(images, classes, self.scene, self.kind, self.corners)


def plate_references(plate: Plate) -> list[Reference]:
    """One reference for each food or shape of a plate, in the plate's pixels."""
    return [mask_to_reference(plate.mask == food) for food in plate.foods]


def draw_food_scenes(first_seed: int, count: int, side: int, workers: int) -> Scenes:
    """Plates of seeds `first_seed`, `first_seed + 1`, ... at side x side pixels."""
    draw = partial(_scene_arrays, draw_plate, FOOD_NUMBERS, side)
    return _stack(draw_all(draw, range(first_seed, first_seed + count), workers))


def draw_shape_scenes(first_seed: int, count: int, side: int, workers: int) -> Scenes:
    """Scenes of shapes of seeds `first_seed`, `first_seed + 1`, ... at side x side pixels."""
    draw = partial(_scene_arrays, draw_shapes, _SHAPE_NUMBERS, side)
    return _stack(draw_all(draw, range(first_seed, first_seed + count), workers))


def _stack(drawn: Iterable[tuple[np.ndarray, ...]]) -> Scenes:
    images, classes, kinds, corners = zip(*drawn, strict=True)
    scene = np.repeat(np.arange(len(kinds)), [len(row) for row in kinds])
    kind = np.concatenate(kinds).astype(np.int64)
    arrays = np.stack(images), np.stack(classes), scene, kind, np.concatenate(corners)
    return Scenes(*map(torch.from_numpy, arrays))


def _scene_arrays(
    draw: Callable[[int], Plate], numbers: np.ndarray, side: int, seed: int
) -> tuple[np.ndarray, ...]:
    plate = draw(seed)
    height, width = plate.mask.shape
    image = (to_model_pixels(plate.image, side) * 255).round().to(torch.uint8).numpy()
    rows = ((np.arange(side) + 0.5) * height / side).astype(int)
    columns = ((np.arange(side) + 0.5) * width / side).astype(int)
    classes = numbers[plate.mask][rows][:, columns]
    corners = scale_prompts(plate_references(plate), (width, height), side).numpy()
    return image, classes, numbers[list(plate.foods)], corners


def flip(batch: Scenes, generator: torch.Generator) -> Scenes:
    """Mirror and transpose the whole batch at random: eight views of each scene."""
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
    return Scenes(images, classes, batch.scene, batch.kind, corners)


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
