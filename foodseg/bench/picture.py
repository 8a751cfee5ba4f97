"""figures/benchmark.png: a step by phase for each side, and an update's seconds by its sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foodseg.bench.scaling import BASE, token_count
from foodseg.bench.summary import PHASES, TITLES, ratio, side
from foodseg.report.style import BLACK, BLUE, GREEN, GREY, VERMILION, new_figure, styled

SIDE_COLOURS = {"this": BLUE, "plain": VERMILION, "trl": GREEN}
ROW_COLOURS = {"shared": BLUE, "plain": VERMILION}
TINTS = {"rollout": 0.45, "scoring": 0.0, "update": 1.0}
AXES = {
    "group_size": "completions of a group, G",
    "prompt": "prompt length, P tokens",
    "completion": "completion length, R tokens",
}
SYMBOLS = {"group_size": "G", "prompt": "P", "completion": "R"}


@styled
def benchmark_figure(results: dict) -> Figure:
    """Bars: the median step, thin lines the range of steps. Points: medians and ranges."""
    figure, axes = new_figure(2, 2, 9.0, 6.4)
    _steps(axes[0], results)
    for ax, name in zip(axes[1:], AXES, strict=True):
        _growth(ax, results, name)
    _legend(figure, axes[1])
    return figure


def _steps(ax, results: dict) -> None:
    longest = max(side(results, name, "step").high for name in TITLES)
    for y, name in enumerate(TITLES):
        rows = sorted(results["sides"][name], key=lambda row: row["step"])
        left, middle = 0.0, rows[len(rows) // 2]  # one step, so that its phases add up to it
        for phase in PHASES:
            width = middle[phase]
            ax.barh(y, width, left=left, height=0.55, color=_tint(SIDE_COLOURS[name], phase))
            if width > 0.12 * longest:  # there is room for the phase's name
                look = {"fontsize": 7.5, "color": "white" if phase == "update" else BLACK}
                ax.text(left + width / 2, y + 0.15, phase, ha="center", va="center", **look)
            left += width
        step = side(results, name, "step")
        ax.plot([step.low, step.high], [y, y], color=BLACK, lw=1.0)
        times = ratio(results, name, "step").median
        text = f"{step.median:.1f} s" + ("" if name == "this" else f"\n  {times:.1f} times as long")
        ax.text(max(step.high, left), y, f"  {text}", va="center", fontsize=8.5)
    ax.set(xlim=(0, 1.45 * longest), ylim=(len(TITLES) - 0.5, -0.5), xlabel="seconds a step")
    titles = [title.replace(", ", ",\n").replace("'s ", "'s\n") for title in TITLES.values()]
    ax.set_yticks(range(len(TITLES)), titles)
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    ax.set_title("One training step, same work")


def _tint(colour: str, phase: str) -> tuple[float, float, float]:
    share = TINTS[phase]
    return tuple(share * c + (1 - share) for c in to_rgb(colour))


def _growth(ax, results: dict, name: str) -> None:
    """One sweep: both kinds of rows, each with its own model's line and the other's, dashed."""
    others = {key: getattr(BASE, key) for key in AXES if key != name}
    for kind, colour in ROW_COLOURS.items():
        wanted = {"rows": kind, **others}.items()
        rows = sorted((r for r in results["scaling"] if wanted <= r.items()), key=lambda r: r[name])
        x, y = (np.array([row[key] for row in rows]) for key in (name, "seconds"))
        below, above = y - [r["low"] for r in rows], [r["high"] for r in rows] - y
        ax.errorbar(x, y, [below, above], fmt="o", ms=4.5, color=colour, elinewidth=1.0)
        grid = np.linspace(0.6 * x.min(), 1.04 * x.max(), 50)
        ax.plot(grid, _line(results, kind, kind, name, grid), color=colour, lw=1.4)
        if kind == "shared":
            ax.plot(grid, _line(results, kind, "plain", name, grid), "--", color=GREY, lw=1.1)
    ax.set(xlabel=AXES[name], ylabel="seconds an update", xlim=(0, None), ylim=(0, None))
    ax.set_xticks(x)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.grid(True, axis="y")
    fixed = ", ".join(f"{SYMBOLS[key]} = {value}" for key, value in others.items())
    ax.set_title(f"An update against {SYMBOLS[name]}  ({fixed})")


def _line(results: dict, kind: str, model: str, name: str, grid) -> np.ndarray:
    """The fit of `model` to rows of `kind` along one size, the others as in BASE."""
    fitted = results["fits"][kind][model]
    tokens = np.array([token_count(model, replace(BASE, **{name: value})) for value in grid])
    return fitted["slope"] * tokens + fitted["constant"]


def _legend(figure: Figure, ax) -> None:
    handles = [ax.plot([], [], "o-", ms=4.5, lw=1.4, color=c)[0] for c in ROW_COLOURS.values()]
    handles.append(ax.plot([], [], "--", color=GREY, lw=1.1)[0])
    labels = [
        "shared prefix, fit of a (P + G R) + c",
        "plain rows, fit of a G (P + R) + c",
        "shared prefix, fit of a G (P + R) + c",
    ]
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
