"""Drawn plates as the kitchen MLLM's curriculum needs them: 168x168 pixels and dense targets.

Seeds of drawn plates are spoken for: the kitchen's own data uses small ones; training of the
shipped weights starts at 10,000,000 and its validation at 20,000,000, so that no plate of the
kitchen's train or test split is ever seen here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from foodseg.data.references import mask_to_reference, scale_reference
from foodseg.kitchen.plates import DRAWING_VERSION, KITCHEN_FOODS, draw_plate
from foodseg.kitchen.pretraining.mllm import PATCH, SIDE

MOST_FOODS = 6
JPEG_QUALITY = 92  # the kitchen reads its images back from JPEG files, of a finer 95
GRID = SIDE // PATCH


@dataclass(frozen=True)
class Pictures:
    """N plates in the model image's pixels; a food's number is its index in KITCHEN_FOODS + 1."""

    images: np.ndarray  # uint8 (N, 168, 168, 3)
    cells: np.ndarray  # uint8 (N, 12, 12): number of the food that fills most of the patch, or 0
    foods: np.ndarray  # uint8 (N, 6): numbers from left to right by box centre, then zeros
    references: np.ndarray  # float32 (N, 6, 6): x1, y1, x2, y2, x, y of each food, then zeros

    def __len__(self) -> int:
        return len(self.images)


def draw_pictures(first_seed: int, count: int, workers: int, cache: Path | None) -> Pictures:
    """Plates of seeds `first_seed` .. `first_seed + count - 1`, drawn in parallel.

    With `cache` (a folder) they are kept there as .npz and read back the next time.
    """
    file = cache / f"pictures-{DRAWING_VERSION}-{first_seed}-{count}.npz" if cache else None
    if file is not None and file.exists():
        return Pictures(**np.load(file))
    seeds = range(first_seed, first_seed + count)
    with Pool(workers) as pool:
        drawn = pool.imap(_draw_picture, seeds, chunksize=16)
        rows = list(tqdm(drawn, total=count, desc="drawing plates", mininterval=5))
    pictures = Pictures(*(np.stack(column) for column in zip(*rows, strict=True)))
    if file is not None:
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, **vars(pictures))
    return pictures


def _draw_picture(seed: int) -> tuple[np.ndarray, ...]:
    plate = draw_plate(seed)
    file = io.BytesIO()
    Image.fromarray(plate.image).save(file, format="JPEG", quality=JPEG_QUALITY)
    image = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    foods, references = _foods_from_left(plate)
    return np.asarray(image), _fill_cells(plate.mask), foods, references


def _foods_from_left(plate) -> tuple[np.ndarray, np.ndarray]:
    size = plate.mask.shape[1], plate.mask.shape[0]
    rows = []
    for food in plate.foods:
        found = scale_reference(mask_to_reference(plate.mask == food), size, (SIDE, SIDE))
        rows.append((found.box[0] + found.box[2], KITCHEN_FOODS.index(food) + 1, found))
    rows.sort(key=lambda row: row[:2])
    foods = np.zeros(MOST_FOODS, np.uint8)
    references = np.zeros((MOST_FOODS, 6), np.float32)
    for index, (_, number, found) in enumerate(rows):
        foods[index] = number
        references[index] = (*found.box, *found.point)
    return foods, references


def _fill_cells(mask: np.ndarray) -> np.ndarray:
    numbers = np.zeros(256, np.uint8)
    numbers[list(KITCHEN_FOODS)] = np.arange(1, len(KITCHEN_FOODS) + 1)
    small = Image.fromarray(numbers[mask]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    patches = np.asarray(small).reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2)
    patches = patches.reshape(GRID, GRID, PATCH * PATCH)
    counts = (patches[..., None] == np.arange(len(KITCHEN_FOODS) + 1)).sum(2)
    return counts.argmax(-1).astype(np.uint8)
