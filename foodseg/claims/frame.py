"""The claims' numbers, one line for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from foodseg.ablations.frame import ended_runs
from foodseg.ablations.rows import Row, choose_rows
from foodseg.ablations.runs import Run, Runs, runs_of
from foodseg.claims.claim import Claim
from foodseg.claims.field import CLAIMS
from foodseg.claims.measures import OfLog, answers_difference, log_difference
from foodseg.claims.rule import (
    CONTRADICTED,
    NO_DIFFERENCE,
    NOT_HERE,
    NOT_SEEN,
    SEEN,
    Difference,
    verdict,
)
from foodseg.common.files import read_lines
from foodseg.evaluation.predictions import Prediction

# Columns of numbers and truth values; all others are text.
NUMBERS = ("below", "mean", "low", "high", "q", "seeds", "seen_from")


class EndedRuns:
    """What the runs of a preset left that are of today's settings and code: read once, by row."""

    def __init__(self, runs: Runs, seeds: Sequence[int]) -> None:
        self.runs, self.seeds = runs, seeds
        self.samples = runs.samples("test")[1]
        self.ended = cache(self._ended)
        self.predictions = cache(self._predictions)
        self.logs = cache(self._logs)

    def _ended(self, row: str) -> list[Run]:
        """The current runs of a row that have scores, in the order of the seeds."""
        ended = ended_runs(self.runs, runs_of(choose_rows(row), self.seeds))
        return [run for run in ended if self.runs.finished(run)]

    def _predictions(self, row: str) -> list[list[Prediction]]:
        return self.runs.predictions(self.ended(row))

    def _logs(self, row: str) -> list[list[dict]]:
        return [read_lines(self.runs.log(run)) for run in self.ended(row)]


def claims_frame(
    runs: Runs, seeds: Sequence[int], claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """One line a claim, indexed by its name: its words, D and its interval, and the verdict.

    mean, low, high: in the claim's direction; NaN where there is nothing to compare. seeds: of the
    row that has fewer. q, seen_from: as the rule explains them; NaN without a verdict, or of one
    seed.
    """
    ended = EndedRuns(runs, seeds)
    lines = {claim.name: _line(claim, ended) for claim in claims}
    frame = pd.DataFrame.from_dict(lines, orient="index").rename_axis("claim")
    frame.insert(frame.columns.get_loc("seeds"), "q", false_discovery(frame.pop("chance")))
    return frame


def false_discovery(chances: pd.Series) -> pd.Series:
    """q of each p-value among all that are known; NaN for NaN."""
    known = chances.dropna()
    found = stats.false_discovery_control(known) if len(known) else []
    return pd.Series(found, index=known.index, dtype=float).reindex(chances.index)


def difference(claim: Claim, ended: EndedRuns) -> Difference:
    """D of a claim from the runs that have ended."""
    if claim.reason:
        return NO_DIFFERENCE
    if isinstance(claim.measure, OfLog):
        logs, others = _same_seeds(claim, ended)
        found = log_difference(claim.measure, logs, others)
    else:
        predictions = map(ended.predictions, (claim.treated, claim.control))
        found = answers_difference(claim.measure, *predictions, ended.samples)
    return found.turned() if claim.below else found


def _same_seeds(claim: Claim, ended: EndedRuns) -> tuple[list, list | None]:
    """The logs of the seeds that both rows have."""
    treated = dict(zip(_seeds(claim.treated, ended), ended.logs(claim.treated), strict=True))
    if not claim.control:
        return list(treated.values()), None
    control = dict(zip(_seeds(claim.control, ended), ended.logs(claim.control), strict=True))
    both = [seed for seed in treated if seed in control]
    return [treated[seed] for seed in both], [control[seed] for seed in both]


def _seeds(row: str, ended: EndedRuns) -> list[int]:
    return [run.seed for run in ended.ended(row)]


def _line(claim: Claim, ended: EndedRuns) -> dict:
    found = difference(claim, ended)
    # A row without seeds answers greedily, always the same.
    seeds = [len(ended.ended(row)) for row in claim.rows if _row(row).trained]
    if isinstance(claim.measure, OfLog):
        seeds.append(found.seeds)
    found = replace(found, seeds=min(seeds, default=0))
    given = NOT_HERE if claim.reason else verdict(found, claim.seeds)
    weighed = given in (SEEN, NOT_SEEN, CONTRADICTED) and claim.seeds > 1
    return {
        "paper": claim.paper,
        "says": claim.says,
        "own": claim.own,
        "here": claim.here,
        "treated": claim.treated,
        "control": claim.control,
        "measure": claim.measure.name if claim.rows else "",
        "unit": claim.measure.unit if claim.rows else "",
        "below": claim.below,
        "acts": claim.acts.text(ended.logs(claim.control)) if claim.acts else "",
        **asdict(found),
        "seen_from": found.seen_from if weighed else np.nan,
        "chance": found.chance if weighed else np.nan,
        "verdict": given,
        "reason": claim.reason,
        "commits": _commits(claim, ended),
    }


def _commits(claim: Claim, ended: EndedRuns) -> str:
    """Commits and processors of the runs behind a claim, each once."""
    outcomes = [ended.runs.outcome(run) for row in claim.rows for run in ended.ended(row)]
    texts = [f"{one['commit']} on {one['processor']}" for one in outcomes]
    return ", ".join(dict.fromkeys(texts))


@cache
def _row(name: str) -> Row:
    (row,) = choose_rows(name)
    return row


def nothing_measured(frame: pd.DataFrame) -> bool:
    """Whether no claim has a difference yet."""
    return bool(np.isnan(frame["mean"].astype(float)).all())
