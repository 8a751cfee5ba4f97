"""Generic drawn shapes on dishes: what the kitchen SAM2's mask decoder learns prompts on.

A scene has a plate's table, dish, shadows and overlaps, but of `foodseg.kitchen.foods` it shows
nothing: its things are plain forms, of one piece or several, in random colours and simple textures.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from foodseg.kitchen.foods import Food
from foodseg.kitchen.plates import DRAWING_VERSION, Plate, serve_plate
from foodseg.kitchen.textures import Brush, Colour, Piece, cover, dome, light_up, mix, rim

FORMS = ("ellipse", "blob", "polygon", "box", "arc")
# Cores and rims of another colour are frequent: a decoder that has seen few of them takes a thing's
# most striking part for the whole of it, as an egg's yolk (IoU of eggs 0.27, of all foods 0.79).
TEXTURES = ("plain", "stripes", "spots", "noise", "gradient", "core", "core", "core")
HUES = 9
BRIGHT, DARK, WHITE = (0.75, 1.0), (0.25, 0.5), (0.9, 1.0)  # ranges of a colour's value
# A thing's kind is its main colour: one of HUES hues or none (the last), bright or dark, or white.
# A scene shows each kind at most once. Kinds must be easy to see: with form and texture in
# colour's place the mask tokens named them no better than by chance, and found no place, after
# 180 prompt steps.
_KINDS = [*product(range(HUES + 1), (BRIGHT, DARK)), (HUES, WHITE), (HUES, WHITE)]
SHAPES = dict(enumerate(_KINDS, 1))
_STREAM = 2  # keeps a scene's random numbers apart from those of the plate with its seed


@dataclass(frozen=True)
class Look:
    """What the pieces of one thing have in common; lengths are in radii of a piece."""

    form: str
    texture: str
    colours: tuple[Colour, Colour]
    width: float  # across, where 1 is the length along
    corner: float  # how far a box's corners are rounded, of its half width
    wobble: float  # of a blob's outline
    sides: int  # of a polygon
    bend: float  # radius of an arc
    period: float  # of stripes
    turn: float  # direction of stripes and gradients, radians
    grain: float  # pixels, one of `noise_tile`'s scales
    core: float  # size of a core in the second colour
    rim: float  # width of a rim in the second colour; 0 for none
    height: float  # of the dome that catches the light


def draw_shapes(seed: int) -> Plate:
    """Draw a scene of two to five things; its mask and `foods` hold keys of SHAPES.

    The same seed gives the same bytes; sizes and visibility are those of `draw_plate`.
    """
    rng = np.random.default_rng([DRAWING_VERSION, _STREAM, seed])
    return serve_plate(rng, {number: _invent(rng, *kind) for number, kind in SHAPES.items()})


def _invent(rng: np.random.Generator, hue: int, values: tuple[float, float]) -> Food:
    """One thing of a kind: its look, how many pieces it has and how large they are."""
    form, texture = str(rng.choice(FORMS)), str(rng.choice(TEXTURES))
    look = Look(
        form,
        texture,
        _colours(rng, hue, values),
        width=rng.uniform(0.22, 0.32) if form == "arc" else rng.uniform(0.55, 1),
        corner=rng.uniform(0.05, 0.6),
        wobble=rng.uniform(0.05, 0.2),
        sides=int(rng.integers(4, 8)),
        bend=rng.uniform(0.7, 2),
        period=rng.uniform(0.15, 0.6),
        turn=rng.uniform(0, np.pi),
        grain=float(rng.choice((2.2, 6, 12))),
        core=rng.uniform(0.25, 0.6),
        rim=rng.uniform(0.05, 0.15) if rng.random() < 0.4 else 0.0,
        height=rng.uniform(0.05, 0.35),
    )
    pieces = int(rng.choice((1, 1, 2, 3, 4, 5, 6, 7)))
    # Round pieces that lie side by side must be small; arcs are thin, so they may be long.
    scale = 0.85 if form == "arc" else rng.uniform(0.75, 1) * pieces**-0.5
    return Food(partial(_draw_piece, look), (pieces,), scale)


def _colours(
    rng: np.random.Generator, hue: int, values: tuple[float, float]
) -> tuple[Colour, Colour]:
    """The kind's colour, and beside it a shade of the same or any other colour."""
    strength = rng.uniform(0.5, 1) if hue < HUES else rng.uniform(0, 0.12)
    first = colorsys.hsv_to_rgb(
        (hue + rng.uniform(0.2, 0.8)) / HUES, strength, rng.uniform(*values)
    )
    shade = tuple(rng.uniform(0.5, 0.8) * level for level in first)
    other = tuple(map(float, rng.uniform(0.05, 1, 3)))
    return first, shade if rng.random() < 0.4 else other


def _draw_piece(look: Look, b: Brush) -> Piece:
    edge = _outline(look, b)
    rgb = mix(*look.colours, _pattern(look, b))
    if look.rim:
        rgb = mix(rgb, look.colours[1], rim(edge, look.rim * b.r, 3))
    return Piece(light_up(rgb, dome(edge, look.height * b.r), 0.1), cover(edge))


def _outline(look: Look, b: Brush) -> np.ndarray:
    """Signed distance to the form, pixels; it stays within the brush's radius."""
    along, across = b.r * 0.96, b.r * 0.96 * look.width
    if look.form == "ellipse":
        return b.ellipse(along, across)
    if look.form == "blob":
        return b.blob(0.84 * along, 0.84 * across, look.wobble)
    if look.form == "polygon":
        return _polygon(b, along, across, look.sides)
    if look.form == "box":
        return b.box(0.8 * along, 0.8 * across, look.corner * 0.8 * across)
    return b.arc(look.bend * b.r, 0.9 / look.bend, across)[0]


def _polygon(b: Brush, along: float, across: float, sides: int) -> np.ndarray:
    """Signed distance (near enough) to a convex polygon inscribed in an ellipse."""
    gaps = b.rng.uniform(0.7, 1.3, sides)
    angles = np.cumsum(gaps / gaps.sum()) * 2 * np.pi
    x, y = along * np.cos(angles), across * np.sin(angles)
    edge = np.full_like(b.u, -np.inf)
    for x1, y1, x2, y2 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        length = np.hypot(x2 - x1, y2 - y1)
        outward = ((b.u - x1) * (y2 - y1) - (b.v - y1) * (x2 - x1)) / length
        edge = np.maximum(edge, outward)
    return edge.astype(np.float32)


def _pattern(look: Look, b: Brush) -> np.ndarray:
    """How much of the second colour each pixel has, 0..1."""
    position = (b.u * np.cos(look.turn) + b.v * np.sin(look.turn)) / b.r
    position = position.astype(np.float32)
    if look.texture == "stripes":
        return cover((np.abs(position / look.period % 1 - 0.5) - 0.15) * look.period * b.r, 2)
    if look.texture == "spots":
        return cover((0.7 - b.cells(1500)) * 8)
    if look.texture == "noise":
        return b.mottle(look.grain, 0.4)
    if look.texture == "core":
        sizes = look.core * b.r, look.core * look.width * b.r
        return cover(b.ellipse(*sizes, 0.15 * b.r * np.cos(look.turn), 0))
    if look.texture == "gradient":
        return np.clip(0.5 + 0.5 * position, 0, 1)
    return np.zeros_like(b.u)
