"""figures/benchmark.md: the figures of a run as tables, ratios first. Nothing is typed by hand.

`python -m foodseg.bench.page` writes page and picture again from the JSON files, without measuring.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from foodseg.bench.cuda_page import cuda_sections
from foodseg.bench.picture import benchmark_figure
from foodseg.bench.scaling import SCORERS, token_count
from foodseg.bench.scaling import point_of as sizes_of
from foodseg.bench.summary import PHASES, TITLES, Spread, ratio, side, targets
from foodseg.presets import KITCHEN
from foodseg.report.style import save
from foodseg.report.tables import to_markdown, write_markdown

ROWS = {"shared": "shared prefix", "plain": "plain rows"}


def write_figures(figures: Path) -> None:
    """Draw benchmark.png and write benchmark.md from benchmark.json and benchmark_cuda.json."""
    results = json.loads((figures / "benchmark.json").read_text())
    save(benchmark_figure(results), figures / "benchmark")
    write_page(figures / "benchmark.md", results, cuda_sections(figures))


def write_page(path: Path, results: dict, cuda: list[str]) -> None:
    """Write the page. cuda: the sections about a GPU, as `cuda_sections` gives them."""
    sections = [
        "# Benchmark",
        _provenance(results),
        "## Targets",
        to_markdown(_targets(results)),
        "![Seconds of one step by phase, and of an update against its sizes](benchmark.png)",
        "## One step, side by side",
        _same_work(results),
        to_markdown(_steps(results)),
        _agreement(results),
        "## How an update's cost grows",
        _growth(),
        to_markdown(_fits(results)),
        to_markdown(_points(results)),
        "## Evaluation",
        to_markdown(_evaluation(results["evaluation"])),
        _same_texts(results["evaluation"]),
        "## CUDA",
        *cuda,
    ]
    write_markdown(path, sections)


def _provenance(results: dict) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    return (
        f"Written by `make bench` on {results['date']} at commit {results['commit']}, in "
        f"{results['seconds']} s. {results['processor']}, {results['cores']} cores, "
        f"{results['threads']} PyTorch thread for every side; Python {results['python']}, "
        f"{versions}. Every figure is the median over repeats, with the range in brackets; all "
        "ratios are of one run, the sides taking turns step by step. The raw figures are in "
        "`benchmark.json`."
    )


def _targets(results: dict) -> pd.DataFrame:
    rows = {
        t.what: {"asked": t.asked, "measured": t.measured, "": "met" if t.met else "**not met**"}
        for t in targets(results)
    }
    return _frame(rows, "kitchen model, one CPU thread")


def _same_work(results: dict) -> str:
    shape = results["shape"]
    return (
        f"The kitchen model in float32, {shape['prompts']} prompts x G = {shape['group_size']}, "
        f"completions forced to {shape['length']} tokens, {shape['updates']} updates a rollout, "
        "GRPO with KL, the same LoRA, prompts and reward. "
        f'{len(results["sides"]["this"])} steps of each side after a warm-up. "Plain rows" is '
        "this trainer with each completion in a row of its own, one group a forward. TRL's "
        "rollout is the time in its `_generate`, its update all but that and the reward. Peak "
        "memory is what each process took beyond its loaded model."
    )


def _steps(results: dict) -> pd.DataFrame:
    """A row for each side: times as long as this trainer, seconds of phases, memory."""
    rows = {}
    for name, title in TITLES.items():
        times = {figure: ratio(results, name, figure).text() for figure in ("step", "update")}
        row = {
            "times this trainer's step": "1" if name == "this" else times["step"],
            "times its update": "1" if name == "this" else times["update"],
        }
        for phase in ("step", *PHASES):
            digits = 3 if phase == "scoring" else 2
            row[f"{phase}, s"] = side(results, name, phase).text(digits)
        row["peak memory, MiB"] = f"{side(results, name, 'memory').high:.0f}"
        rows[title] = row
    return _frame(rows, "")


def _agreement(results: dict) -> str:
    tried = ", ".join(f"{size}: {s:.1f} s" for size, s in results["micro_batches"].items())
    agreement = results["agreement"]
    return (
        "Before timing, both trainers computed the two updates of one rollout from the same "
        "tokens, advantages and adapter: their losses and gradients agree to "
        f"{max(agreement['errors']):.0e} (relative), with {agreement['clipped_ratios']:.1%} of "
        "the tokens outside the clip range. TRL ran without gradient checkpointing and with the "
        f"fastest micro-batch for its loss and gradient ({tried} by completions a forward); its "
        "peak memory is that of this micro-batch."
    )


def _growth() -> str:
    return (
        "One update (reference log-probs, forward, backward, optimiser) of one group of G "
        "completions of R tokens after a prompt of P tokens. Seconds = slope x tokens + constant, "
        "fitted by least squares over all points: with P + G R tokens as for a shared prefix, and "
        "with G (P + R) as for plain rows. R² is the share of the variance explained."
    )


def _fits(results: dict) -> pd.DataFrame:
    rows = {}
    for kind, models in results["fits"].items():
        own = models[kind]
        rows[ROWS[kind]] = {
            "slope, µs a token": f"{1e6 * own['slope']:.0f}",
            "constant, ms": f"{1e3 * own['constant']:.0f}",
            "R² of P + G R": f"{models['shared']['r_squared']:.4f}",
            "R² of G (P + R)": f"{models['plain']['r_squared']:.4f}",
        }
    return _frame(rows, "measured update")


def _points(results: dict) -> pd.DataFrame:
    by_sizes: dict = {}
    for row in results["scaling"]:
        by_sizes.setdefault(sizes_of(row), {})[row["rows"]] = row
    rows = {}
    for sizes, kinds in by_sizes.items():
        tokens = [token_count(kind, sizes) for kind in SCORERS]
        label = f"G = {sizes.group_size}, P = {sizes.prompt}, R = {sizes.completion}"
        rows[label] = {
            "plain / shared": f"{kinds['plain']['seconds'] / kinds['shared']['seconds']:.2f}",
            "by token counts": f"{tokens[1] / tokens[0]:.2f}",
        } | {f"{ROWS[kind]}, ms": _milliseconds(row) for kind, row in kinds.items()}
    return _frame(rows, "sizes")


def _milliseconds(row: dict) -> str:
    return Spread(*(1e3 * row[key] for key in ("seconds", "low", "high"))).text(0)


def _evaluation(evaluation: dict) -> pd.DataFrame:
    rates = evaluation["samples_per_second"]
    alone = rates["one_by_one"]["median"]
    names = {"batched": f"batches of up to {evaluation['batch']}", "one_by_one": "one by one"}
    rows = {
        names[name]: {
            "times one by one": f"{rate['median'] / alone:.1f}",
            "samples a second": Spread(**rate).text(1),
        }
        for name, rate in rates.items()
    }
    return _frame(rows, f"{evaluation['questions']} test questions, greedy")


def _same_texts(evaluation: dict) -> str:
    return (
        f"{evaluation['same_texts']} of {evaluation['questions']} texts are the same both ways "
        "(float32 sums in another order may turn a near tie)."
    )


def _frame(rows: dict[str, dict], name: str) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(name)


if __name__ == "__main__":
    write_figures(KITCHEN.figures)
