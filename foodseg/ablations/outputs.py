"""What the ablations leave: ablations{,_validation}.{md,csv,png}, the last of the differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from foodseg.ablations.differences import (
    difference_word,
    differences_sentence,
    gain_text,
    modes_sentence,
)
from foodseg.ablations.dots import difference_dots
from foodseg.ablations.frame import NUMBERS, ablations_frame, ended_runs
from foodseg.ablations.rows import Row, all_rows
from foodseg.ablations.runs import Runs, runs_of
from foodseg.common.number_text import NOTHING, number_text, with_deviation
from foodseg.common.tables import read_csv, to_markdown, write_csv, write_markdown
from foodseg.presets import Preset
from foodseg.report.results import caption
from foodseg.report.style import save

NOTES = {
    "test": "Every row: evaluated on the test questions, the checkpoint of the last step.",
    "validation": "Every row: trained on four fifths of the training plates, evaluated on the "
    "others. Choices are made here; the test plates play no part.",
}
READING = """\
Mean ± standard deviation over seeds; the 95% interval is a bootstrap over plates and seeds (of one
seed, or of a row without seeds, over plates alone); "less DAPO's" is the same of the difference,
the same plates for both rows, so what is hard for both takes no part in it. It is called a
difference if that interval excludes 0. Of rows that don't differ one in twenty is called so too,
of those with three seeds up to one in twelve (simulated), and all are compared with the same runs
of DAPO. `make ablations` gives a row three seeds, `make claims` those eight that a claim needs.
"food right": answers whose thinking concludes with exactly
the foods asked for; "of several": of the questions for two foods and more. "step by step": of a
seed's answers those that go through the foods on the plate before they conclude, the least and the
most of the seeds. Seconds: of one training, on one thread, of the quickest seed. Peak MB: of the
training's process. Both were taken two runs at a time, some beside other work: they tell the order
of magnitude, not one method from another. A row's command trains and evaluates one seed, and goes
on where it stopped. On another make or instruction set sums round otherwise: there the
same commit and seeds give other bits, and scores as far off as another seed's (rounding.md). A "+"
after a commit: with changes that were not committed."""
USUAL_SEEDS = 3  # of `make ablations`; a row with more is whole, however many others have
# Where each row comes from: adapters in the order of the seeds, code, machine.
ORIGIN = ["adapters", "commit", "device", "processor", "torch", "transformers"]


def write_results(
    runs: Runs, rows: Sequence[Row], seeds: Sequence[int], split: str = "test"
) -> str:
    """Write table and picture of what the runs have left; says what is there and what is missing.

    A row that was not asked for stays in the table if it has results.
    """
    known = {run.row.name for run in ended_runs(runs, runs_of(all_rows(), seeds, split))}
    rows = [row for row in all_rows() if row in rows or row.name in known]
    frame = ablations_frame(runs, rows, seeds, split)
    path = figure_path(runs.preset, split)
    _write_table(path, runs.preset, frame, split)
    if frame["gain"].notna().any():
        save(difference_dots(frame), path)
    measured = f"{(frame['seeds'] > 0).sum()} of {len(frame)} rows measured: {path.name}.md."
    return " ".join([measured, missing_sentence(frame)]).strip()


def _write_table(path: Path, preset: Preset, frame: pd.DataFrame, split: str) -> None:
    written = [
        "# Relatives and ablations" + ("" if split == "test" else ": validation"),
        f"{caption(preset)} {NOTES[split]}",
        READING,
        rollouts_sentence(frame),
        differences_sentence(frame),
        modes_sentence(frame),
        missing_sentence(frame),
        *sections(frame),
        "## What each row costs, and its command",
        to_markdown(costs(frame)),
        "## Where each row comes from",
        to_markdown(frame.loc[frame["seeds"] > 0, ORIGIN]),
    ]
    write_markdown(path.with_suffix(".md"), [text for text in written if text])
    write_csv(path.with_suffix(".csv"), frame)


def figure_path(preset: Preset, split: str = "test") -> Path:
    """The table's files, without their suffix."""
    return preset.figures / ("ablations" if split == "test" else f"ablations_{split}")


def read_table(preset: Preset, split: str = "test") -> pd.DataFrame | None:
    """The frame that `write_results` wrote; None if it has not been written."""
    return read_csv(figure_path(preset, split).with_suffix(".csv"), NUMBERS)


