"""One claim of a paper, as it is asked here."""

from __future__ import annotations

from dataclasses import dataclass

from foodseg.claims.measures import GIOU, Dose, OfAnswers, OfLog
from foodseg.claims.rule import SEEDS


@dataclass(frozen=True)
class Claim:
    """One claim; treated, control: names of rows, and "" for control if the figure alone counts.

    own: the paper's own figure. here: what is unequal, or unlike the paper, in these runs.
    below: whether the treated row is said to lie below the control. acts: how much the part that
    it is about acts, in the control's runs. seeds: needed of each row. reason: why it can't be
    asked here; then it has no rows.
    """

    name: str
    paper: str
    says: str
    own: str
    treated: str = ""
    control: str = ""
    measure: OfAnswers | OfLog = GIOU
    below: bool = False
    acts: Dose | None = None
    seeds: int = SEEDS
    reason: str = ""
    here: str = ""

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that it compares."""
        return tuple(row for row in (self.treated, self.control) if row)
