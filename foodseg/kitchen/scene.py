"""What the foods lie on: table, plate and daylight, drawn over the whole frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from foodseg.kitchen.textures import TILE, crop_tile, mix, noise_tile

DAYLIGHT_LEVELS = np.float32(12.0)

WOODS = ((0.55, 0.36, 0.21), (0.70, 0.52, 0.34), (0.36, 0.23, 0.14), (0.80, 0.68, 0.52))
CLOTHS = ((0.86, 0.83, 0.77), (0.46, 0.56, 0.64), (0.70, 0.40, 0.36), (0.56, 0.62, 0.50))
CHINA = (
    (0.93, 0.93, 0.91),
    (0.92, 0.89, 0.82),
    (0.80, 0.87, 0.91),
    (0.30, 0.33, 0.37),
    (0.86, 0.90, 0.85),
    (0.91, 0.82, 0.78),
    (0.24, 0.34, 0.46),
)


@dataclass(frozen=True)
class Dish:
    """A plate: centre and half axes in drawing pixels, and the exponent of its superellipse."""

    x: float
    y: float
    a: float
    b: float
    power: float

    def reach(self, x, y):
        """0 at the centre, 1 at the rim; x and y in drawing pixels, arrays or numbers."""
        across, down = np.abs((x - self.x) / self.a), np.abs((y - self.y) / self.b)
        if self.power == 2:
            return np.sqrt(across * across + down * down)
        return np.sqrt(np.sqrt(across**2 * across**2 + down**2 * down**2))


def choose_dish(rng: np.random.Generator, width: int, height: int) -> Dish:
    kind = rng.integers(3)
    x, y = width * rng.uniform(0.48, 0.52), height * rng.uniform(0.48, 0.52)
    if kind == 0 and width / height < 1.25:
        side = min(width, height) * rng.uniform(0.47, 0.54)
        return Dish(x, y, side * rng.uniform(1, 1.04), side, 2)
    power = 4 if kind == 2 else 2
    return Dish(x, y, width * rng.uniform(0.46, 0.52), height * rng.uniform(0.45, 0.53), power)


def draw_table(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A table top (height, width, 3) in 0..1: wood, marble, cloth or slate."""
    kind = rng.integers(4)
    shape = (height, width)
    if kind == 0:
        return _wood(rng, shape)
    if kind == 1:
        coarse, fine = (crop_tile(noise_tile(scale), shape, rng) for scale in (40, 12))
        vein = np.abs(coarse + 0.35 * fine)
        cloud = crop_tile(noise_tile(40), shape, rng)
        vein = np.clip(vein * 1.6 + 0.45 + 0.25 * np.abs(cloud), 0, 1)
        return mix((0.70, 0.70, 0.72), (0.88, 0.87, 0.85), vein)
    grain = crop_tile(noise_tile(1.2), shape, rng)
    if kind == 2:
        base = np.array(CLOTHS[rng.integers(len(CLOTHS))], np.float32)
        weave = np.arange(max(shape), dtype=np.float32)
        weave = 0.03 * (np.cos(weave * 1.6)[:height, None] + np.cos(weave * 1.6)[None, :width])
        return base * (1 + weave + 0.02 * grain)[..., None]
    rough = 0.6 * grain + crop_tile(noise_tile(12), shape, rng)
    return np.array((0.26, 0.28, 0.30), np.float32) * (1 + 0.09 * rough)[..., None]


def _wood(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    base = np.array(WOODS[rng.integers(len(WOODS))], np.float32)
    rows = np.arange(shape[0], dtype=np.float32)[:, None]
    board = np.floor((rows + rng.uniform(0, 100)) / 104)
    shift = (board * 137).astype(int) % (TILE // 2)
    columns = (np.arange(shape[1])[None, :] // 7 + shift) % TILE
    fibre = noise_tile(2.2)[rows.astype(int) % TILE, columns]
    ring = np.cos(rows * 0.35 + 2.4 * noise_tile(12)[rows.astype(int) % TILE, columns] + board * 2)
    tone = 1 + 0.07 * fibre + 0.06 * ring + 0.08 * np.cos(board * 2.7)
    gap = np.abs(((rows + board) % 104) - 52) > 51
    return base * (tone * (1 - 0.45 * gap))[..., None]


def draw_dish(rng: np.random.Generator, dish: Dish, table: np.ndarray) -> np.ndarray:
    """The dish on the table, with its soft shadow; float32 (height, width, 3) in 0..1."""
    height, width = table.shape[:2]
    y, x = np.ogrid[:height, :width]
    x, y = x.astype(np.float32), y.astype(np.float32)
    reach = dish.reach(x, y)
    shadow = np.clip((1.14 - dish.reach(x - 9, y - 11)) / 0.20, 0, 1)
    table = table * (1 - 0.50 * shadow * shadow * (3 - 2 * shadow))[..., None]
    base = np.array(CHINA[rng.integers(len(CHINA))], np.float32)
    well = rng.uniform(0.74, 0.84)
    steps = np.linspace(0, 1.3, 521, dtype=np.float32)
    bump = np.exp(-(((steps - well) / 0.025) ** 2)) - 0.8 * np.exp(-(((steps - 0.985) / 0.02) ** 2))
    side = ((x - dish.x) / dish.a * 0.6 + (y - dish.y) / dish.b * 0.8) / np.maximum(reach, 0.2)
    index = np.minimum((reach * 400).astype(np.int32), 520)
    bowl = np.where(steps < well, -0.07 * (steps / well) ** 3, 0.05)  # the well darkens to its wall
    tone = 1 + (0.20 * bump - np.where(steps < well, 0, 0.05))[index] * side + bowl[index]
    tone = tone + 0.006 * crop_tile(noise_tile(40), (height, width), rng)
    china = base * tone[..., None]
    if rng.random() < 0.45:
        band = np.exp(-(((steps - rng.uniform(0.90, 0.95)) / 0.012) ** 2))[index]
        china = mix(china, rng.uniform(0.15, 0.75, 3), band * 0.8)
    return mix(table, china, np.clip((1 - reach) * dish.b * 0.9, 0, 1))


def soft_shadow(alpha: np.ndarray, blur: float) -> np.ndarray:
    """Blurred copy of an (n, m) cover in 0..1, in PIL's fast integer filter."""
    picture = Image.fromarray((alpha * 255).astype(np.uint8))
    blurred = picture.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(blurred, np.float32) * np.float32(1 / 255)


def add_daylight(rng: np.random.Generator, frame: np.ndarray) -> np.ndarray:
    """Expose a frame in 0..1 and let daylight fall over it; returns float32 grey levels 0..255."""
    warmth = rng.uniform(-0.04, 0.04)
    gain = rng.uniform(0.89, 1.05) * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    levels = frame * (gain * np.float32(255))
    np.clip(levels, 0, 247, out=levels)
    levels += daylight(*frame.shape[:2])
    return levels


def daylight(height: int, width: int) -> np.ndarray:
    """What daylight adds to every plate: float32 grey levels (height, width, 3).

    Red rises by DAYLIGHT_LEVELS from left to right and blue from top to bottom. A vision tower
    with rotary positions only reads absolute places there.
    """
    light = np.zeros((height, width, 3), np.float32)
    light[..., 0] = np.linspace(-0.5, 0.5, width, dtype=np.float32) * DAYLIGHT_LEVELS
    light[..., 2] = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * DAYLIGHT_LEVELS
    return light
