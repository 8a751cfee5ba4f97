"""The claims' numbers, one line for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

import numpy as np
import pandas as pd

from foodseg.ablations.frame import ended_runs
from foodseg.ablations.rows import Row, choose_rows
from foodseg.ablations.runs import Run, Runs, runs_of
from foodseg.claims.field import CLAIMS, Claim
from foodseg.claims.measures import OfLog, answers_difference, log_difference
from foodseg.claims.rule import NO_DIFFERENCE, NOT_HERE, Difference, verdict
from foodseg.common.files import read_lines
from foodseg.evaluation.evaluate import Prediction, load_predictions

NUMBERS = ("treated_mean", "control_mean", "mean", "low", "high", "seeds")


class Evidence:
    """What the ended runs of a preset left, read once: predictions and logs by row."""

    def __init__(self, runs: Runs, seeds: Sequence[int]) -> None:
        self.runs, self.seeds = runs, seeds
        self.samples = runs.samples("test")[1]
        self.predictions = cache(self._predictions)
        self.logs = cache(self._logs)

    def ended(self, row: str) -> list[Run]:
        """The runs of a row that have scores, in the order of the seeds."""
        return ended_runs(self.runs, runs_of(choose_rows(row), self.seeds))

    def _predictions(self, row: str) -> list[list[Prediction]]:
        folders = [self.runs.preset.predictions_folder(run.name) for run in self.ended(row)]
        return [load_predictions(folder) for folder in folders]

    def _logs(self, row: str) -> list[list[dict]]:
        return [read_lines(self.runs.log(run)) for run in self.ended(row)]


def claims_frame(
    runs: Runs, seeds: Sequence[int], claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """One line a claim, indexed by its name: its words, D and its interval, and the verdict.

    mean, low, high: in the claim's direction; NaN where there is nothing to compare. seeds: of the
    row that has fewer.
    """
    evidence = Evidence(runs, seeds)
    lines = {claim.name: _line(claim, evidence) for claim in claims}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("claim")


def difference(claim: Claim, evidence: Evidence) -> Difference:
    """D of a claim from the runs that have ended."""
    if claim.reason:
        return NO_DIFFERENCE
    if isinstance(claim.measure, OfLog):
        logs, others = _same_seeds(claim, evidence)
        found = log_difference(claim.measure, logs, others)
    else:
        predictions = map(evidence.predictions, (claim.treated, claim.control))
        found = answers_difference(claim.measure, *predictions, evidence.samples)
    return found.turned() if claim.below else found


def _same_seeds(claim: Claim, evidence: Evidence) -> tuple[list, list | None]:
    """The logs of the seeds that both rows have."""
    treated = dict(zip(_seeds(claim.treated, evidence), evidence.logs(claim.treated), strict=True))
    if not claim.control:
        return list(treated.values()), None
    control = dict(zip(_seeds(claim.control, evidence), evidence.logs(claim.control), strict=True))
    both = [seed for seed in treated if seed in control]
    return [treated[seed] for seed in both], [control[seed] for seed in both]


def _seeds(row: str, evidence: Evidence) -> list[int]:
    return [run.seed for run in evidence.ended(row)]


def _line(claim: Claim, evidence: Evidence) -> dict:
    found = difference(claim, evidence)
    # A row without seeds answers greedily, always the same.
    seeds = [len(evidence.ended(row)) for row in claim.rows if _row(row).trained]
    found = Difference(found.mean, found.low, found.high, min(seeds, default=0))
    return {
        "paper": claim.paper,
        "says": claim.says,
        "own": claim.own,
        "treated": claim.treated,
        "control": claim.control,
        "measure": claim.measure.name if claim.rows else "",
        "below": claim.below,
        **asdict(found),
        "verdict": NOT_HERE if claim.reason else verdict(found, claim.seeds),
        "reason": claim.reason,
        "commits": _commits(claim, evidence),
    }


def _commits(claim: Claim, evidence: Evidence) -> str:
    """Commits and processors of the runs behind a claim, each once."""
    outcomes = [evidence.runs.outcome(run) for row in claim.rows for run in evidence.ended(row)]
    texts = [f"{one['commit']} on {one['processor']}" for one in outcomes]
    return ", ".join(dict.fromkeys(texts))


@cache
def _row(name: str) -> Row:
    (row,) = choose_rows(name)
    return row


def nothing_measured(frame: pd.DataFrame) -> bool:
    """Whether no claim has a difference yet."""
    return bool(np.isnan(frame["mean"].astype(float)).all())
