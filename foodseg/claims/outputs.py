"""The claims as a page, a CSV file and a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from foodseg.ablations.rows import all_rows
from foodseg.ablations.runs import Runs
from foodseg.claims.field import OURS
from foodseg.claims.frame import NUMBERS, nothing_measured
from foodseg.claims.measures import GIOU
from foodseg.claims.picture import claims_picture
from foodseg.claims.rule import CHANGES, NOT_SEEN, ONE_SEED_MARGIN, OPEN, RULE, VERDICTS
from foodseg.common.number_text import NOTHING, number_text, signed_interval
from foodseg.common.tables import read_csv, to_markdown, write_csv, write_markdown
from foodseg.presets import Preset
from foodseg.report.results import caption
from foodseg.report.style import save

TITLE = "# The field's claims, each with a verdict"


def claims_path(preset: Preset) -> Path:
    """The page's files, without their suffix."""
    return preset.figures / "claims"


def write_claims(runs: Runs, frame: pd.DataFrame) -> str:
    """Write claims.{md,csv} and, once anything is measured, the picture; returns a sentence."""
    path = claims_path(runs.preset)
    write_markdown(path.with_suffix(".md"), page(runs.preset, frame))
    write_csv(path.with_suffix(".csv"), frame)
    if not nothing_measured(frame):
        save(claims_picture(frame), path)
    return counts_sentence(frame)


def read_claims(preset: Preset) -> pd.DataFrame | None:
    """The frame that `write_claims` wrote; None if it has not been written."""
    return read_csv(claims_path(preset).with_suffix(".csv"), NUMBERS)


def page(preset: Preset, frame: pd.DataFrame) -> list[str]:
    """The page's paragraphs and tables, paper by paper."""
    texts = [TITLE, caption(preset), RULE, CHANGES, counts_sentence(frame)]
    if not nothing_measured(frame):
        texts.append("![Every claim's difference with its interval](claims.png)")
    for paper, claims in frame.groupby("paper", sort=False):
        texts += [f"## {paper}", to_markdown(readable(claims))]
    command = "python -m foodseg.claims NAME"
    texts.append(
        f"`{command}` runs what one claim needs, with all its seeds, and prints its verdict; "
        "`python -m foodseg.ablations ROW --seed N` runs one training. Measured at: "
        + ("; ".join(sorted(set(", ".join(frame["commits"]).split(", ")) - {""})) or "nothing yet")
        + "."
    )
    return texts


def readable(claims: pd.DataFrame) -> pd.DataFrame:
    """Some claims as a table for readers, in the frame's order."""
    titles = {row.name: row.title for row in all_rows()}
    rows = {}
    for name, row in claims.iterrows():
        rows[f"{row.says} (`{name}`)"] = {
            "the paper's own": row.own,
            "asked here": asked(row, titles),
            "D, 95%": difference_text(row),
            "seen from": number_text("{:.3f}", row.seen_from),
            "q": number_text("{:.3f}", row.q),
            "seeds": row.seeds or NOTHING,
            "verdict": verdict_text(row),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("claim")


def asked(row: pd.Series, titles: dict[str, str]) -> str:
    """What is compared by what, in the claim's direction.

    With how much the claim's part acts, "DAPO less GRPO: gIoU (GRPO: 2.3% of the groups have no
    signal)", and what is unlike the paper, "...; the two stages train twice as long".
    """
    if not row.treated:
        return NOTHING
    first, second = titles[row.treated], titles.get(row.control, "")
    if row.below:
        first, second = second, first
    text = f"{first} less {second}: {row.measure}" if second else f"{first}: {row.measure}"
    text += f" ({titles[row.control]}: {row.acts})" if row.acts else ""
    return f"{text}; {row.here}" if row.here else text


def difference_text(row: pd.Series) -> str:
    """+0.020 (+0.010 to +0.030), with its unit if that is not gIoU, or "–"."""
    text = signed_interval(row["mean"], row.low, row.high)
    return text if text == NOTHING or row.unit == GIOU.unit else f"{text} {row.unit}"


def verdict_text(row: pd.Series) -> str:
    """The verdict, with the largest effect that is left room for, or with the reason."""
    if row.verdict == NOT_SEEN and row.seeds == 1:
        return f"{row.verdict} (one seed: not beyond {ONE_SEED_MARGIN})"
    if row.verdict == NOT_SEEN:
        unit = "" if row.unit == GIOU.unit else f" {row.unit}"
        return f"{row.verdict} (smaller than {row.high:.3f}{unit})"
    if row.verdict == OPEN and row.low == row.high == 0:
        return f"**{OPEN}**: 0 in all runs"
    return f"{row.verdict}: {row.reason}" if row.reason else f"**{row.verdict}**"


def counts_sentence(frame: pd.DataFrame) -> str:
    """How many claims have which verdict, those about our recipe apart."""
    ours = frame["paper"] == OURS
    parts = {"claims of the field": frame[~ours], "of our recipe": frame[ours]}
    return " ".join(f"{len(p)} {t}: {_counts(p)}." for t, p in parts.items() if len(p))


def _counts(frame: pd.DataFrame) -> str:
    counts = frame["verdict"].value_counts()
    return ", ".join(f"{counts[one]} {one}" for one in VERDICTS if one in counts)
