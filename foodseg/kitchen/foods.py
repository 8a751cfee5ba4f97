"""Cooked foods of the kitchen, and the table of every food: FoodSeg103 id, pieces and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foodseg.kitchen import produce
from foodseg.kitchen.textures import Brush, Piece, cover, dome, light_up, mix, rim


def egg(b: Brush) -> Piece:
    edge = b.blob(b.r * 0.93, b.r * 0.84, 0.10) - b.noise(12) * 1.5
    rgb = mix((0.99, 0.985, 0.96), (0.93, 0.92, 0.88), np.clip(0.3 * b.noise(12), 0, 1))
    crisp = rim(edge, b.r * 0.05, b.r * 0.07) * b.mottle(6, 0.5, 0.7)
    rgb = mix(rgb, (0.80, 0.56, 0.24), crisp * 0.8)
    rgb = light_up(rgb, dome(edge, b.r * 0.3, b.r * 0.13) + b.noise(12) * 1.2, 0.12)
    x, y = b.rng.uniform(-0.15, 0.15, 2) * b.r
    yolk = b.ellipse(b.r * 0.37, b.r * 0.36, x, y)
    rgb = mix(rgb, (0.98, 0.84, 0.45), cover(yolk - 3, 5) * 0.7)
    sun = mix((0.99, 0.62, 0.03), (1.0, 0.76, 0.12), cover(yolk + b.r * 0.15, b.r * 0.3))
    return Piece(mix(rgb, light_up(sun, dome(yolk, b.r * 0.26), 0.7, 40), cover(yolk)), cover(edge))


def rice(b: Brush) -> Piece:
    heap = b.grains(8, 3.0)
    edge = b.blob(b.r * 0.94, b.r * 0.88, 0.06) + (0.5 - heap) * 7
    rgb = mix((0.86, 0.82, 0.72), (1.06, 1.05, 1.01), np.clip(heap * 1.5 - 0.3, 0, 1))
    return Piece(light_up(rgb, dome(edge, b.r * 0.8, b.r * 0.34) + heap * 1.5, 0.05), cover(edge))


def steak(b: Brush) -> Piece:
    edge = b.blob(b.r * 0.95, b.r * 0.68, 0.13)
    rgb = mix((0.40, 0.19, 0.11), (0.68, 0.38, 0.24), b.mottle(6, 0.3))
    rgb = mix(rgb, (0.72, 0.45, 0.28), cover(1.1 - b.noise(2.2), 0.8) * 0.5)
    stripe = np.abs(((b.u + 0.45 * b.v) / (b.r * 0.30)) % 1 - 0.5)
    rgb = mix(rgb, (0.10, 0.045, 0.03), cover((stripe - 0.13) * 10 + b.noise(2.2) * 0.3, 1.5) * 0.9)
    fat = rim(edge, b.r * 0.08, 4) * cover(b.v + b.r * 0.10, b.r * 0.2)
    rgb = mix(rgb, (0.90, 0.72, 0.48), fat * 0.9)
    height = dome(edge, b.r * 0.18) + b.noise(2.2) * 0.5 + b.noise(6) * 0.9
    return Piece(light_up(rgb, height, 0.22, 18), cover(edge))


def salmon(b: Brush) -> Piece:
    edge = b.box(b.r * 0.98, b.r * 0.52, b.r * 0.20) + b.noise(12) * 1.2
    wave = b.u / b.r * 5 + np.abs(b.v / b.r) * 3.2 + b.noise(12) * 0.12
    line = np.abs(wave % 1 - 0.5)
    rgb = mix((0.96, 0.47, 0.34), (1.0, 0.60, 0.46), b.mottle(6, 0.3))
    rgb = mix(rgb, (1.0, 0.86, 0.76), cover((line - 0.08) * 12, 1.6) * 0.9)
    rgb = mix(rgb, (0.86, 0.40, 0.20), rim(edge, b.r * 0.03, b.r * 0.10) * 0.5)
    skin = cover(-b.v + b.r * 0.42, 3)
    rgb = mix(rgb, (0.50, 0.52, 0.55), skin * 0.9)
    height = dome(edge, b.r * 0.26) - cover((line - 0.1) * 12, 3) * 1.2
    return Piece(light_up(rgb, height, 0.35, 20), cover(edge))


def shrimp(b: Brush) -> Piece:
    r = b.r
    edge, along, across = b.arc(r * 0.62, 2.15, r * 0.36, 3.4)
    edge = edge + np.clip(along, 0, 1) * np.float32(r * 0.12)
    bands = np.abs((along * 3.4) % 1 - 0.5)
    rgb = mix((1.0, 0.83, 0.74), (0.98, 0.50, 0.34), cover((bands - 0.22) * 8, 1.8))
    rgb = mix(rgb, (0.93, 0.36, 0.22), np.clip(across * 0.9 - 0.2, 0, 1) * 0.7)
    tail = np.clip((along - 0.86) * 8, 0, 1)
    rgb = mix(rgb, (0.86, 0.24, 0.14), tail)
    height = dome(edge, r * 0.30) - cover((bands - 0.06) * 12, 2) * 2
    return Piece(light_up(rgb, height, 0.45, 24), cover(edge))


def bread(b: Brush) -> Piece:
    r = b.r
    loaf = b.box(r * 0.74, r * 0.80, r * 0.14)
    humps = [b.ellipse(r * 0.52, r * 0.38, x * r, -r * 0.46) for x in (-0.29, 0.29)]
    body = np.maximum(loaf, -b.v - r * 0.45)
    edge = np.minimum(body, np.minimum(*humps))
    rgb = mix((0.93, 0.80, 0.56), (0.99, 0.91, 0.72), b.mottle(6, 0.4))
    holes = cover(0.9 - b.noise(2.2), 0.9)
    rgb = mix(rgb, (0.84, 0.68, 0.44), holes * 0.5)
    rgb = mix(rgb, (0.86, 0.60, 0.28), rim(edge, r * 0.15, r * 0.12) * 0.7)
    rgb = mix(rgb, (0.55, 0.29, 0.10), rim(edge, r * 0.07, 4))
    return Piece(light_up(rgb, dome(edge, r * 0.10) - holes * 1.1), cover(edge))


HOLES = (
    (0.3, -0.32, 0.14),
    (-0.34, -0.3, 0.17),
    (0, 0.06, 0.13),
    (0, -0.45, 0.07),
    (0.1, 0.4, 0.08),
)


def cheese(b: Brush) -> Piece:
    r = b.r
    back = -b.v - r * 0.65
    sides = np.abs(b.u) * 0.84 + b.v * 0.54
    top = np.maximum(sides - r * 0.456, back)
    edge = np.maximum.reduce([sides - r * 0.61, back, np.abs(b.u) - r * 0.962])
    hollow = np.full_like(b.u, 1e3)
    for x, y, size in HOLES:
        x, y = x + b.rng.uniform(-0.06, 0.06), y + b.rng.uniform(-0.06, 0.06)
        hollow = np.minimum(hollow, b.ellipse(r * size, r * size * 0.85, r * x, r * y))
    pit = cover(hollow, 2)
    face = mix((1.0, 0.80, 0.26), (1.0, 0.87, 0.42), b.mottle(12, 0.3))
    rgb = mix((0.88, 0.60, 0.12), face, cover(top))
    rgb = mix(rgb, (0.80, 0.52, 0.10), pit * cover(top))
    height = dome(top, r * 0.06) + dome(edge, r * 0.04) - dome(hollow, r * 0.12)
    return Piece(light_up(rgb, height, 0.15), cover(edge))


def french_fry(b: Brush) -> Piece:
    r = b.r
    edge = b.box(r, r * 0.155, r * 0.05)
    rgb = mix((0.97, 0.77, 0.30), (1.0, 0.87, 0.48), b.mottle(6, 0.4))
    tips = np.clip(np.abs(b.u) / r * 4 - 3.1, 0, 1) + rim(edge, 2, 3) * 0.7
    rgb = mix(rgb, (0.80, 0.48, 0.12), np.clip(tips, 0, 1) * 0.75)
    return Piece(light_up(rgb, dome(edge, r * 0.09) + b.noise(2.2) * 0.2, 0.1), cover(edge))


def sausage(b: Brush) -> Piece:
    r = b.r
    edge, along, across = b.arc(r * 1.9, 0.54, r * 0.26, 8.0)
    rgb = mix((0.58, 0.20, 0.09), (0.78, 0.34, 0.16), b.mottle(12, 0.3))
    cut = np.abs((along * 2.6 + across * 0.35) % 1 - 0.5)
    score = cover((cut - 0.07) * 12, 1.5) * cover(np.abs(across) - 0.72, 0.3)
    rgb = mix(rgb, (0.25, 0.07, 0.03), score * 0.9)
    rgb = mix(rgb, (0.36, 0.13, 0.06), np.clip(np.abs(along) * 8 - 7.2, 0, 1))
    return Piece(light_up(rgb, dome(edge, r * 0.25) - score * 2, 0.65, 26), cover(edge))


@dataclass(frozen=True)
class Food:
    """How a food is served: one of `pieces` counts, each piece `scale` of the serving's radius."""

    draw: Callable[[Brush], Piece]
    pieces: tuple[int, ...]
    scale: float


