"""What a notebook needs from the ones before it."""

from __future__ import annotations

from pathlib import Path

from foodseg.errors import DataError
from foodseg.presets import HOME


def require(path: Path, notebook: str) -> Path:
    """`path` if it is there; else DataError with the notebook, by its name, that writes it."""
    if path.exists():
        return path
    try:
        # datasets/<preset>/... or runs/<preset>/...
        shown = path.relative_to(HOME)
        target = f" (`make build/{shown.parts[1]}/{notebook}.ipynb`)"
    except ValueError:
        shown, target = path.name, ""
    raise DataError(f"{shown} is missing; run notebook {notebook} first{target}.")


def parse_seeds(text: str) -> list[int]:
    """The seeds of a notebook's SEEDS parameter: "0,1,2" -> [0, 1, 2]."""
    try:
        seeds = [int(part) for part in str(text).split(",")]
    except ValueError:
        raise DataError(f'SEEDS: {text!r} is no list of seeds; write it as "0,1,2".') from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise DataError(f"SEEDS: {text!r} repeats one or has one below 0; name each seed once.")
    return seeds
