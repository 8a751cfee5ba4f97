"""What a method's trainings cost: completions sampled and learnt from, and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foodseg.common.files import load_json, read_lines

COSTS = ("sampled", "learnt_from", "seconds")


def training_costs(folders: Sequence[Path]) -> dict[str, float]:
    """The mean over finished runs of each of COSTS; NaN where there is none.

    sampled: completions of all rounds of sampling, those that dynamic sampling dropped and those
    that B-GRTO's mask decoder learnt from beforehand included; learnt_from: those that the policy
    learnt from. A supervised run samples nothing. seconds: of the training alone.
    """
    costs = [run_costs(folder) for folder in folders if (folder / "result.json").exists()]
    means = np.mean(costs, axis=0).tolist() if costs else [np.nan] * len(COSTS)
    return dict(zip(COSTS, means, strict=True))


def run_costs(folder: Path) -> tuple[float, float, float]:
    """COSTS of one finished run, from its result and its log."""
    result = load_json(folder / "result.json")
    if not result.get("sampled"):  # a supervised run
        return np.nan, np.nan, result["seconds"]
    preset, log = result["preset"], folder / "log.jsonl"
    # A step of dynamic sampling may have found fewer groups; rows of a fine-tuning on own answers
    # don't say how many.
    rows = read_lines(log) if log.exists() else [{}] * result["steps"]
    groups = sum(row.get("groups", preset["prompts_per_step"]) for row in rows)
    return result["sampled"], groups * preset["group_size"], result["seconds"]
