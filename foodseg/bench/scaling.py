"""How an update's cost grows with G, prompt length P and completion length R: measured and fitted.

Two models of a group's seconds, a x tokens + c: a shared prefix costs P + G R tokens, plain rows
cost G (P + R). Both are fitted to both by least squares, over all points at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np
import torch

from foodseg.bench.plain_rows import plain_score_groups
from foodseg.bench.work import Shape, bench_policy, bench_preset, training_questions
from foodseg.models.mllm import Mllm, Prompt
from foodseg.models.rollouts import Rollout
from foodseg.recipes import GRPO
from foodseg.rl.evidence import gather_evidence
from foodseg.rl.groups import Group
from foodseg.training import updates
from foodseg.training.updates import PolicyUpdater


@dataclass(frozen=True)
class Point:
    """One group: `group_size` completions of `completion` tokens after `prompt` tokens."""

    group_size: int
    prompt: int
    completion: int


# In every sweep the other two sizes are those of BASE.
BASE = Point(group_size=8, prompt=192, completion=64)
SWEEPS = {
    "group_size": (2, 4, 8, 16),
    "prompt": (48, 96, 192, 384),
    "completion": (16, 32, 64, 128),
}
SCORERS: dict[str, Callable | None] = {"shared": None, "plain": plain_score_groups}


def token_count(model: str, point: Point) -> int:
    """Tokens that an update of one group computes: "shared" P + G R, "plain" G (P + R)."""
    if model == "shared":
        return point.prompt + point.group_size * point.completion
    return point.group_size * (point.prompt + point.completion)


def points(sweeps: dict[str, Sequence[int]] = SWEEPS, base: Point = BASE) -> list[Point]:
    """All points of the sweeps, each once."""
    swept = [replace(base, **{name: n}) for name, sizes in sweeps.items() for n in sizes]
    return list(dict.fromkeys(swept))


def measure_scaling(
    repeats: int, where: Sequence[Point], on_round: Callable[[], None] = lambda: None
) -> list[dict]:
    """A row for each kind of rows and point: its sizes, median `seconds`, `low` and `high`.

    One update of one group: reference log-probs, forward, backward, optimiser step. All points
    take their turns `repeats` times, after a round that warms up.
    """
    mllm = bench_policy(bench_preset(Shape()))
    groups = {point: _synthetic_group(mllm, point) for point in where}
    seconds: dict[tuple[str, Point], list[float]] = {}
    for turn in range(repeats + 1):
        for kind in SCORERS:
            for point, group in groups.items():
                one = _update_seconds(mllm, kind, group)
                if turn:
                    seconds.setdefault((kind, point), []).append(one)
        on_round()
    return [
        {"rows": kind} | asdict(point) | spread(values) for (kind, point), values in seconds.items()
    ]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"seconds": median(values), "low": min(values), "high": max(values)}


def _update_seconds(mllm: Mllm, kind: str, group: Group) -> float:
    preset = replace(bench_preset(Shape()), updates_per_rollout=1)
    updater = PolicyUpdater(mllm, preset, GRPO)
    with scored_by(SCORERS[kind]):
        start = time.perf_counter()
        updater.update([group])
        return time.perf_counter() - start


@contextmanager
def scored_by(score_groups: Callable | None) -> Iterator[None]:
    """Within this context updates score by this function (None: by their own)."""
    own = updates.score_groups
    updates.score_groups = score_groups or own
    try:
        yield
    finally:
        updates.score_groups = own


def _synthetic_group(mllm: Mllm, point: Point) -> Group:
    """Random text of the wanted lengths: what it says changes no cost."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(mllm.banned_token_ids)

    def text(length: int) -> torch.Tensor:
        return torch.randint(vocabulary, (length,), generator=generator)

    ids = text(point.prompt)
    positions = torch.arange(point.prompt).expand(3, -1)
    rollout = Rollout(
        prompt=Prompt(ids, mllm.embed_tokens(ids).detach(), positions),
        tokens=tuple(text(point.completion) for _ in range(point.group_size)),
        log_probs=tuple(torch.full((point.completion,), -7.0) for _ in range(point.group_size)),
        texts=("",) * point.group_size,
        ended=(False,) * point.group_size,
    )
    points = tuple({"made_up": float(i % 2)} for i in range(point.group_size))
    sample = training_questions(bench_preset(Shape()))[0]
    evidence = gather_evidence(sample, rollout.texts, mllm.image_side)
    return Group(sample, rollout, evidence, points)


@dataclass(frozen=True)
class Fit:
    """seconds = slope x tokens + constant, with the share of variance that it explains."""

    slope: float
    constant: float
    r_squared: float


def fit(rows: Sequence[dict], model: str) -> Fit:
    """Least squares of `model` ("shared" or "plain") on rows of one kind."""
    seconds = np.array([row["seconds"] for row in rows])
    tokens = np.array([token_count(model, point_of(row)) for row in rows])
    slope, constant = np.polyfit(tokens, seconds, 1)
    residual = seconds - (slope * tokens + constant)
    r_squared = 1 - residual.var() / seconds.var()
    return Fit(float(slope), float(constant), float(r_squared))


def point_of(row: dict) -> Point:
    return Point(row["group_size"], row["prompt"], row["completion"])


def fits(rows: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """Rows' kind -> model -> its fit as plain values."""
    return {
        kind: {
            model: asdict(fit([row for row in rows if row["rows"] == kind], model))
            for model in SCORERS
        }
        for kind in SCORERS
    }
