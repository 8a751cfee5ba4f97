"""The ablation table: numbers of every row, and the same as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from foodseg.ablations.rows import BOUND, Row, choose_rows
from foodseg.ablations.runs import Run, Runs
from foodseg.ablations.why import WHY
from foodseg.common.files import read_lines
from foodseg.evaluation.evaluate import Prediction, load_predictions
from foodseg.report.seeds import paired_difference, same_questions, summarise_seeds
from foodseg.supervised.evaluation import teacher_forced_row_name
from foodseg.supervised.targets import Baseline

SCORES = ("giou", "ciou")
GAIN = ("gain", "gain_low", "gain_high")
REFERENCE = "dapo"
MEANS = (*(f"{s}{end}" for s in SCORES for end in ("", "_sd", "_low", "_high")),)


def ablations_frame(runs: Runs, rows: Sequence[Row], seeds: Sequence[int], split: str = "test"):
    """One line a row, indexed by its name, NaN where nothing was measured.

    giou, ciou, parse_rate, foods_right: mean over the seeds that ended; *_sd: standard deviation
    over them (Bessel's); *_low, *_high: a 95% bootstrap interval over questions, a question's
    seeds kept together; gain, gain_low, gain_high: gIoU less DAPO's, question by question.
    seconds, seconds_sd: of the training; peak_memory_mb: the most of any seed. learnt, sampled:
    completions of one run, from its log (least and most over seeds).
    seeds, of: those that ended, those asked for; stale: seeds of other settings or code.
    """
    lines = {}
    for row in rows:
        wanted = _runs_of(row, seeds, split)
        lines[row.name] = _line(runs, wanted)
        if isinstance(row.method, Baseline) and row.method.masks:
            lines[f"{row.name}-teacher-forced"] = _forced_line(runs, wanted, lines[row.name])
    _compare(runs, lines, seeds, split)
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")


def _compare(runs: Runs, lines: dict[str, dict], seeds: Sequence[int], split: str) -> None:
    """Write into each line how far it is from DAPO's, where both answered the same questions."""
    (dapo,) = choose_rows(REFERENCE)
    reference = [_predictions(runs, name) for name in _ended(runs, _runs_of(dapo, seeds, split))]
    for row, line in lines.items():
        ours, gain = [_predictions(runs, name) for name in line.pop("predictions")], (np.nan,) * 3
        if row != REFERENCE and same_questions([*reference[:1], *ours[:1]]):
            gain = paired_difference(ours, reference)
        line |= dict(zip(GAIN, gain, strict=True))


def _ended(runs: Runs, wanted: Sequence[Run]) -> list[str]:
    return [run.name for run in wanted if "giou" in (runs.outcome(run) or {})]


def _predictions(runs: Runs, name: str) -> list[Prediction]:
    return load_predictions(runs.preset.predictions_folder(name))


def _runs_of(row: Row, seeds: Sequence[int], split: str) -> list[Run]:
    return [Run(row, seed, split) for seed in (seeds if row.trained else [0])]


def _line(runs: Runs, wanted: Sequence[Run]) -> dict:
    row = wanted[0].row
    outcomes = {run.name: runs.outcome(run) or {} for run in wanted}
    ended = [run for run in wanted if "giou" in outcomes[run.name]]
    kept = [outcomes[run.name] for run in ended]
    failures = {
        run.seed: outcomes[run.name]["failure"] for run in wanted if "failure" in outcomes[run.name]
    }
    line = {"family": row.family, "title": row.title, "seeds": len(ended), "of": len(wanted)}
    line["stale"] = sum(not runs.finished(run) for run in ended)
    line |= _scores(runs, [run.name for run in ended]) | _cost(kept) | _rollouts(runs, ended)
    reasons = [f"seed {seed}: {text}" for seed, text in failures.items()]
    line |= {"failure": "; ".join(reasons), "why": WHY.get(row.name, "") if ended else ""}
    return line | {"command": wanted[0].command(runs.preset)} | _origin(kept)


def _forced_line(runs: Runs, wanted: Sequence[Run], generated: dict) -> dict:
    """The same models, their masks read at the true answer's [SEG]: another, easier, protocol."""
    ended = [run for run in wanted if run.name in _ended(runs, wanted)]
    names = [teacher_forced_row_name(run.method, run.seed) for run in ended]
    given = {"parse_rate": np.nan, "foods_right": np.nan}  # the answer is not the model's
    title = f"{generated['title']}, teacher-forced (another protocol)"
    return generated | _scores(runs, names) | given | {"title": title, "why": ""}


def _scores(runs: Runs, names: Sequence[str]) -> dict:
    """Means over the predictions of those names."""
    if not names:
        return dict.fromkeys((*MEANS, "parse_rate", "foods_right"), np.nan) | {"predictions": []}
    scores = summarise_seeds([_predictions(runs, name) for name in names])
    if names == [BOUND.name]:  # it is handed the true foods
        scores["foods_right"] = np.nan
    kept = {name: scores[name] for name in (*MEANS, "parse_rate", "foods_right")}
    return kept | {"predictions": names}


def _cost(outcomes: Sequence[dict]) -> dict:
    seconds = pd.Series([outcome["seconds"] for outcome in outcomes], dtype=float)
    peaks = pd.Series([outcome["peak_memory_mb"] for outcome in outcomes], dtype=float)
    # Of one value pandas gives NaN as the deviation, and of none NaN as the mean.
    return {
        "seconds": seconds.mean(),
        "seconds_sd": seconds.std(),
        "peak_memory_mb": peaks.max(),
    }


def _rollouts(runs: Runs, ended: Sequence[Run]) -> dict:
    """Completions of a run, counted from the rows of its log."""
    preset = runs.preset
    each = preset.prompts_per_step * preset.group_size
    logs = [read_lines(runs.log(run)) for run in ended if runs.log(run).exists()]
    logs = [log for log in logs if log and "rounds" in log[0]]  # a baseline samples nothing
    learnt = [len(log) * each for log in logs]
    sampled = [sum(row["rounds"] for row in log) * each for log in logs]
    return {
        "learnt_least": min(learnt, default=np.nan),
        "learnt_most": max(learnt, default=np.nan),
        "sampled_least": min(sampled, default=np.nan),
        "sampled_most": max(sampled, default=np.nan),
    }


def _origin(outcomes: Sequence[dict]) -> dict:
    def joined(values) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value))

    return {
        "adapters": joined(outcome["adapter"] for outcome in outcomes),
        "commit": joined(outcome["commit"] for outcome in outcomes),
        "device": joined(outcome["device"] for outcome in outcomes),
        "torch": joined(outcome["versions"]["torch"] for outcome in outcomes),
        "transformers": joined(outcome["versions"]["transformers"] for outcome in outcomes),
    }


