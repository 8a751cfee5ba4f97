"""The rule by which a claim gets its verdict, committed before the runs; CHANGES says what was not.

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
is one of each row: its interval is over plates alone, so it must lie beyond a margin that two seeds
of one recipe rarely differ by.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan

from scipy import stats

from foodseg.evaluation.intervals import LEVEL

SEEDS = 8
# Of gIoU: two seeds of a recipe that has a standard deviation of 0.054 differ by less in 95%.
ONE_SEED_MARGIN = 0.15
# The fewest degrees of freedom that eight seeds leave: no claim is taken for surer than it is.
FREEDOM = SEEDS - 1

SEEN, NOT_SEEN, CONTRADICTED = "seen", "not seen", "contradicted"
OPEN, NOT_HERE = "open", "can't be asked here"
VERDICTS = (SEEN, NOT_SEEN, CONTRADICTED, OPEN, NOT_HERE)

RULE = f"""\
The rule, committed before the runs that it judges, but for the changes that
`foodseg/claims/rule.py` names. D is the difference of the two rows, turned so that a claim that
holds has D > 0, with a {LEVEL:.0%} interval over plates and at least {SEEDS} seeds of each trained
row (figures of the log: over seeds, paired). All recipes sample the same number of completions, to
within their last step, and may take unlike numbers of gradient steps; supervised rows learn from as
many answers, of all training questions.

* **{SEEN}**: the interval lies above 0.
* **{CONTRADICTED}**: it lies below 0.
* **{NOT_SEEN}**: it has 0 in it; what is named with it is its upper end, the largest effect in the
  claim's direction that these runs leave room for (a one-sided limit of 97.5%).
* **{OPEN}**: too few seeds have ended, or the runs have nothing to measure: the figure is 0 in all.
* **{NOT_HERE}**: it needs what is not here, or what these runs don't do; its reason says what.

Where a row has one seed by design, the interval is over plates alone and another seed may end
elsewhere: it must lie above {ONE_SEED_MARGIN}, or below -{ONE_SEED_MARGIN}.

Of claims without any effect one in forty comes out as seen, and one in forty as contradicted. Those
that share a row's runs err together. No interval has in it what another base, other training
questions or another learning rate would change. Where the part that a claim is about hardly acts,
nothing can be seen of it: the tables say how much it acts.

**q** tells what a verdict is worth among so many. Of the claims with a q up to some value that
share is expected to be seen or contradicted without any effect (Benjamini and Hochberg, over all
claims with a verdict; by Student's t of {FREEDOM} degrees of freedom). **Seen from** is the least D
that comes out as seen in four of five tables like this one: where a paper's effect is smaller, "not
seen" says little of it. A claim that no paper makes says "none" or "not ablated" in the papers'
place."""

CHANGES = """\
Changed on 2026-11-29, when seed 0 of 45 rows had ended, three seeds of GRPO and DAPO and two of
fine-tuning, after a review of what the figures measure: `points`, `points-inside` and
`clip-higher-tokens` can't be asked (their reasons say why); a figure that is 0 in all runs leaves
its claim open; a single seed has a margin; `reasons`, which counted a phrase in greedy answers,
became `reasons-right` and `reasons-more`; `scaled` compares sums of one range; SD-GRPO's thinking
keeps the whole's advantage; `accuracy`, `non-repeat-score`, `sam-r1-token-loss`,
`sam-r1-clip-high`, `segments-dr`, `b-grto-decoder`, `gdpo` and ours against each published recipe
are new, and ours is another recipe than before.

Changed on 2026-11-30, when most rows had two or three seeds and no claim a verdict, after a second
review: `b-grto-decoder` compares equal steps of the policy, whose prompts the masks are of (before,
equal completions, where B-GRTO's policy is behind; it stood at -0.014); `no-kl` is turned and
called `kl`, since "not needed" is what no difference supports; `visurf-both` and `points-inside`
are asked; `rft-lisa`, `rft-foodlmm`, `points-inside-contrast` and `clip-cuts-unlikely` are new.
Only words were changed of `rft-sft`, `rft-own`, `gdpo`, `visurf-sft`, `segments-dr` and of what
papers report. The claims about our recipe are counted apart.

Changed later that day, when 19 claims had a verdict, after a third reading: `kl` stands under Often
asked, since DAPO says the contrary; `ours-dapo-without-non-repeat` is new, with the eight seeds of
both rows in view (means 0.688 and 0.685). Otherwise words only: what `rft`, `rft-sft` and
`clip-cuts-unlikely` say beside the papers' figures, and clearer sentences.

Changed that evening, when 44 claims had a verdict, after a review of the statistics:
`b-grto-faster` compares equal steps of the policy (before, the middle third of the completions,
where B-GRTO's policy is 8 steps behind: -0.310, contradicted); the margin of a single seed is 0.15,
since SAM-R1's seeds scatter more than DAPO's (before 0.1; no verdict hung on it); q and "seen from"
are new, and change no verdict. Words: what `rft-sft`, `rft-own`, `b-grto`, `no-signal`,
`non-repeat` and `non-repeat-score` say beside the papers' figures, and which papers were not read
whole. Asked, turned or measured anew with runs of both rows in view are `non-repeat-score`,
`reasons-right`, `reasons-more`, `clip-cuts-unlikely`, `b-grto-decoder`, `b-grto-faster`, `kl` and
`ours-dapo-without-non-repeat`; of these `non-repeat-score` has another verdict over the seeds that
ended later."""


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

    @property
    def half(self) -> float:
        """The interval's half that lies towards 0."""
        return self.mean - self.low if self.mean > 0 else self.high - self.mean

    @property
    def chance(self) -> float:
        """Two-sided p-value; 0.05 where the interval ends at 0."""
        reach = stats.t.ppf((1 + LEVEL) / 2, FREEDOM)
        standardised = reach * abs(self.mean) / self.half if self.half else inf
        return float(2 * stats.t.sf(standardised, FREEDOM))

    @property
    def seen_from(self) -> float:
        """The least mean that is seen with a probability of 0.8, intervals being as wide."""
        reach, further = stats.t.ppf([(1 + LEVEL) / 2, 0.8], FREEDOM)
        return float(self.half * (1 + further / reach))


NO_DIFFERENCE = Difference(float("nan"), float("nan"), float("nan"), 0)


def verdict(difference: Difference, seeds_needed: int = SEEDS) -> str:
    """One of VERDICTS but the last, of a difference in the claim's direction."""
    if difference.seeds < seeds_needed or isnan(difference.low):
        return OPEN
    if difference.low == difference.high == 0:  # no run has anything of it
        return OPEN
    margin = 0.0 if seeds_needed > 1 else ONE_SEED_MARGIN
    if difference.low > margin:
        return SEEN
    return CONTRADICTED if difference.high < -margin else NOT_SEEN
