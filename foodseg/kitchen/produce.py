"""Fruit and vegetables of the kitchen; each function draws one piece with a `Brush`."""

from __future__ import annotations

import numpy as np

from foodseg.kitchen.textures import Brush, Piece, cover, dome, light_up, mix, rim


def _ring(rho: np.ndarray, at: float, width: float) -> np.ndarray:
    return np.exp(-(((rho - at) / width) ** 2))


def _seeds(b: Brush, count: int, at: float, length: float, width: float) -> np.ndarray:
    """Cover of `count` drop-shaped seeds on a circle of radius `at` (pixels), pointing outwards."""
    theta = np.arctan2(b.v, b.u) * np.float32(count / (2 * np.pi))
    aside = (theta - np.round(theta)) * np.float32(2 * np.pi * at / count)
    return cover((np.hypot((np.hypot(b.u, b.v) - at) / length, aside / width) - 1) * width)


def carrot(b: Brush) -> Piece:
    edge = b.blob(b.r, b.r * 0.93, 0.02)
    rho = np.hypot(b.u, b.v) / b.r
    theta = np.arctan2(b.v, b.u)
    rays = np.cos(18 * theta + b.noise(12)) * np.clip(rho - 0.35, 0, 1)
    rgb = mix((0.93, 0.38, 0.04), (1.0, 0.55, 0.10), np.clip(0.45 + 0.5 * rays, 0, 1))
    core = cover((rho - 0.40 - 0.05 * np.cos(5 * theta)) * b.r, 5)
    rgb = mix(rgb, (1.0, 0.66, 0.20), core * 0.85)
    rgb = mix(rgb, (0.80, 0.27, 0.02), _ring(rho, 0.42, 0.05) * 0.55)
    rgb = mix(rgb, (0.84, 0.30, 0.02), rim(edge, b.r * 0.1, 4) * 0.8)
    return Piece(light_up(rgb, dome(edge, b.r * 0.22) + b.noise(6) * 0.4, 0.25), cover(edge))


def broccoli(b: Brush) -> Piece:
    r = b.r
    stalk = np.maximum(np.abs(b.u) - r * (0.20 + 0.10 * np.abs(b.v / r - 0.3)), b.v - r * 0.95)
    stalk = np.maximum(stalk, -b.v - r * 0.2)
    crown = b.ellipse(r * 0.60, r * 0.52, 0, -r * 0.40)
    for x, y, size in ((-0.52, -0.08, 0.42), (0.52, -0.08, 0.42), (0.0, 0.0, 0.44)):
        y += b.rng.uniform(-0.08, 0.08)
        crown = np.minimum(crown, b.ellipse(r * size, r * size * 0.9, r * x, r * y))
    bumps = b.cells(1500) * 0.6 + b.cells(6000) * 0.4
    crown = crown - bumps * r * 0.08
    body = mix((0.56, 0.72, 0.30), (0.72, 0.83, 0.46), cover(b.u, r * 0.6))
    body = light_up(body, dome(stalk, r * 0.2))
    green = mix((0.08, 0.27, 0.05), (0.42, 0.66, 0.20), np.clip(bumps * 1.3 - 0.2, 0, 1))
    green = light_up(green, dome(crown, r * 0.45) + bumps * 3.6, 0.08, 12)
    return Piece(mix(body, green, cover(crown)), np.maximum(cover(stalk), cover(crown)))


def tomato(b: Brush) -> Piece:
    edge = b.blob(b.r, b.r * 0.95, 0.035)
    rho = np.hypot(b.u, b.v) / b.r
    count = int(b.rng.integers(4, 7))
    theta = np.arctan2(b.v, b.u) * np.float32(count)
    chamber = (1 + np.cos(theta)) / 2 * np.clip(1 - ((rho - 0.54) / 0.32) ** 2, 0, 1)
    inside = cover((0.32 - chamber) * b.r, b.r * 0.14)
    rgb = mix((0.90, 0.17, 0.10), (0.96, 0.33, 0.20), _ring(rho, 0.2, 0.35))
    rgb = mix(rgb, (0.76, 0.12, 0.03), inside)
    seeds = inside * cover(0.60 - b.cells(3000), 0.3)
    rgb = mix(rgb, (0.98, 0.74, 0.35), seeds)
    rgb = mix(rgb, (0.72, 0.04, 0.03), rim(edge, b.r * 0.07, 3))
    height = dome(edge, b.r * 0.12) - inside * 2 + b.noise(6) * 0.4
    return Piece(light_up(rgb, height, 0.45, 24), cover(edge))


