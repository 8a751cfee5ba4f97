"""figures/benchmark.md: page.md filled with a run's figures as tables. Nothing is typed by hand.

`python -m foodseg.bench.page` writes page and picture again from the JSON files, without measuring.
"""

from __future__ import annotations

import json
from pathlib import Path

from foodseg.bench.cuda.page import cuda_section
from foodseg.bench.picture import benchmark_figure
from foodseg.bench.scaling import SCORERS, Point, token_count
from foodseg.bench.summary import PHASES, TITLES, Spread, ratio, side, table, targets
from foodseg.common.tables import write_text
from foodseg.presets import KITCHEN
from foodseg.report.style import save

TEMPLATE = Path(__file__).with_name("page.md")
ROWS = {"shared": "shared prefix", "plain": "plain rows"}


def write_figures(figures: Path) -> None:
    """Draw benchmark.png and write benchmark.md from benchmark.json and benchmark_cuda.json."""
    results = json.loads((figures / "benchmark.json").read_text())
    save(benchmark_figure(results), figures / "benchmark")
    asked = {
        what: {"asked": asked, "measured": measured, "": "met" if met else "**not met**"}
        for what, (asked, measured, met) in targets(results).items()
    }
    tables = {
        "targets": table(asked, "kitchen model, one CPU thread"),
        "steps": table(_steps(results), ""),
        "growth": table(_growth(results), "measured update"),
        "points": table(_points(results), "sizes"),
        "evaluated": _evaluation(results["evaluation"]),
    }
    words = {
        "packages": ", ".join(f"{name} {v}" for name, v in results["versions"].items()),
        "rounds": len(results["sides"]["this"]),
        "error": max(results["agreement"]["errors"]),
        "tried": ", ".join(f"{size}: {s:.1f} s" for size, s in results["micro_batches"].items()),
        "cuda": cuda_section(figures),
    }
    text = TEMPLATE.read_text(encoding="utf-8").format(**results | tables | words)
    write_text(figures / "benchmark.md", text)


def _steps(results: dict) -> dict[str, dict]:
    """A row for each side: times as long as this trainer, seconds of phases, memory."""
    rows = {}
    for name, title in TITLES.items():
        row = rows[title] = {}
        for column in ("times this trainer's step", "times its update"):
            times = ratio(results, name, column.split()[-1]).text()
            row[column] = "1" if name == "this" else times
        for phase in ("step", *PHASES):
            digits = 3 if phase == "scoring" else 2
            row[f"{phase}, s"] = side(results, name, phase).text(digits)
        row["peak memory, MiB"] = f"{side(results, name, 'memory').high:.0f}"
    return rows


def _growth(results: dict) -> dict[str, dict]:
    return {
        ROWS[kind]: {
            "slope, µs a token": f"{1e6 * models[kind]['slope']:.0f}",
            "constant, ms": f"{1e3 * models[kind]['constant']:.0f}",
            "R² of P + G R": f"{models['shared']['r_squared']:.4f}",
            "R² of G (P + R)": f"{models['plain']['r_squared']:.4f}",
        }
        for kind, models in results["fits"].items()
    }


def _points(results: dict) -> dict[str, dict]:
    by_point: dict[Point, dict] = {}
    for row in results["scaling"]:
        by_point.setdefault(Point.of(row), {})[row["rows"]] = row
    rows = {}
    for point, kinds in by_point.items():
        shared, plain = (token_count(kind, point) for kind in SCORERS)
        label = f"G = {point.group_size}, P = {point.prompt}, R = {point.completion}"
        rows[label] = {
            "plain / shared": f"{kinds['plain']['seconds'] / kinds['shared']['seconds']:.2f}",
            "by token counts": f"{plain / shared:.2f}",
        }
        for kind, row in kinds.items():
            milliseconds = Spread(*(1e3 * row[key] for key in ("seconds", "low", "high")))
            rows[label][f"{ROWS[kind]}, ms"] = milliseconds.text(0)
    return rows


def _evaluation(evaluation: dict) -> str:
    rates = evaluation["samples_per_second"]
    names = {"batched": f"batches of up to {evaluation['batch']}", "one_by_one": "one by one"}
    rows = {
        names[name]: {
            "times one by one": f"{rate['median'] / rates['one_by_one']['median']:.1f}",
            "samples a second": Spread(**rate).text(1),
        }
        for name, rate in rates.items()
    }
    return table(rows, f"{evaluation['questions']} test questions, greedy")


if __name__ == "__main__":
    write_figures(KITCHEN.figures)
