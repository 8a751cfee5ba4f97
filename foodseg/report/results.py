"""The results table: what this run measured, with the paper's numbers in a column of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from foodseg.common.errors import DataError
from foodseg.data.references import sample_ious
from foodseg.evaluation.evaluate import Prediction, load_predictions, load_result, summarise
from foodseg.evaluation.external.rows import external_rows
from foodseg.evaluation.metrics import measure
from foodseg.presets import Preset, require
from foodseg.recipes import DAPO, GRPO, Recipe
from foodseg.report.paper import PAPER
from foodseg.supervised.targets import FOODLMM, LISA, SFT, Baseline

NOTEBOOKS = {
    "base": "02_model_and_zero_shot",
    "bound": "02_model_and_zero_shot",
    "grpo": "04_train_grpo",
    "dapo": "05_train_dapo",
}
# Trained by this kit on the same backbone and data; `make ablations` measures them.
BASELINES = (SFT, LISA, FOODLMM)
BOUND_TITLE = "True boxes and points + SAM2 (bound)"


def measured_table(results: Sequence[dict]) -> pd.DataFrame:
    """Results as `evaluate` returns them, one row each, ready to read."""
    rows = {
        result["row"]: {
            "questions": result["samples"],
            "gIoU": _with_interval(result["giou"], result["giou_interval"]),
            "cIoU": _with_interval(result["ciou"], result["ciou_interval"]),
            "parsed": f"{result['parse_rate']:.0%}",
            "food right": f"{result['foods_right']:.0%}",
        }
        for result in results
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")


def seed_rows(recipe: Recipe | Baseline, seeds: Sequence[int]) -> list[str]:
    """The names of a method's rows of predictions, one for each seed."""
    return [f"{recipe.name}-seed{seed}" for seed in seeds]


def measured_baselines(preset: Preset, seeds: Sequence[int]) -> list[Baseline]:
    """The supervised baselines that have predictions of every seed."""
    return [
        baseline
        for baseline in BASELINES
        if all(
            (preset.predictions_folder(row) / "result.json").exists()
            for row in seed_rows(baseline, seeds)
        )
    ]


def missing_baselines(preset: Preset, seeds: Sequence[int]) -> str:
    """A sentence that names the supervised baselines not in the table, and what measures them."""
    measured = measured_baselines(preset, seeds)
    missing = [baseline for baseline in BASELINES if baseline not in measured]
    if not missing:
        return ""
    titles = ", ".join(baseline.title for baseline in missing)
    names = ",".join(baseline.name for baseline in missing)
    return f"Not measured, so not in the table: {titles}. `make ablations ROWS={names}` does it."


def read_predictions(preset: Preset, row: str) -> list[Prediction]:
    """A row's predictions; DataError names the notebook that makes them if they are missing."""
    folder = preset.predictions_folder(row)
    if notebook := NOTEBOOKS.get(row.partition("-seed")[0]):
        require(folder / "result.json", notebook)
    return load_predictions(folder)


def results_frame(preset: Preset, seeds: Sequence[int]) -> pd.DataFrame:
    """One row a method, raw numbers; the index is the method, NaN where there is none.

    A supervised baseline has its row once `make ablations` has measured it with these seeds, and
    another system once `make score` has scored its masks.
    paper_*: as the paper reports them. giou, ciou, parse_rate, foods_right: the mean over seeds of
    what this kit measured; *_sd: the standard deviation over seeds (Bessel's); *_low, *_high: a
    95% bootstrap interval over questions, a question's seeds kept together.
    """
    rows_of = {
        "base": ["base"],
        "grpo": seed_rows(GRPO, seeds),
        "dapo": seed_rows(DAPO, seeds),
        "bound": ["bound"],
    }
    baselines = measured_baselines(preset, seeds)
    rows_of |= {baseline.name: seed_rows(baseline, seeds) for baseline in baselines}
    others = external_rows(preset)
    rows_of |= {row.title: [row.name] for row in others}
    predictions = {
        name: [read_predictions(preset, row) for row in rows] for name, rows in rows_of.items()
    }
    _check_same_questions(predictions)
    measured = {name: summarise_seeds(runs) for name, runs in predictions.items()}
    frame: dict[str, dict] = {}
    for line in PAPER:
        if line.row == "grpo":  # supervised methods stand together, as in the paper
            # A mask doesn't say which foods its system named.
            frame |= {row.title: measured[row.title] | {"foods_right": np.nan} for row in others}
            frame |= {baseline.title: measured[baseline.name] for baseline in baselines}
        numbers = measured[line.row] if line.row else {}
        frame[line.method] = {"paper_giou": line.giou, "paper_ciou": line.ciou} | numbers
    # The bound is handed the true foods, so that it names them right says nothing.
    frame[BOUND_TITLE] = measured["bound"] | {"foods_right": np.nan}
    return pd.DataFrame.from_dict(frame, orient="index").rename_axis("method")


