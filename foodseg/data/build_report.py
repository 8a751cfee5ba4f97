"""What a build of FoodReasonSeg-Single kept, what it left out and why, and its foods."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from foodseg.common.files import write_atomically
from foodseg.data.foodseg103 import Problem
from foodseg.data.references import mask_area
from foodseg.data.samples import Sample

NO_MASK = "needs no mask"


@dataclass(frozen=True)
class BuildReport:
    """What became of one split's turns.

    counts: entries of the JSON file, dishes (distinct), turns (kept and left out), references; and,
    where there are any, no_target: turns kept that nothing in the photo answers.
    left_out: turns by reason; a turn with several faults counts under its first.
    parts_dropped: parts under `min_area` pixels, of ingredients that were asked for.
    unmarked: turns kept without the braces of a {name} that lacks its [SEG].
    """

    split: str
    per: str
    min_area: int
    counts: dict[str, int]
    kept: int
    left_out: dict[str, int]
    parts_dropped: int
    unmarked: int
    problems: tuple[Problem, ...]

    def to_frame(self) -> pd.DataFrame:
        """The turns by outcome: columns `outcome` (kept, left out), `reason` and `turns`."""
        rows = [("kept", "", self.kept)]
        rows += [("left out", reason, turns) for reason, turns in self.left_out.items()]
        return pd.DataFrame(rows, columns=["outcome", "reason", "turns"])

    def describe(self, faults: int | None = None) -> str:
        """As text: a line of totals, then one for each reason and each fault (at most `faults`)."""
        kept = f"{self.split}: {self.kept} of {{turns}} turns kept with {{references}} references"
        source = "from {entries} conversations about {dishes} dishes."
        lines = [f"{kept} (one for each {self.per}), {source}".format(**self.counts)]
        if no_target := self.counts.get("no_target"):
            lines.append(f"  kept: {no_target} turns that nothing in the photo answers")
        lines += [f"  left out: {turns} {reason}" for reason, turns in self.left_out.items()]
        if self.parts_dropped:
            lines.append(f"  dropped: {self.parts_dropped} parts under {self.min_area} pixels")
        if self.unmarked:
            without = "without the braces of a name that lacks its [SEG]"
            lines.append(f"  kept: {self.unmarked} turns {without}")
        lines += [f"  fault: {problem}" for problem in self.problems[:faults]]
        if more := len(self.problems) - len(self.problems[:faults]):
            lines.append(f"  and {more} other faults, in the saved report")
        return "\n".join(lines)

    def save(self, path: Path | str) -> None:
        """Writes the report as JSON."""
        write_atomically(Path(path), (json.dumps(asdict(self), indent=1) + "\n").encode())


@dataclass
class Tally:
    """The counts of a running build."""

    entries: int = 0
    references: int = 0
    kept: int = 0
    no_target: int = 0
    parts_dropped: int = 0
    unmarked: int = 0
    dishes: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def keep(self, sample: Sample) -> None:
        """Counts a sample that was built."""
        self.kept += 1
        self.no_target += sample.no_target
        self.references += len(sample.references)

    def report(self, split: str, per: str, min_area: int) -> BuildReport:
        """The finished report, most frequent reason first."""
        left_out = dict(self.left_out.most_common())
        counts = {"entries": self.entries, "dishes": len(self.dishes)}
        counts |= {"turns": self.kept + self.left_out.total(), "references": self.references}
        counts |= {"no_target": self.no_target} if self.no_target else {}
        rest = self.parts_dropped, self.unmarked, tuple(self.problems)
        return BuildReport(split, per, min_area, counts, self.kept, left_out, *rest)


def describe(samples: Iterable[Sample]) -> pd.DataFrame:
    """One row for each food, most asked for first; of each sample only its areas are kept.

    Columns: `samples` that ask for it, `references`, `references_per_sample` (mean), `area_min`,
    `area_median`, `area_max` (pixels of one reference's mask) and `share_median` (of the image).
    """
    columns = ["food", "sample", "area", "share"]
    rows = [
        (food, sample.sample_id, mask_area(mask), mask_area(mask) / (sample.width * sample.height))
        for sample in samples
        for food, mask in zip(sample.reference_foods, sample.masks, strict=True)
    ]
    foods = pd.DataFrame(rows, columns=columns).groupby("food")
    table = foods["sample"].agg(samples="nunique", references="size")
    table["references_per_sample"] = table["references"] / table["samples"]
    table = table.join(foods["area"].agg(area_min="min", area_median="median", area_max="max"))
    table["share_median"] = foods["share"].median()
    return table.sort_values(["samples", "food"], ascending=[False, True])
