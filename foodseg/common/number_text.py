"""Measured numbers as text, one way in every table; "–" where nothing was measured (NaN)."""

from __future__ import annotations

from math import isnan

NOTHING = "–"


def number_text(value: float, form: str) -> str:
    """The number in that format, such as ".2f"."""
    return NOTHING if isnan(value) else format(value, form)


def with_deviation(mean: float, deviation: float, form: str = ".3f") -> str:
    """0.462 ± 0.010; without a deviation, as one value has none, 0.462."""
    spread = "" if isnan(deviation) else f" ± {deviation:{form}}"
    return number_text(mean, form) + spread


def with_interval(value: float, interval: tuple[float, float]) -> str:
    """0.857 [0.838, 0.876]"""
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def with_range(value: float, low: float, high: float, form: str) -> str:
    """1.70 (1.62 to 1.81)"""
    return NOTHING if isnan(value) else f"{value:{form}} ({low:{form}} to {high:{form}})"


def interval_text(low: float, high: float) -> str:
    """0.42–0.50"""
    return NOTHING if isnan(low) else f"{low:.2f}–{high:.2f}"
