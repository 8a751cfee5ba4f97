"""Supervised rows of the results table: measured here, measured elsewhere, or missing.

`make table` measures what the paper's table needs. A row that `make ablations` measured on another
machine is shown from its file, under a title that says so and with its commits, and is never mixed
with what was measured here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from foodseg.common.number_text import NOTHING
from foodseg.data.samples import load_samples, samples_hash
from foodseg.presets import Preset
from foodseg.report.seeds import seed_rows
from foodseg.supervised.targets import FOODLMM, LISA, SFT, Baseline

# Trained by this kit on the same backbone and data; `make ablations` measures them.
BASELINES = (SFT, LISA, FOODLMM)
SCORES = [f"{name}{end}" for name in ("giou", "ciou") for end in ("", "_sd", "_low", "_high")]
SCORES += ["parse_rate", "foods_right", "seeds", "seconds"]
ELSEWHERE = "(by make ablations)"
ORIGIN = ["commit", "device", "processor", "torch", "transformers"]


def measured_baselines(preset: Preset, seeds: Sequence[int]) -> list[Baseline]:
    """The supervised baselines that have predictions of every seed."""
    folders = {b: map(preset.predictions_folder, seed_rows(b, seeds)) for b in BASELINES}
    return [b for b, made in folders.items() if all((f / "result.json").exists() for f in made)]


def baselines_elsewhere(preset: Preset, seeds: Sequence[int]) -> pd.DataFrame:
    """Baselines not measured here that ablations.csv has of this base and these questions.

    One row each, under its title and ELSEWHERE; columns: SCORES, as `results_frame` has them, and
    adapters and ORIGIN as text.
    """
    here, file = measured_baselines(preset, seeds), preset.figures / "ablations.csv"
    missing = [baseline.name for baseline in BASELINES if baseline not in here]
    kept = ["title", *SCORES, "adapters", *ORIGIN, "base", "questions"]
    # An earlier version's file has no hashes, and so no row.
    table = pd.read_csv(file, index_col="row") if file.exists() else pd.DataFrame()
    table = table.reindex(columns=kept).reindex(missing)
    rows = table[table["base"] == preset.weights["base"]]
    if len(rows):
        asked = samples_hash(load_samples(preset.samples_file("test")))
        rows = rows[rows["questions"] == asked]
    titles = [f"{title} {ELSEWHERE}" for title in rows["title"]]
    return rows.set_index(pd.Index(titles, name="method"))[kept[1:-2]]


def origin_elsewhere(row: pd.Series) -> dict:
    """A row of `baselines_elsewhere` as the table of origins has one."""
    unknown = dict.fromkeys(("steps", "training questions", "seconds to evaluate"), NOTHING)
    known = {"seconds to train": round(row["seconds"], 1), "adapter": row["adapters"]}
    return unknown | known | {name: row[name] for name in ORIGIN}


def missing_baselines(preset: Preset, seeds: Sequence[int]) -> str:
    """A sentence that names the supervised baselines not in the table, and what measures them."""
    known = {baseline.title for baseline in measured_baselines(preset, seeds)}
    elsewhere = baselines_elsewhere(preset, seeds).index
    known |= {title.removesuffix(f" {ELSEWHERE}") for title in elsewhere}
    missing = [baseline for baseline in BASELINES if baseline.title not in known]
    if not missing:
        return ""
    titles = "; ".join(baseline.title for baseline in missing)
    names = ",".join(baseline.name for baseline in missing)
    return f"Not measured, so not in the table: {titles}. `make ablations ROWS={names}` does it."
