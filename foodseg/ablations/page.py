"""The ablation table's files: ablations.md for readers, ablations.csv for programs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from foodseg.ablations.table import GAIN, MEANS, missing_sentence, readable, rollouts_sentence
from foodseg.report.results import caption
from foodseg.report.tables import to_markdown, write_markdown, write_text

NUMBERS = (
    *MEANS,
    *GAIN,
    *("parse_rate", "foods_right", "seeds", "of", "stale"),
    *("seconds", "seconds_sd", "peak_memory_mb"),
    *("learnt_least", "learnt_most", "sampled_least", "sampled_most"),
)


def sections(frame: pd.DataFrame) -> list[str]:
    """A heading and a table for each family; below it why, and which runs failed."""
    texts = []
    for family, lines in frame.groupby("family", sort=False):
        texts += [f"## {family}", to_markdown(readable(lines))]
        notes = [f"* {row.title}: {row.why}" for row in lines.itertuples() if row.why]
        notes += [f"* {r.title} failed. {r.failure}" for r in lines.itertuples() if r.failure]
        texts += ["\n".join(notes)] if notes else []
    return texts


def origin_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Where each measured row comes from: adapters in the order of the seeds, code, machine."""
    columns = ["adapters", "commit", "device", "torch", "transformers"]
    return frame[frame["seeds"] > 0][columns]


NOTES = {
    "test": "Every row: evaluated on the test questions, the checkpoint of the last step.",
    "validation": (
        "Every row: trained on four fifths of the training plates, evaluated on the others. "
        "Choices are made here; the test plates play no part."
    ),
}
READING = """\
Mean ± standard deviation over seeds; the 95% interval is a bootstrap over questions, a question's
seeds kept together; "less DAPO's" is the same of the difference, question by question, so what is
hard for both takes no part in it. Seconds: of one training, on one thread. Peak MB: of the
training's process. Both were taken two runs at a time, some beside other work: they tell the order
of magnitude, not one method from another. A row's command trains and evaluates one seed, and goes
on where it stopped. A "+" after a commit: with changes that were not committed."""


def write_table(preset, frame: pd.DataFrame, split: str = "test") -> Path:
    """Write ablations.md and ablations.csv into the preset's figures; returns the former's path.

    The validation table is ablations_validation.{md,csv}.
    """
    path = figure_path(preset, split)
    written = [
        "# Relatives and ablations" + ("" if split == "test" else ": validation"),
        f"{caption(preset)} {NOTES[split]}",
        READING,
        rollouts_sentence(frame),
        missing_sentence(frame, split),
        *sections(frame),
        "## Where each row comes from",
        to_markdown(origin_frame(frame)),
    ]
    write_markdown(path.with_suffix(".md"), [text for text in written if text])
    write_text(path.with_suffix(".csv"), frame.to_csv(float_format="%.6g"))
    return path.with_suffix(".md")


def figure_path(preset, split: str = "test") -> Path:
    """The table's files, without their suffix."""
    return preset.figures / ("ablations" if split == "test" else f"ablations_{split}")


def read_table(preset, split: str = "test") -> pd.DataFrame | None:
    """The frame that `write_table` wrote; None if it has not been written."""
    path = figure_path(preset, split).with_suffix(".csv")
    if not path.exists():
        return None
    frame = pd.read_csv(path, index_col="row")
    texts = frame.columns.difference(NUMBERS)
    return frame.assign(**{name: frame[name].astype(object).fillna("") for name in texts})