def sections(frame: pd.DataFrame) -> list[str]:
    """A heading and a table of scores for each family; below it which runs failed."""
    texts = []
    for family, lines in frame.groupby("family", sort=False):
        texts += [f"## {family}", to_markdown(readable(lines))]
        notes = [f"* {r.title} failed. {r.failure}" for r in lines.itertuples() if r.failure]
        texts += ["\n".join(notes)] if notes else []
    return texts


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores of `ablations_frame`'s lines as text: "–" where nothing was measured."""
    lines = [
        {
            "gIoU": with_deviation(row.giou, row.giou_sd),
            "95%": number_text("{:.2f}–{:.2f}", row.giou_low, row.giou_high),
            "less DAPO's": gain_text(row),
            "a difference": difference_word(row),
            "cIoU": with_deviation(row.ciou, row.ciou_sd),
            "parsed": number_text("{:.0%}", row.parse_rate),
            "food right": number_text("{:.0%}", row.foods_right),
            "of several": number_text("{:.0%}", row.foods_right_several),
            "step by step": _span(row.step_by_step_least, row.step_by_step_most),
            "seeds": (f"{row.seeds} of {row.wanted}" if row.seeds < row.wanted else f"{row.seeds}")
            + (", failed" if row.failure else ""),
        }
        for row in frame.assign(wanted=_wanted(frame)).itertuples()
    ]
    return pd.DataFrame(lines, index=pd.Index(frame["title"], name="method"))


def _wanted(frame: pd.DataFrame) -> pd.Series:
    """How many seeds each row is to have at least."""
    return frame["of"].clip(upper=USUAL_SEEDS)


def _span(least: float, most: float) -> str:
    """3–90%; 3% where both are that."""
    ends = dict.fromkeys(number_text("{:.0f}", 100 * end) for end in (least, most))
    return NOTHING if NOTHING in ends else f"{'–'.join(ends)}%"


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """What one run of each line samples and takes, as text, and the command that makes it."""
    frame = frame.drop_duplicates("command")  # another reading of the same models costs nothing
    lines = [
        {
            "sampled, at most": number_text("{:,.0f}", row.sampled_most),
            "seconds, quickest seed": number_text("{:.0f}", row.seconds_least),
            "peak MB": number_text("{:.0f}", row.peak_memory_mb),
            "command": f"`{row.command}`",
        }
        for row in frame.itertuples()
    ]
    return pd.DataFrame(lines, index=pd.Index(frame["title"], name="method"))


def rollouts_sentence(frame: pd.DataFrame) -> str:
    """How many completions the trained rows sampled, and how many they learnt from."""
    counted = frame.dropna(subset=["learnt_least"])
    if counted.empty:
        return "Rollouts: no run has ended yet."

    def span(name: str) -> str:
        ends = int(counted[f"{name}_least"].min()), int(counted[f"{name}_most"].max())
        return " to ".join(f"{end:,}" for end in dict.fromkeys(ends))

    text = f"Rollouts: the runs of recipes sampled {span('sampled')} completions each"
    learnt = span("learnt")
    return f"{text} and learnt from {learnt}." if learnt != span("sampled") else f"{text}."


def missing_sentence(frame: pd.DataFrame) -> str:
    """Which rows lack runs, and which runs are of other settings than today's; "" if none."""
    parts, wanted = [], _wanted(frame)
    unfinished = frame[(frame["seeds"] < wanted) & (frame["failure"] == "")]
    if len(unfinished):
        counts = unfinished["seeds"].map("{} of ".format) + wanted[unfinished.index].map(str)
        lists = [f"{count}: {', '.join(rows.index)}" for count, rows in unfinished.groupby(counts)]
        parts.append(f"Missing, by seeds that ended: {'; '.join(lists)}.")
    if stale := list(frame.index[frame["stale"] > 0]):
        parts.append(f"Of other settings or code than today's: {', '.join(stale)}.")
    commands = frame.loc[[*unfinished.index, *stale], "command"]
    return " ".join([*parts, f"`{_joined(commands, wanted.max())}` runs them."]) if parts else ""


def _joined(commands: Sequence[str], seeds: int) -> str:
    """One command for the runs of several rows: theirs, `Run.command`, name one row each."""
    first, *_ = words = [command.split() for command in commands]
    rows = ",".join(dict.fromkeys(one[3] for one in words))
    options = " ".join(first[4:]).removeprefix("--seed 0")
    chosen = f"--rows {rows} --seeds {','.join(map(str, range(seeds)))}"
    return f"{' '.join(first[:3])} {chosen} {options.strip()}".strip()


def not_in_table(frame: pd.DataFrame | None, rows: Sequence[Row]) -> str:
    """A sentence on the rows that a table on disk lacks, and how many lack seeds."""
    seeds = {} if frame is None else frame["seeds"].to_dict()
    absent = [row.name for row in rows if not seeds.get(row.name)]
    if len(absent) == len(rows):
        return f"None of {len(rows)} rows is measured."
    said = f"Not measured: {', '.join(absent)}." if absent else "Every row is measured."
    known = frame.loc[[row.name for row in rows if row.name not in absent]]
    fewer = (known["seeds"] < _wanted(known)).sum()
    return f"{said} With fewer seeds than asked for: {fewer}." if fewer else said
