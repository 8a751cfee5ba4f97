"""What the raw figures say: medians, ratios, and which targets are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import pandas as pd

from foodseg.common.tables import to_markdown

PHASES = ("rollout", "scoring", "update")
TITLES = {
    "this": "this trainer",
    "plain": "this trainer, plain rows",
    "trl": "TRL's GRPOTrainer",
}


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def side(results: dict, name: str, figure: str) -> Spread:
    """A side's figure over its rounds: "step", a phase (seconds), or "memory" (MiB)."""
    return Spread.of([row[figure] for row in results["sides"][name]])


def ratio(results: dict, name: str, figure: str) -> Spread:
    """How many times longer that side took than this trainer, round by round."""
    pairs = zip(results["sides"][name], results["sides"]["this"], strict=True)
    return Spread.of([theirs[figure] / ours[figure] for theirs, ours in pairs])


def table(rows: dict[str, dict], name: str) -> str:
    """Rows by title as a table in Markdown; name: above the titles."""
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(name)
    return to_markdown(frame).rstrip("\n")


def targets(results: dict) -> dict[str, tuple[str, str, bool]]:
    """What the project asks of itself: (asked, measured, met or not by the medians) by name."""
    trl, plain = ratio(results, "trl", "step"), ratio(results, "plain", "update")
    fits = results["fits"]["shared"]
    shared, other = (fits[model]["r_squared"] for model in ("shared", "plain"))
    growth = f"{shared:.3f} against {other:.3f}", shared > other
    return {
        "steps per second, against TRL": ("at least 3 times", trl.text(), trl.median >= 3),
        "update, against plain rows": ("at least 1.7 times", plain.text(), plain.median >= 1.7),
        "the update grows as P + G R, not as G (P + R)": ("R² of P + G R the higher", *growth),
    }
