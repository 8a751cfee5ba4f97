"""What foods are drawn with: noise tiles, shapes as signed distances, light on a height.

All arrays are float32 and cover small square patches, so that a food costs a few milliseconds.
Lengths are pixels of the supersampled drawing (`plates.SUPERSAMPLING` times the picture's).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

TILE = 512
LIGHT = np.array([-0.46, -0.54, 0.70], dtype=np.float32)  # towards the window: up and to the left
HALFWAY = (LIGHT + [0, 0, 1]) / np.linalg.norm(LIGHT + [0, 0, 1])
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Piece:
    """One drawn piece of food: `rgb` (n, n, 3) in 0..1 and `alpha` (n, n), centred in its patch."""

    rgb: np.ndarray
    alpha: np.ndarray


@cache
def noise_tile(scale: float) -> np.ndarray:
    """Periodic smooth noise (TILE, TILE), mean 0, standard deviation 1, lumps of about `scale`."""
    white = np.random.default_rng(int(scale * 10)).standard_normal((TILE, TILE))
    smooth = gaussian_filter(white.astype(np.float32), scale, mode="wrap")
    return (smooth - smooth.mean()) / smooth.std()


@cache
def cell_tile(count: int) -> np.ndarray:
    """Periodic domes around `count` scattered points (TILE, TILE): 1 at a point, 0 between two."""
    points = np.random.default_rng(count).uniform(0, TILE, (count, 2))
    y, x = np.mgrid[:TILE, :TILE]
    near, _ = cKDTree(points, boxsize=TILE).query(np.stack([y, x], -1).reshape(-1, 2), k=2)
    dome = 1 - (near[:, 0] / near[:, 1]) ** 2
    return dome.reshape(TILE, TILE).astype(np.float32)


@cache
def grain_tile(length: float, width: float) -> np.ndarray:
    """Periodic heap of rice grains (TILE, TILE): height 0..1, later grains on top."""
    rng = np.random.default_rng(7)
    heap = np.zeros((TILE, TILE), dtype=np.float32)
    half = int(length) + 1
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    for _ in range(int(2.6 * TILE * TILE / (length * width * 3.1))):
        turn, level = rng.uniform(0, np.pi), rng.uniform(0.55, 1)
        along = u * np.cos(turn) + v * np.sin(turn)
        across = v * np.cos(turn) - u * np.sin(turn)
        inside = 1 - (along / length) ** 2 - (across / width) ** 2
        rows = (np.arange(-half, half + 1) + rng.integers(TILE)) % TILE
        columns = (np.arange(-half, half + 1) + rng.integers(TILE)) % TILE
        spot = np.ix_(rows, columns)
        grain = level * (0.45 + 0.55 * np.sqrt(np.maximum(inside, 0)))
        heap[spot] = np.where(inside > 0, grain, heap[spot])
    return heap


def crop_tile(tile: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random window of a periodic tile; shape (rows, columns), each at most TILE."""
    top, left = (int(rng.integers(TILE - side + 1)) for side in shape)
    return tile[top : top + shape[0], left : left + shape[1]]


REACH = 1.08