def summarise_seeds(runs: Sequence[Sequence[Prediction]]) -> dict:
    """Mean, spread and interval over the runs (seeds) of one method, each of all questions."""
    summaries = pd.DataFrame([summarise(run) for run in runs])
    intersections = np.array([[p.intersection for p in run] for run in runs])
    unions = np.array([[p.union for p in run] for run in runs])
    ious = np.array([sample_ious(i, u) for i, u in zip(intersections, unions, strict=True)])
    # A question's seeds are not independent: they are drawn together, as one question.
    intervals = {
        "giou": measure(ious.mean(axis=0), np.ones(ious.shape[1])).giou_interval,
        "ciou": measure(intersections.sum(axis=0), unions.sum(axis=0)).ciou_interval,
    }
    result = {"seeds": len(runs), "questions": ious.shape[1]}
    for name, (low, high) in intervals.items():
        result |= {
            name: summaries[name].mean(),
            f"{name}_sd": summaries[name].std() if len(runs) > 1 else np.nan,
            f"{name}_low": low,
            f"{name}_high": high,
        }
    return result | summaries[["parse_rate", "foods_right"]].mean().to_dict()


def same_questions(runs: Sequence[Sequence[Prediction]]) -> bool:
    """Whether there are at least two runs and all answered the same questions, in one order."""
    asked = [[p.sample_id for p in run] for run in runs]
    return len(asked) > 1 and all(one == asked[0] for one in asked)


def paired_difference(
    runs: Sequence[Sequence[Prediction]], others: Sequence[Sequence[Prediction]]
) -> tuple[float, float, float]:
    """gIoU of one method's runs less that of another's: mean, and its 95% interval.

    Question by question, each method's seeds averaged: that some questions are hard for both takes
    no part, so this interval is narrower than what two separate ones suggest. Both must have
    answered the same questions (`same_questions`).
    """
    means = [
        np.mean([sample_ious([p.intersection for p in r], [p.union for p in r]) for r in some], 0)
        for some in (runs, others)
    ]
    measured = measure(means[0] - means[1], np.ones(len(means[0])))
    return measured.giou, *measured.giou_interval


def _check_same_questions(predictions: dict[str, list[list[Prediction]]]) -> None:
    asked = {
        (name, seed): [p.sample_id for p in run]
        for name, runs in predictions.items()
        for seed, run in enumerate(runs)
    }
    first = asked["base", 0]
    for (name, seed), questions in asked.items():
        if questions != first:
            raise DataError(
                f"predictions of {name} (run {seed}): they answer other questions than the base's; "
                f"run {_maker(name)} again."
            )


def _maker(row: str) -> str:
    if row in NOTEBOOKS:
        return f"notebook {NOTEBOOKS[row]}"
    return "`make ablations`" if row in {b.name for b in BASELINES} else "`make score`"


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """`results_frame` as text: "0.462 ± 0.010", "0.42–0.50"; "–" where nothing was measured."""
    columns = {
        "paper: gIoU": frame["paper_giou"].map(_number),
        "paper: cIoU": frame["paper_ciou"].map(_number),
    }
    for name, title in (("giou", "gIoU"), ("ciou", "cIoU")):
        columns[title] = [_mean(row, name) for _, row in frame.iterrows()]
        columns[f"{title}, 95%"] = [_interval(row, name) for _, row in frame.iterrows()]
    columns["parsed"] = frame["parse_rate"].map(_percent)
    columns["food right"] = frame["foods_right"].map(_percent)
    columns["seeds"] = frame["seeds"].map(lambda n: "–" if np.isnan(n) else f"{n:.0f}")
    return pd.DataFrame(columns, index=frame.index)


