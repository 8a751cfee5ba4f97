"""Drawn plates as the kitchen MLLM's curriculum reads them: 168x168 pixels and dense targets."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from foodseg.data.references import mask_to_reference, scale_reference
from foodseg.kitchen.dataset import draw_all
from foodseg.kitchen.plates import FOOD_NUMBERS, KITCHEN_FOODS, Plate, draw_plate
from foodseg.kitchen.pretraining.mllm import GRID, PATCH, SIDE
from foodseg.kitchen.scene import daylight

MOST_FOODS = 6
JPEG_QUALITY = 92  # the kitchen reads its images back from JPEG files, of a finer 95


@dataclass(frozen=True)
class Pictures:
    """N plates in the model image's pixels; foods are given by their FOOD_NUMBERS."""

    images: np.ndarray  # uint8 (N, 168, 168, 3)
    cells: np.ndarray  # uint8 (N, 12, 12): number of the food that fills most of the patch, or 0
    foods: np.ndarray  # uint8 (N, 6): numbers from left to right by box centre, then zeros
    references: np.ndarray  # float32 (N, 6, 6): x1, y1, x2, y2, x, y of each food, then zeros

    def __len__(self) -> int:
        return len(self.images)


def draw_pictures(first_seed: int, count: int, workers: int) -> Pictures:
    """Plates of seeds `first_seed` .. `first_seed + count - 1`, drawn by `workers` processes."""
    return _stack(draw_all(_draw_picture, range(first_seed, first_seed + count), workers))


def _stack(rows: Iterable[tuple[np.ndarray, ...]]) -> Pictures:
    return Pictures(*(np.stack(column) for column in zip(*rows, strict=True)))


def _draw_picture(seed: int) -> tuple[np.ndarray, ...]:
    plate = draw_plate(seed)
    file = io.BytesIO()
    Image.fromarray(plate.image).save(file, format="JPEG", quality=JPEG_QUALITY)
    image = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image), _fill_cells(plate.mask), *_foods_from_left(plate)


def _foods_from_left(plate: Plate) -> tuple[np.ndarray, np.ndarray]:
    height, width = plate.mask.shape
    rows = []
    for food in plate.foods:
        found = mask_to_reference(plate.mask == food)
        found = scale_reference(found, (width, height), (SIDE, SIDE))
        rows.append((found.box[0] + found.box[2], FOOD_NUMBERS[food], (*found.box, *found.point)))
    foods = np.zeros(MOST_FOODS, np.uint8)
    references = np.zeros((MOST_FOODS, 6), np.float32)
    for index, (_, number, values) in enumerate(sorted(rows)):
        foods[index], references[index] = number, values
    return foods, references


def _fill_cells(mask: np.ndarray) -> np.ndarray:
    small = Image.fromarray(FOOD_NUMBERS[mask]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    patches = np.asarray(small).reshape(GRID, PATCH, GRID, PATCH, 1)
    counts = (patches == np.arange(len(KITCHEN_FOODS) + 1)).sum((1, 3))
    return counts.argmax(-1).astype(np.uint8)


def take_pictures(pictures: Pictures, rows: np.ndarray, rng: np.random.Generator) -> Pictures:
    """Rows of a set, each mirrored or transposed at random."""
    return _stack(_turn(pictures, row, *(rng.random(3) < (0.5, 0.3, 0.3))) for row in rows)


def _turn(
    pictures: Pictures, row: int, across: bool, down: bool, swap: bool
) -> tuple[np.ndarray, ...]:
    # Daylight is the model's cue for absolute places, so it stays as it falls.
    light = daylight(SIDE, SIDE)
    image, cells = pictures.images[row] - light, pictures.cells[row]
    foods, references = pictures.foods[row].copy(), pictures.references[row]
    if across:
        image, cells = image[:, ::-1], cells[:, ::-1]
        references = _mirror(references, [2, 1, 0, 3, 4, 5], [0, 2, 4])
    if down:
        image, cells = image[::-1], cells[::-1]
        references = _mirror(references, [0, 3, 2, 1, 4, 5], [1, 3, 5])
    if swap:
        image, cells = image.swapaxes(0, 1), cells.swapaxes(0, 1)
        references = references[:, [1, 0, 3, 2, 5, 4]]
    image = np.clip(image + light + 0.5, 0, 255).astype(np.uint8)
    count = int((foods > 0).sum())
    order = np.argsort(references[:count, 0] + references[:count, 2], kind="stable")
    from_left = np.zeros_like(references)
    foods[:count], from_left[:count] = foods[order], references[order]
    return image, cells, foods, from_left


def _mirror(references: np.ndarray, order: list[int], columns: list[int]) -> np.ndarray:
    mirrored = references[:, order]
    mirrored[:, columns] = SIDE - 1 - mirrored[:, columns]
    return mirrored
