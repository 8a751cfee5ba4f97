"""The ablation table's numbers, one line for each row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean

import numpy as np
import pandas as pd

from foodseg.ablations.rows import BOUND, Row, choose_rows
from foodseg.ablations.runs import Run, Runs, runs_of
from foodseg.evaluation.predictions import (
    Prediction,
    load_predictions,
    paired_difference,
    scores,
)
from foodseg.report.costs import run_costs
from foodseg.report.seeds import same_questions, summarise_seeds
from foodseg.rl.habits import habits
from foodseg.supervised.evaluation import teacher_forced_row_name
from foodseg.supervised.targets import Baseline

# Code, machine, versions, and the hashes of the base and of the questions.
ORIGIN = ("commit", "device", "processor", "torch", "transformers", "base", "questions")
REFERENCE = "dapo"  # every other row is compared with it
GAIN = ("gain", "gain_low", "gain_high")
MEANS = (*(f"{name}{end}" for name in ("giou", "ciou") for end in ("", "_sd", "_low", "_high")),)
ANSWERS = ("parse_rate", "foods_right")
SEVERAL = "foods_right_several"
STEPS = ("step_by_step_least", "step_by_step_most", "stepwise", "stepwise_giou", "hasty_giou")
# Columns of numbers; all others are text, "" where there is none.
NUMBERS = (*MEANS, *GAIN, *ANSWERS, SEVERAL, *STEPS, "seeds", "of", "stale", "seconds")
NUMBERS += ("seconds_least", "peak_memory_mb")
NUMBERS += ("learnt_least", "learnt_most", "sampled_least", "sampled_most")


def ablations_frame(
    runs: Runs, rows: Sequence[Row], seeds: Sequence[int], split: str = "test"
) -> pd.DataFrame:
    """One line a row, indexed by its name, NaN where nothing was measured.

    giou, ciou, parse_rate, foods_right: mean over the seeds that ended; *_sd: standard deviation
    over them (Bessel's); *_low, *_high: a 95% bootstrap interval over plates and seeds. gain: gIoU
    less DAPO's; no interval where DAPO or a trained row has one seed. foods_right_several: of the
    questions for two foods and more. step_by_step_*: the share of answers that reason so, the least
    and the most of the seeds; stepwise: in how many seeds most answers do, stepwise_giou: of those
    seeds, hasty_giou: of the others. seconds: of the training; seconds_least: of its quickest seed.
    peak_memory_mb: the most of any seed. learnt, sampled: completions of one run, from its log.
    seeds, of: those that ended, those asked for. stale: seeds of other settings or code.
    The bound has no line on validation plates.
    """
    dapo = ended_runs(runs, runs_of(choose_rows(REFERENCE), seeds, split))
    reference = runs.predictions(dapo)
    several = {sample.sample_id for sample in runs.samples(split)[1] if len(sample.foods) > 1}
    lines: dict[str, dict] = {}
    for row in rows:
        wanted = runs_of([row], seeds, split)
        if not wanted:  # the bound, on validation plates
            continue
        ended, others = ended_runs(runs, wanted), [] if row.name == REFERENCE else reference
        predictions = runs.predictions(ended)
        scores = _scores(predictions, others, row.trained) | _naming(predictions, several)
        if row == BOUND:  # it is handed the true foods
            scores |= dict.fromkeys(("foods_right", SEVERAL, *STEPS), np.nan)
        lines[row.name] = _line(runs, wanted, ended, scores)
        if isinstance(row.method, Baseline) and row.method.masks:
            forced = _forced_scores(runs, row.title, ended, others)
            lines[f"{row.name}-teacher-forced"] = lines[row.name] | forced
    frame = pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")
    return frame[[*frame.columns.drop([*GAIN]), *GAIN]]


def ended_runs(runs: Runs, wanted: Sequence[Run]) -> list[Run]:
    """The runs that have scores, current or not."""
    return [run for run in wanted if "giou" in (runs.outcome(run) or {})]


def _line(runs: Runs, wanted: Sequence[Run], ended: Sequence[Run], scores: dict) -> dict:
    row, outcomes = wanted[0].row, [runs.outcome(run) for run in ended]
    failures = {run.seed: (runs.outcome(run) or {}).get("failure") for run in wanted}
    costs = pd.DataFrame(outcomes, columns=["seconds", "peak_memory_mb"], dtype=float)
    return {
        "family": row.family,
        "title": row.title,
        "seeds": len(ended),
        "of": len(wanted),
        "stale": sum(not runs.finished(run) for run in ended),
        **scores,
        "seconds": costs["seconds"].mean(),
        "seconds_least": costs["seconds"].min(),
        "peak_memory_mb": costs["peak_memory_mb"].max(),
        **_rollouts(runs, ended),
        "failure": "; ".join(f"seed {seed}: {text}" for seed, text in failures.items() if text),
        "command": wanted[0].command(runs.preset),
        **_origin(outcomes),
    }


def _scores(
    predictions: list[list[Prediction]], reference: list[list[Prediction]], trained: bool
) -> dict:
    """Means over seeds, and the gain over the reference where both answered the same questions."""
    if not predictions:
        return dict.fromkeys((*MEANS, *ANSWERS, *GAIN), np.nan)
    gain = (np.nan,) * 3
    if same_questions([*reference[:1], predictions[0]]):
        gain = paired_difference(predictions, reference)
        if min(len(reference), len(predictions) if trained else 2) < 2:
            gain = (gain[0], np.nan, np.nan)  # one seed doesn't tell how seeds scatter
    summary = summarise_seeds(predictions)
    found = {name: summary[name] for name in (*MEANS, *ANSWERS)}
    return found | dict(zip(GAIN, gain, strict=True))


def _naming(predictions: list[list[Prediction]], several: Collection[str]) -> dict:
    """How the answers come to their foods; several: ids of the questions for more than one."""
    if not predictions:
        return dict.fromkeys((SEVERAL, *STEPS), np.nan)
    right = [p.foods_right for run in predictions for p in run if p.sample_id in several]
    steps = [fmean(habits(p.completion)["step by step"] for p in run) for run in predictions]
    stepwise = np.array(steps) >= 0.5
    gious = np.array([scores(run)["giou"] for run in predictions])
    modes = [gious[mode].mean() if mode.any() else np.nan for mode in (stepwise, ~stepwise)]
    shares = (min(steps), max(steps), int(stepwise.sum()), *modes)
    return {SEVERAL: fmean(right) if right else np.nan, **dict(zip(STEPS, shares, strict=True))}


def _forced_scores(
    runs: Runs, title: str, ended: Sequence[Run], reference: list[list[Prediction]]
) -> dict:
    """The same models, their masks read at the true answer's [SEG]: another, easier, protocol."""
    rows = [teacher_forced_row_name(run.method, run.seed) for run in ended]
    predictions = [load_predictions(runs.preset.predictions_folder(row)) for row in rows]
    # The answer is not the model's.
    found = _scores(predictions, reference, True)
    found |= dict.fromkeys((*ANSWERS, SEVERAL, *STEPS), np.nan)
    return found | {"title": f"{title}, teacher-forced (another protocol)"}


def _rollouts(runs: Runs, ended: Sequence[Run]) -> dict:
    """Completions learnt from and sampled, the least and the most of a row's runs."""
    folders = [runs.run_folder(run) for run in ended]
    costs = [run_costs(folder) for folder in folders if (folder / "result.json").exists()]
    counts = {}
    for name, values in (("learnt", [c[1] for c in costs]), ("sampled", [c[0] for c in costs])):
        known = [value for value in values if not np.isnan(value)]  # a baseline samples nothing
        counts[f"{name}_least"] = min(known, default=np.nan)
        counts[f"{name}_most"] = max(known, default=np.nan)
    return counts


def _origin(outcomes: Sequence[dict]) -> dict:
    """Adapters in the order of the seeds; commits, machines and versions, each once."""
    flat = [one | one["versions"] | one["identity"].get("evaluation", {}) for one in outcomes]
    texts = {}
    for name in ("adapter", *ORIGIN):
        texts[name] = ", ".join(dict.fromkeys(str(one[name]) for one in flat if one.get(name)))
    return {"adapters": texts.pop("adapter"), **texts}