def provenance_frame(preset: Preset, seeds: Sequence[int]) -> pd.DataFrame:
    """One row for each set of predictions: what made it, on what, and how long it took."""
    methods = [GRPO, DAPO, *measured_baselines(preset, seeds)]
    rows = ["base", *(row for method in methods for row in seed_rows(method, seeds)), "bound"]
    rows += [row.name for row in external_rows(preset)]
    return pd.DataFrame.from_dict(
        {row: _provenance(preset, row) for row in rows}, orient="index"
    ).rename_axis("row")


def _provenance(preset: Preset, row: str) -> dict:
    evaluation = load_result(preset.predictions_folder(row))
    if "system" in evaluation:
        return _external_provenance(evaluation)
    run = preset.predictions_folder(row).parents[1] / row / "result.json"
    training = json.loads(run.read_text()) if run.exists() else {}
    if evaluation["adapter"] != training.get("adapter"):
        raise DataError(
            f"predictions/{row}: they are not those of the adapter in runs/{preset.name}/{row}; "
            "run the notebook that trains it again."
        )
    return {
        "steps": training.get("steps", 0),
        "questions learnt from": training.get("samples", 0),
        "seconds to train": training.get("seconds", 0),
        "seconds to evaluate": evaluation["seconds"],
        "adapter": evaluation["adapter"] or "none",
        "commit": evaluation["commit"],
        "device": evaluation["device"],
        "torch": evaluation["versions"]["torch"],
        "transformers": evaluation["versions"]["transformers"],
    }


def _external_provenance(evaluation: dict) -> dict:
    # What made the masks, and on what, is not known here.
    unknown = ["steps", "questions learnt from", "seconds to train", "seconds to evaluate"]
    unknown += ["device", "torch", "transformers"]
    masks = f"none; masks {evaluation['masks']['sha256']}"
    return dict.fromkeys(unknown, "–") | {"adapter": masks, "commit": evaluation["commit"]}


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0%}"


def _mean(row: pd.Series, name: str) -> str:
    if np.isnan(row[name]):
        return "–"
    spread = "" if np.isnan(row[f"{name}_sd"]) else f" ± {row[f'{name}_sd']:.3f}"
    return f"{row[name]:.3f}{spread}"


def _interval(row: pd.Series, name: str) -> str:
    if np.isnan(row[name]):
        return "–"
    return f"{row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f}"


def seed_values(preset: Preset, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """giou and ciou of every single training: metric -> method -> one value a seed."""
    return {
        metric: {
            method.title: [
                load_result(preset.predictions_folder(row))[metric]
                for row in seed_rows(method, seeds)
            ]
            for method in (GRPO, DAPO, *measured_baselines(preset, seeds))
        }
        for metric in ("giou", "ciou")
    }


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
    return f"Preset {preset.name}: FoodReasonSeg-Single, {preset.mllm}."


_NOT_MEASURED = """\
* LISA and FoodLMM were not measured here. FoodLMM's own score reads its masks at the ground-truth
  answer's `[SEG]` positions, which is another protocol than generate-then-segment."""
_SCORED = """\
* A row that names a protocol is another system's: it handed in masks (`make score`), and "parsed"
  says for how many questions. generate-then-segment: it answered by itself, as in all our rows.
  teacher-forced: its masks were read at the data's own answer, which tells that something is to be
  found and, with FoodLMM, names the food; such a row does not compare with the others."""
NOTES = f"""\
* The **paper:** columns are as the paper reports them, on FoodReasonSeg with Qwen2.5-VL 3B. All
  other columns were measured by this run.
* GRPO and DAPO: mean ± standard deviation over seeds. The 95% interval is a bootstrap over
  questions, a question's seeds kept together.
{_NOT_MEASURED}
* An answer that can't be parsed counts as an empty mask; no question is left out. The checkpoint is
  the last step's."""


def notes(preset: Preset, seeds: Sequence[int]) -> str:
    """What a reader of this very table must know, as a Markdown list."""
    text = NOTES.replace(_NOT_MEASURED, _SCORED) if external_rows(preset) else NOTES
    if not measured_baselines(preset, seeds):
        return text
    return f"""{text}
* The other supervised rows were trained by this kit on the same backbone and data, and answer by
  generate-then-segment as every row does; `ablations.md` has their teacher-forced scores."""
