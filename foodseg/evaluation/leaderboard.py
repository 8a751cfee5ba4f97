"""figures/leaderboard.{md,csv}: whatever was scored with the preset's test questions, row by row.

The systems of `make score` and the rows of the results table, one line for each folder of
predictions, with what was read and how. Scored again, the same answers give the same bytes: seconds
are left out. A row of the kit's own that was not measured here stays as the file has it.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from foodseg.common.number_text import NOTHING, column_texts, signed_interval
from foodseg.common.tables import to_markdown, write_csv, write_markdown
from foodseg.data.samples import Sample, load_samples, samples_hash
from foodseg.evaluation.external.rows import PROTOCOLS, account_of, external_row
from foodseg.evaluation.predictions import Run, load_predictions, load_result, paired_difference
from foodseg.presets import Preset

GENERATED, FORCED = PROTOCOLS
MASKS, OURS = "masks", "this kit"
# The results table's rows by their names: protocol and reading.
_OWN = {
    r"base|base-parents|knowledge|(grpo|dapo|sft)-seed\d+": (GENERATED, "strict"),
    r"base-any-form": (GENERATED, "lenient: model-pixels"),
    r"base-best-of-\d+": ("best of several samples, by the truth", "strict"),
    r"lisa(-ingredients)?-seed\d+": (GENERATED, MASKS),
    r"bound": ("true boxes and points", "strict"),
}
NOTES = f"""\
* protocol: {GENERATED}, the system answered the question by itself; {FORCED}, its
  masks were read at the data's own answer, so it does not compare with the others.
* reading: strict, the paper's form, in pixels of the model image; lenient, any form, with the scale
  of coordinates that was stated for the whole file; masks, drawn by the system itself.
* read: answers that give a mask; of masks from elsewhere, how many were given. All others count as
  empty; no question is left out.
* less DAPO's: gIoU less that of the mean of DAPO's seeds, paired by plates, with its 95% interval.
* input: first 16 digits of the SHA-256 of what was handed in; of the kit's own rows of the adapter.
  predictions: of predictions.jsonl. commit: of the kit that scored it; `+`, files had been changed;
  not measured here: from an earlier state of this file.
"""


def write_leaderboard(preset: Preset) -> Path:
    """Write leaderboard.md and leaderboard.csv to the preset's figures; returns the first's path.

    Raises DataError for predictions that were cut or changed since.
    """
    samples = load_samples(preset.samples_file("test"))
    path = preset.figures / "leaderboard.md"
    frame = leaderboard_frame(preset, samples, path.with_suffix(".csv"))
    questions = f"{len(samples)} questions (SHA-256 {samples_hash(samples)})"
    title = f"# Leaderboard\n\nPreset {preset.name}, {questions}. Best first."
    write_markdown(path, [title, to_markdown(_readable(frame)), NOTES])
    write_csv(path.with_suffix(".csv"), frame)
    return path


def leaderboard_frame(preset: Preset, samples: list[Sample], before: Path) -> pd.DataFrame:
    """One row for each scored folder of predictions that answers the samples, raw numbers.

    before: the file of an earlier leaderboard. here: whether the row is of a folder, not of it.
    """
    lines, runs = {}, {}
    asked = [sample.sample_id for sample in samples]
    for file in sorted(preset.runs_folder.glob("predictions/*/result.json")):
        row, result = file.parent.name, load_result(file.parent)
        if line := _line(row, result):
            run = load_predictions(file.parent)
            if [prediction.sample_id for prediction in run] == asked:
                lines[row], runs[row] = line | _numbers(result), run
    frame = pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")
    dapo = [run for row, run in runs.items() if re.fullmatch(r"dapo-seed\d+", row)]
    differences = {row: _less(row, run, dapo) for row, run in runs.items()}
    less = ["less_dapo", "less_dapo_low", "less_dapo_high"]
    frame = frame.join(pd.DataFrame.from_dict(differences, orient="index", columns=less))
    frame = _with_earlier(frame.assign(questions=samples_hash(samples), here=True), before)
    order = {"forced": True, "giou": False, "row": True}
    frame = frame.assign(forced=frame["protocol"] == FORCED)
    return frame.sort_values(list(order), ascending=list(order.values())).drop(columns="forced")


def _with_earlier(frame: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The frame with the file's rows of the kit's own, about the same questions, that it lacks."""
    if not file.exists():
        return frame
    texts = dict.fromkeys(("input", "predictions", "commit", "questions"), str)
    earlier = pd.read_csv(
        file,
        index_col="row",
        dtype=texts,
        keep_default_na=False,
        na_values={name: [""] for name in frame.select_dtypes("number").columns},
    )
    known = (earlier["system"] == OURS) & earlier["questions"].isin(frame["questions"])
    missing = earlier[known & ~earlier.index.isin(frame.index)].assign(here=False)
    return pd.concat([frame, missing]) if len(missing) else frame


def _line(row: str, result: dict) -> dict | None:
    """Whose row it is and how it was read; None for one that is not on the leaderboard."""
    if other := external_row(result):
        how = other.protocol, other.reading or MASKS
        whose, given = other.system, account_of(result)["sha256"]
    else:
        how = next((how for names, how in _OWN.items() if re.fullmatch(names, row)), None)
        whose, given = OURS, result["adapter"] or ""
    named = {"system": whose, "input": given}
    return named | dict(zip(("protocol", "reading"), how, strict=True)) if how else None


def _numbers(result: dict) -> dict:
    numbers = {}
    for metric in ("giou", "ciou"):
        low, high = result[f"{metric}_interval"]
        numbers |= {metric: result[metric], f"{metric}_low": low, f"{metric}_high": high}
    # Masks name no foods, and the bound is handed the true ones.
    right = None if result["row"] == "bound" else result["foods_right"]
    numbers |= {"read": result["parse_rate"], "foods_right": np.nan if right is None else right}
    numbers |= {name: result[name] for name in ("commit", "processor")}
    return numbers | {"predictions": result.get("predictions", "")}


def _less(row: str, run: Run, dapo: list[Run]) -> tuple[float, float, float]:
    if not dapo or row.startswith("dapo-seed"):
        return np.nan, np.nan, np.nan
    return paired_difference([run], dapo)


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = partial(column_texts, frame)
    columns = {name: frame[name] for name in ("system", "protocol", "reading")}
    for metric, title in (("giou", "gIoU"), ("ciou", "cIoU")):
        names = metric, f"{metric}_low", f"{metric}_high"
        columns[f"{title}, 95%"] = numbers("{:.3f} ({:.3f} to {:.3f})", *names)
    less = "less_dapo", "less_dapo_low", "less_dapo_high"
    columns["less DAPO's"] = list(map(signed_interval, *(frame[name] for name in less)))
    handed_in = (frame["reading"] == MASKS) & (frame["system"] != OURS)
    columns["read"] = handed_in.map({True: "given ", False: ""}) + numbers("{:.0%}", "read")
    columns["food right"] = numbers("{:.0%}", "foods_right")
    for name in ("input", "predictions", "commit", "processor"):
        columns[name] = frame[name].replace("", NOTHING)
    columns["commit"] += frame["here"].map({True: "", False: ", not measured here"})
    return pd.DataFrame(columns, index=frame.index)
