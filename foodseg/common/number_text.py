"""Measured numbers as text, one way in every table; "–" where nothing was measured (NaN)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"


def number_text(form: str, *values: float) -> str:
    """The values in that form, such as "{:.2f}–{:.2f}"; NOTHING if the first one is NaN."""
    return NOTHING if isnan(values[0]) else form.format(*values)


def with_deviation(mean: float, deviation: float, digits: int = 3) -> str:
    """0.462 ± 0.010; 0.462 without a deviation (NaN), as one seed has none."""
    form = f"{{:.{digits}f}}"
    return number_text(form if isnan(deviation) else f"{form} ± {form}", mean, deviation)


def signed_interval(value: float, low: float, high: float) -> str:
    """A difference: +0.020 (+0.010 to +0.030)"""
    rounded = (round(number, 3) + 0.0 for number in (value, low, high))  # no -0.000
    return number_text("{:+.3f} ({:+.3f} to {:+.3f})", *rounded)


def column_texts(frame: pd.DataFrame, form: str, *names: str) -> list[str]:
    """`number_text` of these columns, line by line."""
    return [number_text(form, *values) for values in frame[list(names)].to_numpy()]


def with_interval(value: float, interval: Sequence[float]) -> str:
    """0.857 (0.838 to 0.876)"""
    return number_text("{:.3f} ({:.3f} to {:.3f})", value, *interval)
