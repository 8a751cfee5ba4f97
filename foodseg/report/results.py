"""The results table: what this run measured, with the paper's numbers in columns of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from foodseg.common.errors import DataError
from foodseg.common.files import load_json
from foodseg.common.number_text import NOTHING, column_texts, with_deviation, with_interval
from foodseg.data.samples import Sample, load_samples
from foodseg.evaluation.base_rows import ANY_FORM, BEST_OF, KNOWLEDGE, PARENTS, SAMPLES
from foodseg.evaluation.external.rows import account_of, external_row, external_rows
from foodseg.evaluation.predictions import (
    Prediction,
    load_predictions,
    load_result,
)
from foodseg.presets import Preset, require
from foodseg.recipes import DAPO, GRPO, Recipe
from foodseg.report.baselines import (
    SCORES,
    baselines_elsewhere,
    measured_baselines,
    origin_elsewhere,
)
from foodseg.report.costs import training_costs
from foodseg.report.paper import PAPER
from foodseg.report.seeds import NOTHING_SAID, giou_by_foods, seed_rows, summarise_seeds
from foodseg.supervised.targets import Baseline

METRICS = {"giou": "gIoU", "ciou": "cIoU"}
NOTEBOOKS = {
    **dict.fromkeys(
        ("base", ANY_FORM, BEST_OF, PARENTS, KNOWLEDGE, "bound"), "02_model_and_zero_shot"
    ),
    "grpo": "04_train_grpo",
    "dapo": "05_train_dapo",
}
# What is not known of a system whose answers were handed in.
UNKNOWN = dict.fromkeys(("steps", "training questions", "seconds to train"), NOTHING)
UNKNOWN |= dict.fromkeys(("seconds to evaluate", "device", "processor"), NOTHING)
UNKNOWN |= dict.fromkeys(("torch", "transformers"), NOTHING)
ANY_FORM_TITLE, BEST_OF_TITLE = "Base, read in any form", f"Base, best of {SAMPLES} samples"
PARENTS_TITLE = "Base, by the parents' protocol"
KNOWLEDGE_TITLE = "Knowledge (the base before its habits)"
BOUND_TITLE = "True boxes and points + SAM2 (bound)"


def measured_table(results: Sequence[dict]) -> pd.DataFrame:
    """Results as `evaluate` returns them, one row each, as text."""
    rows = {
        result["row"]: {
            "questions": result["samples"],
            "gIoU": with_interval(result["giou"], result["giou_interval"]),
            "cIoU": with_interval(result["ciou"], result["ciou_interval"]),
            "parsed": f"{result['parse_rate']:.0%}",
            "food right": NOTHING if result["row"] == "bound" else f"{result['foods_right']:.0%}",
            **{title: f"{result[n]:.0%}" for n, title in NOTHING_SAID.items() if n in result},
        }
        for result in results
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")


def read_predictions(preset: Preset, row: str) -> list[Prediction]:
    """A row's predictions; DataError names the notebook that makes them if they are missing."""
    folder = preset.predictions_folder(row)
    if notebook := NOTEBOOKS.get(row.partition("-seed")[0]):
        require(folder / "result.json", notebook)
    return load_predictions(folder)


def results_frame(preset: Preset, seeds: Sequence[int]) -> pd.DataFrame:
    """One row a method, raw numbers; the index is the method, NaN where there is none.

    paper_*: as the paper reports them. giou_one, giou_several: `giou_by_foods`. gap, gap_any_form:
    of a trained row, see `gap_shares`; sampled, learnt_from, seconds: `training_costs`. The others
    are `summarise_seeds`' of what this kit measured.
    """
    methods = _rows_by_method(preset, seeds)
    samples = load_samples(preset.samples_file("test"))
    runs = {row: read_predictions(preset, row) for rows in methods.values() for row in rows}
    _check_same_questions(methods, runs, samples)
    frame = {line.method: {"paper_giou": line.giou, "paper_ciou": line.ciou} for line in PAPER}
    for method, rows in methods.items():
        frame.setdefault(method, {})
        if rows:
            of_seeds = [runs[row] for row in rows]
            frame[method] |= summarise_seeds(of_seeds) | giou_by_foods(of_seeds, samples)
    # The bound is handed the true foods; masks name none, and there is nothing to parse.
    frame[BOUND_TITLE]["foods_right"] = np.nan
    for row in external_rows(preset):
        if not row.reading:
            frame[row.title] |= {"foods_right": np.nan, "parse_rate": np.nan}
    for method in trained_methods(preset, seeds):
        frame[method.title] |= training_costs([preset.run_folder(method.name, s) for s in seeds])
    elsewhere = baselines_elsewhere(preset, seeds)
    for title, row in elsewhere.iterrows():
        frame[title] |= row[SCORES].to_dict()
    frame = {method: frame[method] for method in methods}
    frame = pd.DataFrame.from_dict(frame, orient="index").rename_axis("method")
    trained = [*(m.title for m in trained_methods(preset, seeds)), *elsewhere.index]
    return frame.assign(**gap_shares(frame, trained))