class Brush:
    """A square patch around one piece: rotated coordinates `u`, `v` in pixels and random helpers.

    `r` is the piece's radius; a piece must stay within `REACH * r` of the patch's centre.
    """

    def __init__(self, rng: np.random.Generator, r: float, angle: float):
        half = int(np.ceil(r * REACH)) + 2
        line = np.arange(-half, half + 1, dtype=np.float32)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        self.rng, self.r = rng, float(r)
        self.u = cos * line[None, :] + sin * line[:, None]
        self.v = cos * line[:, None] - sin * line[None, :]

    def noise(self, scale: float) -> np.ndarray:
        return crop_tile(noise_tile(scale), self.u.shape, self.rng)

    def mottle(self, scale: float, strength: float, middle: float = 0.5) -> np.ndarray:
        """Amounts 0..1 for `mix` that wander about `middle`."""
        return np.clip(middle + strength * self.noise(scale), 0, 1)

    def cells(self, count: int) -> np.ndarray:
        return crop_tile(cell_tile(count), self.u.shape, self.rng)

    def grains(self, length: float, width: float) -> np.ndarray:
        return crop_tile(grain_tile(length, width), self.u.shape, self.rng)

    def ellipse(self, a: float, b: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
        """Signed distance (near enough) to an ellipse of half axes a, b centred at (x, y)."""
        return (np.hypot((self.u - x) / a, (self.v - y) / b) - 1) * np.float32(min(a, b))

    def box(self, a: float, b: float, corner: float) -> np.ndarray:
        """Signed distance to a rectangle of half sides a, b with rounded corners."""
        across, down = np.abs(self.u) - (a - corner), np.abs(self.v) - (b - corner)
        outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
        return outside + np.minimum(np.maximum(across, down), 0) - np.float32(corner)

    def blob(self, a: float, b: float, wobble: float) -> np.ndarray:
        """Signed distance to an ellipse whose outline wanders by about `wobble` of its radius."""
        theta = np.arctan2(self.v / b, self.u / a)
        radius = np.ones_like(theta)
        for k in (2, 3, 5):
            phase, size = self.rng.uniform(0, 6.28), self.rng.uniform(0.4, 1) * wobble / k * 2
            radius += np.float32(size) * np.cos(k * theta + np.float32(phase))
        return (np.hypot(self.u / a, self.v / b) - radius) * np.float32(min(a, b))

    def arc(self, bend: float, half_angle: float, width: float, power: float = 4.0):
        """A curved body: signed distance, position along it (-1..1) and across it (-1..1)."""
        drop = bend * (1 + np.cos(half_angle)) / 2
        down = self.v + np.float32(drop)
        along = np.arctan2(self.u, down) / np.float32(half_angle)
        offset = np.hypot(self.u, down) - np.float32(bend)
        taper = np.sqrt(np.maximum(1 - np.abs(along) ** power, 0))
        beyond = np.maximum(np.abs(along) - 1, 0) * np.float32(half_angle * bend)
        return np.abs(offset) - width * taper + beyond, along, offset / np.float32(width)


def cover(distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """How much of each pixel lies inside a signed distance, 0..1."""
    return np.clip(0.5 - distance / softness, 0, 1)


def rim(distance: np.ndarray, width: float, softness: float) -> np.ndarray:
    """1 within `width` of the outline of a signed distance and outside it, 0 further in."""
    return cover(-distance - width, softness)


def mix(below, above, amount: np.ndarray) -> np.ndarray:
    """Blend two colours or (n, n, 3) pictures by an (n, n) amount in 0..1."""
    below, above = np.asarray(below, np.float32), np.asarray(above, np.float32)
    return below + (above - below) * amount[..., None]


def dome(distance: np.ndarray, depth: float, height: float | None = None) -> np.ndarray:
    """A rounded height that rises over `depth` pixels from the outline, in pixels."""
    rise = 1 - np.clip(-distance / depth, 0, 1)
    return np.sqrt(np.maximum(1 - rise * rise, 0)) * np.float32(depth if height is None else height)


def light_up(rgb: np.ndarray, height: np.ndarray, gloss: float = 0.0, power: float = 30.0):
    """Light a coloured surface of the given height (pixels) from the window; values in 0..1."""
    down = np.zeros_like(height)
    right = np.zeros_like(height)
    down[1:-1] = (height[2:] - height[:-2]) * 0.5
    right[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * 0.5
    norm = 1 / np.sqrt(1 + right * right + down * down)
    toward = (LIGHT[2] - right * LIGHT[0] - down * LIGHT[1]) * norm
    lit = rgb * (0.50 + 0.66 * np.maximum(toward, 0))[..., None]
    if gloss:
        facing = (HALFWAY[2] - right * HALFWAY[0] - down * HALFWAY[1]) * norm
        lit += (gloss * np.maximum(facing, 0) ** power)[..., None]
    return lit.astype(np.float32)
