"""The GPU benchmark's part of figures/benchmark.md, from figures/benchmark_cuda.json."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from foodseg.report.tables import to_markdown

# Milliseconds at the shape of `cuda_work.true_setting` on one H200, from counted operations and
# bytes at 790 TFLOP/s and 4.3 TB/s. The head's backward is computed along with its forward.
FLOORS = {
    "vision": 50,
    "prefill": 64,
    "decode": 233,
    "forward": 135 + 23,
    "backward": 144,
    "optimizer": 1,
    "step": 650,
}
NOT_MEASURED = (
    "Not measured on a GPU yet: `python -m foodseg.bench.cuda` does it where there is one."
)
TITLES = {
    "vision": "vision tower",
    "prompts": "embedding the prompts",
    "prefill": "prefill, first token",
    "decode": "decoding the other tokens",
    "scoring": "rewards",
    "reference": "reference policy, for the KL's curve",
    "forward": "forward, with the head",
    "backward": "backward",
    "optimizer": "optimizer",
    "step": "**the whole step**",
}
KINDS = {
    "floor": "one update, no KL",
    "one update": "one update, KL",
    "two updates": "two updates, KL (the paper's preset)",
}


def cuda_sections(figures: Path) -> list[str]:
    """Paragraphs and tables in Markdown; one sentence where nothing was measured."""
    path = figures / "benchmark_cuda.json"
    if not path.exists():
        return [NOT_MEASURED]
    result = json.loads(path.read_text())
    sections = [_introduction(result)]
    for stage, section in (
        ("check", _checks),
        ("step", _phases),
        ("step", _steps),
        ("memory", _memory),
        ("trl", _trl),
    ):
        if stage in result:
            sections += section(result)
    return sections


def _introduction(result: dict) -> str:
    shape, versions = result["setting"], result["versions"]
    return (
        f"{result['device']}, {result['date']}, commit {result['commit']}, PyTorch "
        f"{versions['torch']}, transformers {versions['transformers']}. Qwen2.5-VL-3B in its true "
        f"sizes with random weights ({shape['dtype']}, LoRA of rank {shape['lora_rank']}), "
        f"{shape['image_side']}x{shape['image_side']} photos, {shape['prompts']} prompts of about "
        f"{shape['prompt_tokens']} tokens x G = {shape['group_size']}, completions of "
        f"{shape['completion_tokens']} tokens. Medians of {shape['repeats']} runs after a warm-up; "
        "peaks are what PyTorch had allocated, in GB (10^9 bytes)."
    )


def _checks(result: dict) -> list[str]:
    rows = {
        name: {
            "error": f"{check['error']:.1e}",
            "plain bfloat16": f"{check['plain']:.1e}" if "plain" in check else "",
            "limit": f"{check['limit']:.1e}",
            "holds": "yes" if check["holds"] else "**no**",
        }
        for name, check in _measured(result["check"]).items()
    }
    text = (
        "Checked first, against plain rows in float32 (relative error; the share that differs, for "
        "tokens):"
    )
    return [text, _table(rows, "check")]


def _phases(result: dict) -> list[str]:
    """Phases of the step whose floor is known, beside it."""
    step = result["step"]
    if not {"rollout", "floor"} <= set(step):
        return []
    phases = step["rollout"] | step["floor"]["phases"]
    rows = {}
    for name, title in TITLES.items():
        if name not in phases:
            continue
        milliseconds, floor = 1000 * phases[name]["seconds"], FLOORS.get(name)
        rows[title] = {
            "ms": f"{milliseconds:.0f}",
            "floor, H200": floor or "",
            "times the floor": f"{milliseconds / floor:.1f}" if floor else "",
            "peak, GB": _peak(phases[name]),
        }
    ceilings = step["ceilings"]
    text = (
        f"Phases of a step with one update and no KL. This card multiplied bfloat16 matrices at "
        f"{ceilings['tflops']:.0f} TFLOP/s and copied at {ceilings['tb_per_second']:.1f} TB/s (the "
        f"floor takes 790 and 4.3). {_plan(step['floor']['plan'])}"
    )
    return [text, _table(rows, "phase")]


def _steps(result: dict) -> list[str]:
    kinds = {title: result["step"][k] for k, title in KINDS.items() if k in result["step"]}
    rows = {
        title: {
            "rollout, s": f"{kind['phases']['rollout']['seconds']:.2f}",
            "update, s": f"{_update_seconds(kind['phases']):.2f}",
            "step, s": f"{kind['phases']['step']['seconds']:.2f}",
            "fastest to slowest": _range(kind["phases"]["step"]),
            "peak, GB": f"{kind['phases']['step']['allocated_gb']:.1f}",
        }
        for title, kind in kinds.items()
    }
    return ["Whole steps of the trainer:", _table(rows, "step")] if rows else []


def _memory(result: dict) -> list[str]:
    rows = {}
    for cap, kind in _measured(result["memory"]).items():
        if "error" in kind:
            rows[f"{cap} GB"] = {"step, s": "", "peak, GB": "", "plan": kind["error"]}
            continue
        step = kind["phases"]["step"]
        rows[f"{cap} GB"] = {
            "step, s": f"{step['seconds']:.2f}",
            "peak, GB": f"{step['allocated_gb']:.1f} ({step['reserved_gb']:.1f} reserved)",
            "plan": _plan(kind["plan"]),
        }
    text = (
        "The step with one update and no KL where PyTorch may take no more than so many GB of the "
        "card (a cap on the same card, so speeds are this card's):"
    )
    return [text, _table(rows, "cap")]


def _trl(result: dict) -> list[str]:
    trials = _measured(result["trl"])
    rows = {f"TRL, micro-batch {name}": _side(kind) for name, kind in trials.items()}
    ours = result.get("step", {}).get("one update")
    ran = [kind["phases"]["step"]["seconds"] for kind in trials.values() if "phases" in kind]
    text = "TRL's `GRPOTrainer` at the same shape with one update and a KL term, and this trainer:"
    if not ours:
        return [text, _table(rows, "trainer")]
    rows = {"this trainer": _side(ours)} | rows
    sections = [text, _table(rows, "trainer")]
    if ran:
        ratio = min(ran) / ours["phases"]["step"]["seconds"]
        sections.append(f"TRL's fastest takes {ratio:.1f} times as long.")
    return sections


def _side(kind: dict) -> dict:
    if "error" in kind:
        return {"rollout, s": "", "step, s": "", "peak, GB": "", "remark": kind["error"]}
    phases = kind["phases"]
    return {
        "rollout, s": f"{phases['rollout']['seconds']:.2f}",
        "step, s": f"{phases['step']['seconds']:.2f}",
        "peak, GB": f"{phases['step']['allocated_gb']:.1f}",
        "remark": "",
    }


def _plan(plan: dict) -> str:
    rows = f"{plan['groups']} groups" if plan["parts"] == 1 else f"1/{plan['parts']} of a group"
    rows = rows.replace("1 groups", "1 group")
    counted = f"counted {plan['counted_gb']:.1f} GB beside the weights"
    return f"{rows} in a forward, {plan['checkpointed']} layers checkpointed, {counted}."


def _peak(phase: dict) -> str:
    return f"{phase['allocated_gb']:.1f}" if phase["allocated_gb"] else ""


def _update_seconds(phases: dict) -> float:
    return phases["step"]["seconds"] - phases["rollout"]["seconds"]


def _range(phase: dict) -> str:
    return f"{phase['fastest']:.2f} to {phase['slowest']:.2f}"


def _measured(stage: dict) -> dict:
    """A stage's own results, without where and when."""
    return {name: value for name, value in stage.items() if name != "measured"}


def _table(rows: dict[str, dict], index: str) -> str:
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis(index))