def trained_methods(preset: Preset, seeds: Sequence[int]) -> list[Recipe | Baseline]:
    """The table's methods that this kit trains, those of the paper first."""
    return [GRPO, DAPO, *measured_baselines(preset, seeds)]


def gap_shares(frame: pd.DataFrame, trained: Sequence[str]) -> dict[str, pd.Series]:
    """How much of the gap in gIoU from the base to its knowledge each trained row closes.

    gap: from the base as scored; gap_any_form: from the base read in any form, so of what is no
    matter of form. NaN for other rows, and where there is no such gap.
    """
    top = frame["giou"].get(KNOWLEDGE_TITLE, np.nan)
    starts = {"gap": PAPER[0].method, "gap_any_form": ANY_FORM_TITLE}
    shares = {}
    for name, method in starts.items():
        start = frame["giou"][method]
        width = top - start if top > start else np.nan
        shares[name] = (frame["giou"] - start).loc[list(trained)].reindex(frame.index) / width
    return shares


def headroom(frame: pd.DataFrame) -> dict[str, float]:
    """What the rows that no training is expected to pass have over the base, in gIoU."""
    titles = {"knowledge": KNOWLEDGE_TITLE, "true references": BOUND_TITLE}
    start = frame["giou"][PAPER[0].method]
    return {n: frame["giou"][title] - start for n, title in titles.items() if title in frame.index}


def _rows_by_method(preset: Preset, seeds: Sequence[int]) -> dict[str, list[str]]:
    """The rows of predictions of each method, in the table's order; none of a number to quote."""
    ours = {"base": ["base"], "grpo": seed_rows(GRPO, seeds), "dapo": seed_rows(DAPO, seeds)}
    methods: dict[str, list[str]] = {}
    for line in PAPER:
        if line.row == "grpo":  # supervised methods stand together, as in the paper
            methods |= {row.title: [row.name] for row in external_rows(preset)}
            methods |= {b.title: seed_rows(b, seeds) for b in measured_baselines(preset, seeds)}
            methods |= {title: [] for title in baselines_elsewhere(preset, seeds).index}
        methods[line.method] = ours.get(line.row, [])
        if line.row == "base":
            methods |= {ANY_FORM_TITLE: [ANY_FORM], BEST_OF_TITLE: [BEST_OF]}
            methods |= {PARENTS_TITLE: [PARENTS]} if preset.parents else {}
    methods |= {KNOWLEDGE_TITLE: [KNOWLEDGE]} if preset.knowledge else {}
    return methods | {BOUND_TITLE: ["bound"]}