def rollouts_sentence(frame: pd.DataFrame) -> str:
    """Whether all trained rows learnt from as many completions, and how many they sampled."""
    counted = frame.dropna(subset=["learnt_least"])
    if counted.empty:
        return "Rollouts: no run has left a log yet."
    low, high = int(counted["learnt_least"].min()), int(counted["learnt_most"].max())
    if low < high:
        usual = counted["learnt_most"].mode()[0]
        odd = counted[(counted["learnt_least"] != usual) | (counted["learnt_most"] != usual)]
        return (
            f"Rollouts, counted from the logs: **not the same for all**, {low:,} to {high:,} "
            f"completions learnt from; other than {int(usual):,}: {', '.join(odd.index)}."
        )
    most = counted["sampled_most"].max()
    more = (
        f" Dynamic sampling draws others for groups without signal: up to {int(most):,} sampled "
        "in one run, in the column of that name."
        if most > high
        else ""
    )
    return (
        f"Rollouts, counted from the logs: every run of a recipe learnt from {high:,} completions."
        + more
    )


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines of `ablations_frame` as text, to be printed: "–" where nothing was measured."""
    columns = {}
    for name, title in (("giou", "gIoU"), ("ciou", "cIoU")):
        columns[title] = [_spread(row[name], row[f"{name}_sd"], 3) for _, row in frame.iterrows()]
        columns[f"{title}, 95%"] = [_interval(row, name) for _, row in frame.iterrows()]
    columns["gIoU less DAPO's, 95%"] = [_gain(row) for _, row in frame.iterrows()]
    columns["parsed"] = frame["parse_rate"].map(lambda value: _text(value, "{:.0%}"))
    columns["food right"] = frame["foods_right"].map(lambda value: _text(value, "{:.0%}"))
    columns["sampled"] = frame["sampled_most"].map(lambda value: _text(value, "{:,.0f}"))
    columns["seconds"] = [_spread(r["seconds"], r["seconds_sd"], 0) for _, r in frame.iterrows()]
    columns["peak MB"] = frame["peak_memory_mb"].map(lambda value: _text(value, "{:.0f}"))
    columns["seeds"] = [_seeds(row) for _, row in frame.iterrows()]
    columns["command"] = frame["command"].map(lambda text: f"`{text}`")
    index = pd.Index(frame["title"], name="method")
    return pd.DataFrame({name: list(values) for name, values in columns.items()}, index=index)


def _seeds(row: pd.Series) -> str:
    if row["failure"]:
        return f"{row['seeds']} of {row['of']}, failed"
    return f"{row['seeds']}" if row["seeds"] == row["of"] else f"{row['seeds']} of {row['of']}"


def _gain(row: pd.Series) -> str:
    if pd.isna(row["gain"]):
        return "–"
    return f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"


def _text(value: float, form: str) -> str:
    return "–" if pd.isna(value) else form.format(value)


def _spread(mean: float, deviation: float, digits: int) -> str:
    if pd.isna(mean):
        return "–"
    spread = "" if pd.isna(deviation) else f" ± {deviation:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def _interval(row: pd.Series, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "–" if pd.isna(low) else f"{low:.2f}–{high:.2f}"


def missing_sentence(frame: pd.DataFrame, split: str = "test") -> str:
    """Which rows want runs, and which runs are of other settings than today's; "" if none."""
    command = "make ablations"
    if split != "test":
        command = f"python -m foodseg.ablations --split {split}"
    unfinished = frame[(frame["seeds"] < frame["of"]) & (frame["failure"] == "")]
    parts = []
    if len(unfinished):
        names = [f"{name} ({row.seeds} of {row.of})" for name, row in unfinished.iterrows()]
        parts.append(f"Missing, by seeds that ended: {', '.join(names)}.")
    if stale := list(frame.index[frame["stale"] > 0]):
        parts.append(f"Of other settings or code than today's: {', '.join(stale)}.")
    return " ".join([*parts, f"`{command}` runs what is missing."]) if parts else ""


def not_in_table(frame: pd.DataFrame | None, rows: Sequence[Row]) -> str:
    """A sentence on the rows of today that a table on disk lacks, or does not have whole."""
    whole = [] if frame is None else list(frame.index[frame["seeds"] == frame["of"]])
    absent = [row.name for row in rows if row.name not in whole]
    return f"Not (wholly) measured: {', '.join(absent)}." if absent else "Every row is measured."
