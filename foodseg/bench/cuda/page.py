"""The GPU benchmark's part of figures/benchmark.md, from figures/benchmark_cuda.json."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from foodseg.bench.cuda.workload import PROMPT_TOKENS
from foodseg.bench.paired_timing import MIB
from foodseg.bench.summary import Spread, table

NOT_MEASURED = (
    "Not measured on a GPU yet: `python -m foodseg.bench.cuda` does it where there is one."
)
# Phase -> its title, and its milliseconds at the shape of `cuda.workload.STEP` on one H200, from
# counted operations and bytes at 790 TFLOP/s and 4.3 TB/s. The head's backward is computed along
# with its forward.
PHASES = {
    "vision": ("vision tower", 50),
    "prompts": ("embedding the prompts", None),
    "prefill": ("prefill, first token", 64),
    "decode": ("decoding the other tokens", 233),
    "scoring": ("rewards", None),
    "reference": ("reference policy, for the KL's curve", None),
    "forward": ("forward, with the head", 135 + 23),
    "backward": ("backward", 144),
    "optimizer": ("optimizer", 1),
    "step": ("**the whole step**", 650),
}


def cuda_section(figures: Path) -> str:
    """Paragraphs and tables in Markdown; one sentence where nothing was measured."""
    path = figures / "benchmark_cuda.json"
    if not path.exists():
        return NOT_MEASURED
    result = json.loads(path.read_text())
    trials = {
        title: trial
        for stage in ("step", "memory", "trl")
        for title, trial in result.get(stage, {}).items()
        if title != "measured"
    }
    rollout, step = trials.pop("rollout", {}), trials.get("one update, no KL", {})
    paragraphs = [_introduction(result)]
    if isinstance(rollout, list) and isinstance(step, list):
        paragraphs += ["A step with one update and no KL, phase by phase:", _phases(rollout, step)]
    steps = table({title: _step(trial) for title, trial in trials.items()}, "step")
    return "\n\n".join([*paragraphs, steps, *_ratio(trials), *_segmenter(result)])


def _introduction(result: dict) -> str:
    preset, versions = result["preset"], result["versions"]
    return (
        f"{result['device']}, {result['date']}, commit {result['commit']}, PyTorch "
        f"{versions['torch']}, transformers {versions['transformers']}. Qwen2.5-VL-3B in its true "
        f"sizes with random weights ({preset['dtype']}, LoRA of rank {preset['lora_rank']}), "
        f"{preset['image_side']}x{preset['image_side']} photos, {preset['prompts_per_step']} "
        f"prompts of about {PROMPT_TOKENS} tokens x G = {preset['group_size']}, completions of "
        f"{preset['max_new_tokens']} tokens. Medians over the steps after one that warms up; peaks "
        "are what PyTorch had allocated, in GB (10^9 bytes). A cap in GB is on what PyTorch may "
        "take of the same card. TRL's `GRPOTrainer` does one update with a KL term."
    )


def _phases(rollout: list[dict], step: list[dict]) -> str:
    """The rollout's own phases and the step's, beside the floor."""
    rows = {}
    for name, (title, floor) in PHASES.items():
        source = step if name in step[0] else rollout
        milliseconds = 1000 * _median(source, name)
        rows[title] = {
            "ms": f"{milliseconds:.0f}",
            "floor, H200": floor or "",
            "times the floor": f"{milliseconds / floor:.1f}" if floor else "",
        }
    return table(rows, "phase")


def _step(trial: list[dict] | dict) -> dict[str, str]:
    if "error" in trial:
        columns = ("rollout, s", "update, s", "step, s", "peak, GB")
        return dict.fromkeys(columns, "") | {"remark": trial["error"]}
    return {
        "rollout, s": f"{_median(trial, 'rollout'):.2f}",
        "update, s": f"{_median(trial, 'update'):.2f}",
        "step, s": Spread.of([row["step"] for row in trial]).text(),
        "peak, GB": f"{max(row['memory'] for row in trial) * MIB / 1e9:.1f}",
        "remark": trial[-1].get("plan", ""),
    }


def _segmenter(result: dict) -> list[str]:
    """SAM2's precisions, of a photo and its question."""
    rows = result.get("segmenter", {}).get("precisions", [])
    if not isinstance(rows, list) or not rows:
        return []
    weights, photos = rows[0]["weights"], result["preset"]["prompts_per_step"]
    lines = {
        name: {
            "ms a photo": f"{1000 * _median(rows, name) / photos:.0f}",
            "mask pixels that differ": f"{max(row['differs'][name] for row in rows):.4%}",
        }
        for name in rows[0]["differs"]
    }
    words = f"SAM2 Hiera-L with {weights} weights, against float32 without TensorFloat-32:"
    return [words, table(lines, "precision")]


def _ratio(trials: dict) -> list[str]:
    ours = trials.get("one update, KL", {"error": ""})
    theirs = [_median(t, "step") for k, t in trials.items() if k[:3] == "TRL" and "error" not in t]
    if "error" in ours or not theirs:
        return []
    times = min(theirs) / _median(ours, "step")
    return [f"TRL's fastest takes {times:.1f} times as long as ours with one update and a KL term."]


def _median(rows: list[dict], name: str) -> float:
    return median(row[name] for row in rows)