def strawberry(b: Brush) -> Piece:
    r = b.r
    t = np.clip((b.v / r + 0.75) / 1.7, 0, 1)
    width = r * 0.84 * np.sqrt(np.maximum(1 - (1 - np.minimum(t * 3.4, 1)) ** 2, 0)) * (1 - t**2.2)
    edge = np.maximum(np.abs(b.u) - width, np.abs(b.v - 0.1 * r) - r * 0.85) * np.float32(0.85)
    row = (b.v / r) * 5.2
    column = b.u / (width + 1) * 2.6 + 0.5 * (np.round(row) % 2)
    dots = np.hypot(column - np.round(column), (row - np.round(row)) * 0.75)
    seed = cover((dots - 0.17) * 8) * cover(edge + r * 0.07, 3)
    rgb = mix((0.88, 0.05, 0.08), (0.97, 0.20, 0.14), np.clip(-b.v / r * 0.6, 0, 1))
    height = dome(edge, r * 0.6, r * 0.45) - np.exp(-((dots / 0.3) ** 2)) * 1.8
    rgb = light_up(mix(rgb, (0.99, 0.82, 0.34), seed), height, 0.5, 26)
    theta = np.arctan2(b.u, b.v + r * 0.66)
    leaf = np.hypot(b.u, (b.v + r * 0.66) * 1.25) - r * (0.34 + 0.22 * np.cos(7 * theta))
    green = mix((0.20, 0.48, 0.10), (0.46, 0.72, 0.22), cover(leaf + r * 0.2, r * 0.3))
    green = light_up(green, dome(leaf, 8))
    return Piece(mix(rgb, green, cover(leaf)), np.maximum(cover(edge), cover(leaf)))


def banana(b: Brush) -> Piece:
    r = b.r
    edge, along, across = b.arc(r * 1.05, 0.98, r * 0.27, 3.0)
    rgb = mix((0.99, 0.84, 0.20), (0.93, 0.70, 0.10), np.clip(0.5 - across * 0.9, 0, 1))
    rgb = mix(rgb, (1.0, 0.91, 0.42), np.exp(-(((across - 0.25) / 0.22) ** 2)) * 0.7)
    speck = cover(1.9 - b.noise(2.2), 0.5) * 0.7
    rgb = mix(rgb, (0.48, 0.28, 0.08), speck)
    rgb = mix(rgb, (0.30, 0.20, 0.08), np.clip((np.abs(along) - 0.86) * 9, 0, 1))
    return Piece(light_up(rgb, dome(edge, r * 0.25), 0.15, 14), cover(edge))


def _citrus(b: Brush, skin, flesh, pale, edge: np.ndarray) -> Piece:
    count = int(b.rng.integers(8, 11))
    rho, theta = np.hypot(b.u, b.v) / b.r, np.arctan2(b.v, b.u)
    wedge = np.abs(np.sin(theta * np.float32(count / 2)))
    inside = np.minimum((0.80 - rho) * b.r, wedge * rho * b.r * 0.62 - b.r * 0.035)
    inside = np.minimum(inside, (rho - 0.09) * b.r)
    streak = b.noise(2.2) * 0.10 + 0.12 * np.cos(rho * 20 + b.noise(6) * 2)
    pulp = mix(flesh, pale, np.clip(0.25 + streak + 0.3 * (rho - 0.4), 0, 1))
    rgb = mix((0.99, 0.95, 0.82), pulp, cover(-inside, 2.5))
    rgb = mix(rgb, skin, rim(edge, b.r * 0.075, 3))
    height = dome(edge, b.r * 0.10) + np.clip(inside, 0, 6) * 0.5 + b.noise(2.2) * 0.28
    return Piece(light_up(rgb, height, 0.35, 26), cover(edge))


def orange(b: Brush) -> Piece:
    edge = b.ellipse(b.r, b.r * 0.96)
    return _citrus(b, (0.98, 0.50, 0.02), (0.98, 0.50, 0.04), (1.0, 0.70, 0.22), edge)


def lemon(b: Brush) -> Piece:
    edge = np.maximum(b.ellipse(b.r, b.r * 0.97), -b.v - b.r * 0.06)
    return _citrus(b, (0.96, 0.82, 0.05), (0.96, 0.87, 0.22), (1.0, 0.96, 0.58), edge)


def blueberry(b: Brush) -> Piece:
    edge = b.ellipse(b.r, b.r * 0.95)
    bloom = b.mottle(6, 0.22, 0.40)
    rgb = mix((0.09, 0.11, 0.34), (0.36, 0.43, 0.72), bloom)
    x, y = b.rng.uniform(-0.3, 0.3, 2) * b.r
    theta = np.arctan2(b.v - y, b.u - x)
    crown = np.hypot(b.u - x, b.v - y) - b.r * (0.27 + 0.07 * np.cos(5 * theta))
    rgb = mix(rgb, (0.04, 0.04, 0.14), cover(crown, 2) * 0.85)
    return Piece(light_up(rgb, dome(edge, b.r * 0.95), 0.30, 22), cover(edge))


