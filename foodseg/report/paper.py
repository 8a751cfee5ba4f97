"""The numbers that the paper reports; tables show them in columns of their own."""

from __future__ import annotations

from typing import NamedTuple


class PaperRow(NamedTuple):
    """One line of the paper's table; row: our own measurement of the method, None without one."""

    method: str
    giou: float
    ciou: float
    row: str | None


PAPER = (
    PaperRow("Base + SAM2, zero-shot", 0.07, 0.08, "base"),
    PaperRow("LISA 7B", 0.19, 0.19, None),
    PaperRow("FoodLMM-Chat 7B", 0.25, 0.20, None),
    PaperRow("GRPO", 0.46, 0.41, "grpo"),
    PaperRow("DAPO", 0.51, 0.45, "dapo"),
)
