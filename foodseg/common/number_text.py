"""Measured numbers as text, one way in every table; "–" where nothing was measured (NaN)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

NOTHING = "–"


def number_text(form: str, *values: float) -> str:
    """The values in that form, such as "{:.2f}–{:.2f}"; NOTHING if the first one is NaN."""
    return NOTHING if isnan(values[0]) else form.format(*values)


def with_deviation(mean: float, deviation: float, digits: int = 3) -> str:
    """0.462 ± 0.010; 0.462 without a deviation (NaN), as one seed has none."""
    form = f"{{:.{digits}f}}"
    return number_text(form if isnan(deviation) else f"{form} ± {form}", mean, deviation)


def with_interval(value: float, interval: Sequence[float]) -> str:
    """0.857 [0.838, 0.876]"""
    return number_text("{:.3f} [{:.3f}, {:.3f}]", value, *interval)
