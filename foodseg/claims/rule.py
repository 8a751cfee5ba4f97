"""The rule by which a claim gets its verdict; it was committed before the runs that it judges.

A claim says that a figure of one recipe's runs lies above, or below, that of another's. Both are
trained with at least SEEDS seeds, and every recipe samples the same number of completions, to
within its last step; supervised rows learn from as many answers. D is the mean over the first's
runs less that over the other's, turned so that a claim that holds has D > 0. Its 95% interval is
taken

- over plates and both recipes' seeds, where the figure is one of the test answers
  (`evaluation.intervals`; of single runs over plates alone);
- over seeds, paired, by Student's t, where it is one of the log: runs of one seed meet the same
  questions.

The verdict depends on the interval alone. One claim is about runs ten times as long, of which there
is one of each row: its interval is over plates alone, and it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

from foodseg.evaluation.intervals import LEVEL

SEEDS = 8

SEEN, NOT_SEEN, CONTRADICTED = "seen", "not seen", "contradicted"
OPEN, NOT_HERE = "open", "can't be asked here"
VERDICTS = (SEEN, NOT_SEEN, CONTRADICTED, OPEN, NOT_HERE)

RULE = f"""\
The rule, committed before the runs that it judges (`foodseg/claims/rule.py`). D is the difference
of the two rows, turned so that a claim that holds has D > 0, with a {LEVEL:.0%} interval over
plates and at least {SEEDS} seeds of each row (figures of the log: over seeds, paired). All recipes
sample the same number of completions, to within their last step; supervised rows learn from as many
answers. Where a row has one seed by design, the interval is over plates alone: another seed may end
elsewhere.

* **{SEEN}**: the interval lies above 0.
* **{CONTRADICTED}**: it lies below 0.
* **{NOT_SEEN}**: it has 0 in it; what is named with it is its upper end, the largest effect in the
  claim's direction that these runs leave room for.
* **{OPEN}**: too few seeds have ended, or the runs have nothing to measure.
* **{NOT_HERE}**: it needs what is not here; the row says what.

Of claims without any effect one in forty comes out as seen, and one in forty as contradicted."""


@dataclass(frozen=True)
class Difference:
    """D, its interval's ends, and the seeds of the row that has fewer; NaN where unknown."""

    mean: float
    low: float
    high: float
    seeds: int

    def turned(self) -> Difference:
        """The same of a claim in the other direction."""
        return Difference(-self.mean, -self.high, -self.low, self.seeds)


NO_DIFFERENCE = Difference(float("nan"), float("nan"), float("nan"), 0)


def verdict(difference: Difference, seeds_needed: int = SEEDS) -> str:
    """One of VERDICTS but the last, of a difference in the claim's direction."""
    if difference.seeds < seeds_needed or isnan(difference.low):
        return OPEN
    if difference.low > 0:
        return SEEN
    return CONTRADICTED if difference.high < 0 else NOT_SEEN
