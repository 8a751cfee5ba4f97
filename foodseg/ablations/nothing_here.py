"""`python -m foodseg.ablations.nothing_here`: “nothing here” as an answer, with it and without it.

On plates of which a tenth of the questions are about foods that aren't there
(`presets.KITCHEN_NOTHING`), which it draws if they are missing: the base; supervised fine-tuning
and GRPO, which learn from the other questions alone; and the methods with `nothing`. What is not
finished is run, each run going on where it was stopped; then figures/nothing_here.{md,csv} is
written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foodseg.ablations.frame import ablations_frame, ended_runs
from foodseg.ablations.outputs import ORIGIN
from foodseg.ablations.rows import Row, choose_rows, nothing_rows
from foodseg.ablations.run_all import run_all
from foodseg.ablations.runs import Runs, runs_of
from foodseg.common.errors import DataError
from foodseg.common.number_text import number_text, signed_interval, with_deviation
from foodseg.common.progress import tqdm
from foodseg.common.tables import to_markdown, write_csv, write_markdown
from foodseg.data.single import write_single
from foodseg.evaluation.predictions import Prediction, paired_difference, scores
from foodseg.kitchen.dataset import write_kitchen
from foodseg.presets import (
    KITCHEN,
    KITCHEN_NOTHING,
    SMOKE,
    SMOKE_NOTHING,
    Preset,
    parse_seeds,
)
from foodseg.recipes import GRPO
from foodseg.report.results import caption
from foodseg.supervised.targets import SFT

PRESETS = {KITCHEN.name: (KITCHEN, KITCHEN_NOTHING), SMOKE.name: (SMOKE, SMOKE_NOTHING)}
MEANS = {"giou": "gIoU", "giou_target": "gIoU, food there", "ciou": "cIoU"}
SHARES = {"n_acc": "N-acc", "t_acc": "T-acc", "parse_rate": "parsed", "foods_right": "food right"}
READING = """\
Mean ± standard deviation over seeds. gIoU: a question for a food that isn't there has IoU 1 if it
is answered with `[]`, else 0; cIoU: that answer counts one pixel of one, any other its mask's
pixels in the union. **N-acc**: the share of the questions for nothing that are answered with `[]`;
**T-acc**: the share of the others that are not; both as gRefCOCO has them (arXiv:2306.00968).
**food there**: the questions that have an answer in the photo, which are the kitchen's own.
"less GRPO's": of gIoU over all questions, with its 95% interval over plates and seeds; of one seed
without. A method without “nothing here” learns from the questions that have an answer alone. "Shown
once": the true answer, `[]`, joins each group of a question for nothing as one more rollout."""


def draw(preset: Preset) -> None:
    """The preset's plates and samples, as notebook 01 makes them, where they are missing."""
    if not preset.dataset.exists():
        counts = preset.train_plates, preset.test_plates
        write_kitchen(preset.dataset, *counts, 0, no_target_share=preset.no_target_share)
    for split in ("train", "test"):
        samples = preset.samples_file(split)
        report = samples.with_suffix(".report.json")
        if not (samples.exists() and report.exists()):
            write_single(preset.dataset, split, samples).save(report)


def measured_rows() -> list[Row]:
    """The base, two methods without “nothing here”, and those with it."""
    return [*choose_rows(f"base,{SFT.name},{GRPO.name}"), *nothing_rows()]


def nothing_frame(runs: Runs, seeds: Sequence[int]) -> pd.DataFrame:
    """One line for each row with scores: means, *_sd over seeds, less_grpo*, and its origin.

    Raises DataError if no row has any.
    """
    ended = {row.name: ended_runs(runs, runs_of([row], seeds)) for row in measured_rows()}
    predictions = {name: runs.predictions(some) for name, some in ended.items() if some}
    if not predictions:
        raise DataError("runs: none has ended, so nothing can be written; leave --only-write out.")
    without = predictions.get(GRPO.name, [])
    lines = {name: _scores(own, without) for name, own in predictions.items()}
    frame = pd.DataFrame.from_dict(lines, orient="index")
    origin = ablations_frame(runs, [row for row in measured_rows() if ended[row.name]], seeds)
    return origin[["title", "seeds", "of", "seconds", *ORIGIN, "command"]].join(frame)


def _scores(own: Sequence[list[Prediction]], without: Sequence[list[Prediction]]) -> dict:
    summaries = pd.DataFrame(map(_summary, own))
    found = summaries.mean().to_dict()
    found |= summaries.std().add_suffix("_sd").to_dict()
    less = (np.nan,) * 3
    if without and own != without:
        less = paired_difference(own, without)
        less = less if min(len(own), len(without)) > 1 else (less[0], np.nan, np.nan)
    return found | dict(zip(("less_grpo", "less_grpo_low", "less_grpo_high"), less, strict=True))


def _summary(run: Sequence[Prediction]) -> dict[str, float]:
    found = scores(run)
    there = scores([prediction for prediction in run if not prediction.no_target])
    kept = {name: found[name] for name in (*MEANS, *SHARES) if name in found}
    return kept | {"giou_target": there["giou"]}


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as text; "–" where nothing was measured."""
    columns = {}
    for name, title in (MEANS | SHARES).items():
        pairs = zip(frame[name], frame[f"{name}_sd"], strict=True)
        columns[title] = [with_deviation(*pair) for pair in pairs]
    less = frame[["less_grpo", "less_grpo_low", "less_grpo_high"]].to_numpy()
    columns["less GRPO's"] = [
        number_text("{:+.3f}", one[0]) if np.isnan(one).any() else signed_interval(*one)
        for one in less
    ]
    columns["seeds"] = [str(count) for count in frame["seeds"]]
    columns["command"] = [f"`{command}`" for command in frame["command"]]
    return pd.DataFrame(columns, index=pd.Index(frame["title"], name="method"))


def write_page(runs: Runs, seeds: Sequence[int], path: Path) -> None:
    """Write the page and its numbers; path: without a suffix."""
    frame = nothing_frame(runs, seeds)
    asked = runs.samples("test")[1]
    counts = f"{sum(s.no_target for s in asked)} of the {len(asked)} test questions are for nothing"
    missing = frame.index[frame["seeds"] < frame["of"]]
    written = [
        "# “Nothing here” is an answer",
        f"{caption(runs.preset)} {counts} that is there.",
        READING,
        to_markdown(readable(frame)),
        f"Not all seeds have ended: {', '.join(missing)}." if len(missing) else "",
        "Made by `python -m foodseg.ablations.nothing_here`; docs/nothing_here.md explains it.",
        "## Where each row comes from",
        to_markdown(frame[ORIGIN]),
    ]
    write_markdown(path.with_suffix(".md"), [text for text in written if text])
    write_csv(path.with_suffix(".csv"), frame.rename_axis("row"))


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 if a run failed or the input can't be used."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.ablations.nothing_here")
    parser.add_argument("--preset", choices=PRESETS, default=KITCHEN.name)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, help="runs at once (default: one for each core)")
    parser.add_argument("--only-write", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    base, preset = PRESETS[options.preset]
    runs = Runs(preset)
    try:
        seeds, failed = parse_seeds(options.seeds), []
        draw(preset)
        if not options.only_write:
            failed = run_all(runs, runs_of(measured_rows(), seeds), options.jobs)
        write_page(runs, seeds, base.figures / "nothing_here")
    except DataError as error:
        print(f"nothing_here: {error}", file=sys.stderr)
        return 1
    tqdm.write(f"{base.figures / 'nothing_here.md'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
