"""How an update's cost grows with G, prompt length P and completion length R: measured and fitted.

Two models of a group's seconds, a x tokens + c: a shared prefix costs P + G R tokens, plain rows
cost G (P + R). Both are fitted to both by least squares, over all points at once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np
import torch

from foodseg.bench.plain_rows import plain_score_groups
from foodseg.bench.workload import STEP, make_policy
from foodseg.common.progress import tqdm
from foodseg.models.mllm import Mllm, Prompt
from foodseg.models.rollouts import Rollout
from foodseg.models.shared_prefix import score_groups
from foodseg.recipes import GRPO
from foodseg.rl.groups import Group
from foodseg.training.updates import PolicyUpdater


@dataclass(frozen=True)
class Point:
    """One group: `group_size` completions of `completion` tokens after `prompt` tokens."""

    group_size: int
    prompt: int
    completion: int

    @classmethod
    def of(cls, row: dict) -> Point:
        return cls(row["group_size"], row["prompt"], row["completion"])


# In every sweep the other two sizes are those of BASE.
BASE = Point(group_size=8, prompt=192, completion=64)
SWEEPS = {
    "group_size": (2, 4, 8, 16),
    "prompt": (48, 96, 192, 384),
    "completion": (16, 32, 64, 128),
}
SCORERS = {"shared": score_groups, "plain": plain_score_groups}


def token_count(model: str, point: Point) -> int:
    """Tokens that an update of one group computes: "shared" P + G R, "plain" G (P + R)."""
    prompts = 1 if model == "shared" else point.group_size
    return prompts * point.prompt + point.group_size * point.completion


def points() -> list[Point]:
    """All points of the sweeps, each once."""
    swept = [replace(BASE, **{name: n}) for name, sizes in SWEEPS.items() for n in sizes]
    return list(dict.fromkeys(swept))


def measure_scaling(repeats: int, where: Sequence[Point]) -> list[dict]:
    """A row for each kind of rows and point: sizes, median `seconds` of an update, `low`, `high`.

    All points take their turns `repeats` times, after a round that warms up.
    """
    mllm = make_policy(STEP)
    groups = {point: _synthetic_group(mllm, point) for point in where}
    seconds: dict[tuple[str, Point], list[float]] = defaultdict(list)
    for _ in tqdm(range(repeats + 1), "4/5 growth with G, P and R"):
        for kind in SCORERS:
            for point, group in groups.items():
                seconds[kind, point].append(_update_seconds(mllm, kind, group))
    return [
        {"rows": kind, **asdict(point), "seconds": median(s), "low": min(s), "high": max(s)}
        for (kind, point), (_, *s) in seconds.items()
    ]


def _update_seconds(mllm: Mllm, kind: str, group: Group) -> float:
    updater = PolicyUpdater(mllm, STEP, GRPO, score=SCORERS[kind])
    start = time.perf_counter()
    updater.update([group])
    return time.perf_counter() - start


def _synthetic_group(mllm: Mllm, point: Point) -> Group:
    """Random text of the wanted lengths, with rewards that differ."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(mllm.banned_token_ids)
    rows = point.group_size
    lengths = [point.prompt, *[point.completion] * rows]
    ids, *tokens = (torch.randint(vocabulary, (n,), generator=generator) for n in lengths)
    positions = torch.arange(point.prompt).expand(3, -1)
    prompt = Prompt(ids, mllm.embed_tokens(ids).detach(), positions)
    log_probs = (torch.full((point.completion,), -7.0),) * rows
    rollout = Rollout(prompt, tuple(tokens), log_probs, ("",) * rows, (False,) * rows)
    return Group(None, rollout, (), tuple({"made_up": float(i % 2)} for i in range(rows)))


def fits(rows: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """Rows' kind -> model -> its fit: slope, constant, and the share of variance it explains."""
    return {kind: {model: _fit(rows, kind, model) for model in SCORERS} for kind in SCORERS}


def _fit(rows: Sequence[dict], kind: str, model: str) -> dict[str, float]:
    rows = [row for row in rows if row["rows"] == kind]
    seconds = [row["seconds"] for row in rows]
    tokens = [token_count(model, Point.of(row)) for row in rows]
    slope, constant = np.polyfit(tokens, seconds, 1)
    r_squared = np.corrcoef(tokens, seconds)[0, 1] ** 2
    return {"slope": float(slope), "constant": float(constant), "r_squared": float(r_squared)}