def kiwi(b: Brush) -> Piece:
    edge = b.blob(b.r, b.r * 0.90, 0.02)
    rho, theta = np.hypot(b.u, b.v / 0.9) / b.r, np.arctan2(b.v, b.u)
    rays = 0.5 + 0.5 * np.cos(26 * theta + b.noise(6) * 0.8)
    rays = np.clip(rays * 0.7 * (rho > 0.25) + 0.2, 0, 1)
    rgb = mix((0.33, 0.60, 0.08), (0.55, 0.78, 0.18), rays)
    rgb = mix(rgb, (0.78, 0.90, 0.42), _ring(rho, 0.2, 0.28) * 0.75)
    rgb = mix(rgb, (0.95, 0.96, 0.80), cover((rho - 0.24) * b.r, 5))
    for at, length in ((0.38, 0.085), (0.50, 0.075)):
        rgb = mix(rgb, (0.07, 0.06, 0.05), _seeds(b, 17, b.r * at, b.r * length, b.r * 0.034))
    rgb = mix(rgb, (0.42, 0.27, 0.12), rim(edge, b.r * 0.065, 3))
    return Piece(light_up(rgb, dome(edge, b.r * 0.14) + b.noise(2.2) * 0.18, 0.3), cover(edge))


def cucumber(b: Brush) -> Piece:
    edge = b.ellipse(b.r, b.r * 0.94)
    rho = np.hypot(b.u, b.v / 0.94) / b.r
    rgb = mix((0.88, 0.95, 0.70), (0.72, 0.88, 0.52), np.clip((rho - 0.5) * 3, 0, 1))
    theta = np.arctan2(b.v, b.u)
    star = np.clip(np.cos(3 * theta), 0, 1) * _ring(rho, 0.35, 0.2)
    rgb = mix(rgb, (0.74, 0.89, 0.56), star * 0.9)
    rgb = mix(rgb, (0.98, 0.98, 0.84), _seeds(b, 15, b.r * 0.50, b.r * 0.11, b.r * 0.05))
    rgb = mix(rgb, (0.07, 0.32, 0.08), rim(edge, b.r * 0.12, 3))
    return Piece(light_up(rgb, dome(edge, b.r * 0.12) + b.noise(2.2) * 0.18, 0.3), cover(edge))


def avocado(b: Brush) -> Piece:
    r = b.r
    waist = r * (0.56 - 0.17 * np.clip(-b.v / r, -0.6, 1))
    body = np.hypot(b.u / waist, (b.v - 0.02 * r) / (0.97 * r))
    edge = (body - 1) * np.float32(r * 0.6)
    inner = np.clip(-edge / (r * 0.30), 0, 1)
    rgb = mix((0.52, 0.66, 0.18), (0.94, 0.90, 0.54), np.clip(inner * 1.8 - 0.3, 0, 1))
    rgb = mix(rgb, (0.13, 0.19, 0.06), rim(edge, r * 0.05, 3))
    pit = b.ellipse(r * 0.32, r * 0.33, 0, r * 0.32)
    rgb = light_up(rgb, dome(edge, r * 0.10) + b.noise(6) * 0.3, 0.25)
    seed = mix((0.42, 0.22, 0.09), (0.58, 0.33, 0.14), b.mottle(6, 0.3))
    rgb = rgb * (1 - 0.4 * cover(pit - r * 0.03, r * 0.08))[..., None]
    return Piece(mix(rgb, light_up(seed, dome(pit, r * 0.3), 0.6, 30), cover(pit)), cover(edge))


def eggplant(b: Brush) -> Piece:
    r = b.r
    waist = r * (0.44 + 0.19 * np.clip(b.v / r, -1, 1))
    edge = (np.hypot(b.u / waist, (b.v - 0.08 * r) / (0.90 * r)) - 1) * np.float32(r * 0.45)
    rgb = mix((0.20, 0.06, 0.26), (0.38, 0.14, 0.46), b.mottle(12, 0.25))
    rgb = light_up(rgb, dome(edge, r * 0.42), 0.75, 22)
    top = b.v + r * 0.74
    theta = np.arctan2(b.u, top)
    cap = np.hypot(b.u, top * 1.1) - r * (0.29 + 0.10 * np.cos(5 * theta))
    stem = np.maximum(np.abs(b.u) - r * 0.075, np.abs(b.v + r * 0.88) - r * 0.16)
    cap = np.minimum(cap, stem)
    green = mix((0.24, 0.42, 0.12), (0.46, 0.62, 0.24), b.mottle(6, 0.3))
    green = light_up(green, dome(cap, r * 0.14), 0.1)
    return Piece(mix(rgb, green, cover(cap)), np.maximum(cover(edge), cover(cap)))


def corn(b: Brush) -> Piece:
    r = b.r
    edge = b.box(r, r * 0.40, r * 0.34)
    lean = np.arcsin(np.clip(b.v / (r * 0.42), -1, 1)) * np.float32(3.6)
    row = np.round(lean)
    column = b.u / r * 8.5 + 0.5 * (row % 2)
    across, along = lean - row, column - np.round(column)
    kernel = np.clip(1 - (np.abs(across) * 2) ** 3 - (np.abs(along) * 2) ** 3, 0, 1) ** 0.6
    tint = b.mottle(6, 0.35)
    rgb = mix((0.80, 0.52, 0.05), mix((1.0, 0.80, 0.14), (1.0, 0.90, 0.38), tint), kernel)
    height = dome(edge, r * 0.36, r * 0.27) + kernel * 2.6
    return Piece(light_up(rgb, height, 0.35, 22), cover(edge))
