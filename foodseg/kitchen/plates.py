"""The kitchen: plates drawn from a seed, with the mask of every food, under FoodSeg103's class ids.

The shipped weights were trained on these drawings: whoever changes how a plate looks raises
`DRAWING_VERSION` and trains them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from foodseg.kitchen.foods import FOODS, Food
from foodseg.kitchen.scene import (
    Dish,
    add_daylight,
    choose_dish,
    draw_dish,
    draw_table,
    soft_shadow,
)
from foodseg.kitchen.textures import Brush, Piece

DRAWING_VERSION = 1
KITCHEN_FOODS: tuple[int, ...] = tuple(sorted(FOODS))
# A class id's number among the kitchen's foods, from 1 on; 0 for all other ids.
FOOD_NUMBERS = np.zeros(256, np.uint8)
FOOD_NUMBERS[list(KITCHEN_FOODS)] = np.arange(1, len(KITCHEN_FOODS) + 1)
WIDTH = 336
HEIGHTS = (252, 280, 336)
SUPERSAMPLING = 1.5
MIN_VISIBLE = 0.013  # share of the picture that every food must show


@dataclass(frozen=True)
class Plate:
    """A drawn plate.

    image: uint8 (H, W, 3) RGB; mask: uint8 (H, W) FoodSeg103 class ids, 0 for background;
    foods: the ids that occur in the mask, ascending.
    """

    image: np.ndarray
    mask: np.ndarray
    foods: tuple[int, ...]


@dataclass(frozen=True)
class Serving:
    """Where one food goes: centre and radius in drawing pixels."""

    food: int
    x: float
    y: float
    r: float


def draw_plate(seed: int) -> Plate:
    """Draw a plate of two to five foods, WIDTH pixels wide and one of HEIGHTS high.

    The same seed gives the same bytes. Foods may overlap; the mask holds what is visible, and
    every food shows at least MIN_VISIBLE of the picture.
    """
    return serve_plate(np.random.default_rng([DRAWING_VERSION, seed]), FOODS)


def serve_plate(rng: np.random.Generator, menu: Mapping[int, Food]) -> Plate:
    """Draw a plate of two to five things of `menu`, whose keys are the ids in the mask (1..255)."""
    height = int(rng.choice(HEIGHTS))
    size = int(WIDTH * SUPERSAMPLING), int(height * SUPERSAMPLING)
    dish = choose_dish(rng, *size)
    empty = draw_dish(rng, dish, draw_table(rng, *size))
    count = int(rng.choice((2, 3, 4, 5), p=(0.25, 0.3, 0.27, 0.18)))
    foods = rng.choice(sorted(menu), count, replace=False)
    while True:
        frame, labels = empty.copy(), np.zeros(empty.shape[:2], np.uint8)
        for serving in lay_out(rng, dish, size, [int(food) for food in foods]):
            _serve(rng, menu[serving.food], serving, frame, labels)
        mask = np.asarray(Image.fromarray(labels).resize((WIDTH, height), Image.Resampling.NEAREST))
        visible = np.bincount(mask.ravel(), minlength=256)[foods]
        if visible.min() >= MIN_VISIBLE * mask.size:
            break
    levels = np.clip(add_daylight(rng, frame) + 0.5, 0, 255).astype(np.uint8)
    image = Image.fromarray(levels).resize((WIDTH, height), Image.Resampling.BICUBIC)
    return Plate(np.array(image), np.array(mask), tuple(sorted(int(food) for food in foods)))


def lay_out(
    rng: np.random.Generator, dish: Dish, size: tuple[int, int], foods: list[int]
) -> list[Serving]:
    """Give each food a place on the dish; neighbours may overlap a little, and more if crowded."""
    span = np.sqrt(dish.a * dish.b)
    middle = {2: 0.58, 3: 0.51, 4: 0.45, 5: 0.41}[len(foods)]
    radii = [span * middle * rng.uniform(0.78, 1.16) for _ in foods]
    closeness = 0.88
    while True:
        servings: list[Serving] = []
        for food, r in zip(foods, radii, strict=True):
            spot = _find_spot(rng, dish, size, r, servings, closeness)
            if spot is None:
                break
            servings.append(Serving(food, *spot, r))
        if len(servings) == len(foods):
            return servings
        closeness *= 0.97
        radii = [r * 0.985 for r in radii]


def _find_spot(rng, dish: Dish, size, r: float, servings: list[Serving], closeness: float):
    width, height = size
    inner_a, inner_b = dish.a - 0.82 * r, dish.b - 0.82 * r
    for _ in range(30):
        u, v = rng.uniform(-1, 1, 2)
        x, y = dish.x + u * inner_a, dish.y + v * inner_b
        if dish.power == 2 and u * u + v * v > 1:
            continue
        if not (0.85 * r < x < width - 0.85 * r and 0.85 * r < y < height - 0.85 * r):
            continue
        if all(np.hypot(x - s.x, y - s.y) > closeness * (r + s.r) for s in servings):
            return x, y
    return None


def _serve(rng, food: Food, serving: Serving, frame: np.ndarray, labels: np.ndarray) -> None:
    """Draw a food's pieces at its place, each with its shadow, into frame and labels."""
    count = int(rng.choice(food.pieces))
    scale = food.scale if count > 1 else 1.0
    apart = scale * 0.92 / np.sin(np.pi / max(count - (count >= 5), 2))
    ring, start = serving.r * min(1 - scale, apart), rng.uniform(0, 2 * np.pi)
    lean = rng.uniform(0, 2 * np.pi)
    for k in range(count):
        turn = start + 2 * np.pi * k / count
        distance = ring * (1.0 if count > 1 else 0.0) * rng.uniform(0.9, 1.1)
        if count >= 5 and k == count - 1:
            distance *= 0.2
        x, y = serving.x + distance * np.cos(turn), serving.y + distance * np.sin(turn)
        r = serving.r * scale * rng.uniform(0.92, 1.05)
        angle = lean + rng.uniform(-0.6, 0.6) if count > 1 else lean
        piece = food.draw(Brush(rng, r, angle))
        piece.rgb[...] *= rng.uniform(0.93, 1.04)  # no two pieces are of quite the same ripeness
        _paste(piece, serving.food, x, y, frame, labels)


def _paste(piece: Piece, food: int, x: float, y: float, frame: np.ndarray, labels) -> None:
    n, (height, width) = piece.alpha.shape[0], labels.shape
    left, top = int(round(x)) - n // 2, int(round(y)) - n // 2
    margin, drop = 16, 7
    shadow = soft_shadow(np.pad(piece.alpha, margin), 6)
    corner = top - margin + drop, left - margin + drop - 2
    rows, columns, cut = _window(*corner, n + 2 * margin, height, width)
    frame[rows, columns] *= (1 - 0.50 * shadow[cut])[..., None]
    rows, columns, cut = _window(top, left, n, height, width)
    alpha = piece.alpha[cut]
    spot = frame[rows, columns]
    spot += (piece.rgb[cut] - spot) * alpha[..., None]
    labels[rows, columns][alpha > 0.5] = food


def _window(top: int, left: int, n: int, height: int, width: int):
    """Where an (n, n) patch at (top, left) falls in the frame: rows, columns, cut of the patch."""
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + n, height), min(left + n, width)
    return slice(y0, y1), slice(x0, x1), np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