def _check_same_questions(
    methods: dict[str, list[str]], runs: dict[str, list[Prediction]], samples: Sequence[Sample]
) -> None:
    asked = {row: [p.sample_id for p in run] for row, run in runs.items()}
    for method, row in ((method, row) for method, rows in methods.items() for row in rows):
        if asked[row] != asked["base"]:
            name, of_a_seed, _ = row.partition("-seed")
            maker = "`make ablations`" if of_a_seed else "`make score`"
            if name in NOTEBOOKS:
                maker = f"notebook {NOTEBOOKS[name]}"
            raise DataError(
                f"predictions of {method} ({row}): they answer other questions than the base's; "
                f"run {maker} again."
            )
    if asked["base"] != [sample.sample_id for sample in samples]:
        raise DataError(
            "predictions of the base: they answer other questions than the test set has; run "
            f"notebook {NOTEBOOKS['base']} again."
        )


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """`results_frame` as text: "0.462 ± 0.010", "0.42–0.50"; "–" where nothing was measured."""
    numbers = partial(column_texts, frame)
    columns = {f"paper: {title}": numbers("{:.2f}", f"paper_{m}") for m, title in METRICS.items()}
    for name, title in METRICS.items():
        columns[title] = list(map(with_deviation, frame[name], frame[f"{name}_sd"]))
        columns[f"{title}, 95%"] = numbers("{:.2f}–{:.2f}", f"{name}_low", f"{name}_high")
    columns["gIoU, one food"] = numbers("{:.3f}", "giou_one")
    columns["several"] = numbers("{:.3f}", "giou_several")
    columns["parsed"] = numbers("{:.0%}", "parse_rate")
    columns["food right"] = numbers("{:.0%}", "foods_right")
    for name in [name for name in NOTHING_SAID if name in frame]:
        columns[NOTHING_SAID[name]] = numbers("{:.0%}", name)
    columns["of the gap"] = numbers("{:.0%}", "gap")
    columns["of the gap, form aside"] = numbers("{:.0%}", "gap_any_form")
    columns["sampled"] = numbers("{:,.0f}", "sampled")
    columns["learnt from"] = numbers("{:,.0f}", "learnt_from")
    columns["seconds"] = numbers("{:,.0f}", "seconds")
    columns["seeds"] = numbers("{:.0f}", "seeds")
    return pd.DataFrame(columns, index=frame.index)


def provenance_frame(preset: Preset, seeds: Sequence[int]) -> pd.DataFrame:
    """One row for each set of predictions: what made it, on what, and how long it took."""
    of_seeds = (seed_rows(method, seeds) for method in trained_methods(preset, seeds))
    rows = ["base", ANY_FORM, BEST_OF, *([PARENTS] if preset.parents else [])]
    rows += chain.from_iterable(of_seeds)
    rows += [KNOWLEDGE] if preset.knowledge else []
    rows += ["bound", *(row.name for row in external_rows(preset))]
    frame = {row: _provenance(preset, row) for row in rows}
    for title, row in baselines_elsewhere(preset, seeds).iterrows():
        frame[title] = origin_elsewhere(row)
    return pd.DataFrame.from_dict(frame, orient="index").rename_axis("row")


def _provenance(preset: Preset, row: str) -> dict:
    evaluation = load_result(preset.predictions_folder(row))
    if other := external_row(evaluation):
        what = "completions" if other.reading else "masks"
        given = f"none; {what} {account_of(evaluation)['sha256']}"
        return UNKNOWN | {"adapter": given, "commit": evaluation["commit"]}
    run = preset.runs_folder / row / "result.json"
    training = load_json(run) if run.exists() else {}
    if evaluation["adapter"] != training.get("adapter"):
        raise DataError(
            f"predictions/{row}: they are not those of the adapter in runs/{preset.name}/{row}; "
            "run the notebook that trains it again."
        )
    return {
        "steps": training.get("steps", 0),
        "training questions": training.get("samples", 0),
        "seconds to train": training.get("seconds", 0),
        "seconds to evaluate": evaluation["seconds"],
        "adapter": evaluation["adapter"] or "none",
        "commit": evaluation["commit"],
        "device": evaluation["device"],
        "processor": evaluation["processor"],
        "torch": evaluation["versions"]["torch"],
        "transformers": evaluation["versions"]["transformers"],
    }


def seed_values(preset: Preset, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """giou and ciou of every single training: metric -> method -> one value a seed."""
    values: dict[str, dict[str, list[float]]] = {metric: {} for metric in METRICS}
    for method in trained_methods(preset, seeds):
        folders = map(preset.predictions_folder, seed_rows(method, seeds))
        results = list(map(load_result, folders))
        for metric in METRICS:
            values[metric][method.title] = [result[metric] for result in results]
    return values


def caption(preset: Preset) -> str:
    """What a reader must know before comparing numbers."""
    if preset.extra_reward:
        return (
            f"Preset {preset.name}: random weights in the paper's sizes, on drawn plates. It shows "
            "that everything runs; its scores mean nothing."
        )
    if preset.train_plates:
        return (
            f"Preset {preset.name}: drawn plates, a model of a few million parameters. "
            "Measured numbers are not comparable with the paper's."
        )
    mllm = Path(preset.mllm).name if Path(preset.mllm).is_absolute() else preset.mllm
    return f"Preset {preset.name}: FoodReasonSeg-Single, {mllm}."