# Scales are given for several pieces; a single piece takes the whole radius.
FOODS: dict[int, Food] = {
    3: Food(french_fry, (7, 8, 9, 10), 0.80),
    9: Food(cheese, (1, 1, 2), 0.66),
    24: Food(egg, (1,), 1.0),
    28: Food(produce.avocado, (1, 1, 2), 0.70),
    29: Food(produce.banana, (1, 2), 0.86),
    30: Food(produce.strawberry, (2, 3, 4), 0.52),
    32: Food(produce.blueberry, (4, 5, 6, 7), 0.36),
    37: Food(produce.lemon, (2, 3), 0.64),
    42: Food(produce.kiwi, (1, 2, 3), 0.60),
    44: Food(produce.orange, (1, 2), 0.66),
    46: Food(steak, (1,), 1.0),
    49: Food(sausage, (1, 2), 0.90),
    54: Food(salmon, (1,), 1.0),
    56: Food(shrimp, (2, 3, 4), 0.56),
    58: Food(bread, (1, 1, 2), 0.74),
    59: Food(produce.corn, (1, 1, 2), 0.84),
    66: Food(rice, (1,), 1.0),
    69: Food(produce.eggplant, (1,), 1.0),
    73: Food(produce.tomato, (2, 3), 0.60),
    82: Food(produce.cucumber, (3, 4, 5), 0.48),
    84: Food(produce.carrot, (3, 4, 5), 0.46),
    87: Food(produce.broccoli, (1, 2, 3), 0.62),
}
