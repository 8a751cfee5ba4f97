"""A mask as polygons that a polygon filler draws back pixel by pixel.

LISA's reader (`utils/data_processing.py`) fills every polygon with 1, outline included: it can cut
no hole, and rounds a slanted edge. So the mask is cut, row by row, into pieces that have one run of
pixels in each of their rows, and a piece's outline goes through its own pixels' centres, along rows
and columns only. Whatever the filler's rule is, such a polygon is exactly its piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[int, int]  # x, y
Run = tuple[int, int]  # first and last pixel of a row's run
Polygon = list[Point]


def mask_to_polygons(mask: np.ndarray) -> list[Polygon]:
    """Polygons of (x, y), whole pixels of a boolean mask (H, W); together exactly the mask.

    They share no pixel. Each has three points or more, as annotation tools ask.
    """
    return [_outline(top, runs) for top, runs in _pieces(mask)]


def polygons_to_mask(polygons: Sequence[Polygon], size: tuple[int, int]) -> np.ndarray:
    """The union of filled polygons, boolean (H, W), by Pillow; size is (width, height)."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        draw.polygon(polygon, fill=1, outline=1)
    return np.asarray(image) > 0


def _pieces(mask: np.ndarray) -> Iterator[tuple[int, list[Run]]]:
    """(first row, one run for each row) of each piece, where they end."""
    open_pieces: dict[Run, tuple[int, list[Run]]] = {}
    for y, row in enumerate(np.asarray(mask, dtype=bool)):
        runs = _runs(row)
        above = _neighbours(list(open_pieces), runs)
        below = _neighbours(runs, list(open_pieces))
        continued = {}
        for run in runs:
            before = above[run]
            # Where runs part or meet, a new piece begins.
            if len(before) == 1 and len(below[before[0]]) == 1:
                continued[run] = open_pieces.pop(before[0])
                continued[run][1].append(run)
            else:
                continued[run] = (y, [run])
        yield from open_pieces.values()
        open_pieces = continued
    yield from open_pieces.values()


def _runs(row: np.ndarray) -> list[Run]:
    steps = np.flatnonzero(np.diff(row, prepend=False, append=False))
    return [(int(a), int(b) - 1) for a, b in zip(steps[::2], steps[1::2], strict=True)]


def _neighbours(others: list[Run], runs: list[Run]) -> dict[Run, list[Run]]:
    """For each run, which of the other row's runs share a column with it; both left to right."""
    found, start = {}, 0
    for first, last in runs:
        while start < len(others) and others[start][1] < first:
            start += 1
        end = start
        while end < len(others) and others[end][0] <= last:
            end += 1
        found[first, last] = others[start:end]
    return found


def _outline(top: int, runs: list[Run]) -> Polygon:
    """Down along the first pixels, up along the last ones.

    Between two rows the step goes where both have a pixel, so the level part is in the longer row.
    """
    down, up = [(runs[0][0], top)], [(runs[0][1], top)]
    for y, (above, below) in enumerate(pairwise(runs), start=top):
        left, right = max(above[0], below[0]), min(above[1], below[1])
        down += [(left, y), (left, y + 1), (below[0], y + 1)]
        up += [(right, y), (right, y + 1), (below[1], y + 1)]
    return _without_needless(down + up[::-1])


def _without_needless(points: Polygon) -> Polygon:
    """Without points that repeat the one before or stand between two others on one line."""
    kept: Polygon = []
    for point in points:
        if kept and kept[-1] == point:
            continue
        if len(kept) > 1 and _between(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept + [kept[-1]] * (3 - len(kept))


def _between(a: Point, b: Point, c: Point) -> bool:
    straight = a[0] == b[0] == c[0] or a[1] == b[1] == c[1]
    return straight and min(a, c) <= b <= max(a, c)
