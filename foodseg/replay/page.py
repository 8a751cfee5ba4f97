"""The page itself: its words, style and script, with the values of `replay.data` in them."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from foodseg.common.files import write_atomically
from foodseg.presets import Preset
from foodseg.replay.data import Pages
from foodseg.replay.runs import find_runs

MOST_BYTES = 5_000_000


def write_page(preset: Preset, path: Path) -> dict[str, list[str]]:
    """Write the preset's page; returns the names of the runs that it shows, and of the others.

    The keys: "shown"; "old", whose logs have no answers of earlier steps; "too much", those that
    would have made the file larger than MOST_BYTES. Raises DataError as `find_runs`.
    """
    pages, runs = Pages(preset), find_runs(preset)
    names: dict[str, list[str]] = {"shown": [], "old": [], "too much": []}
    values = pages.frame(runs) | {"runs": []}
    text = ""
    for run in runs:
        if names["too much"]:  # what would follow is no smaller
            names["too much"].append(run.name)
            continue
        one = pages.run(run)
        more = values | {"runs": [*values["runs"], one]}
        grown = _text(more | {"questions": pages.questions, "photos": pages.photos})
        if len(grown.encode()) > MOST_BYTES:
            names["too much"].append(run.name)
        else:
            names["old" if one["problem"] else "shown"].append(run.name)
            values, text = more, grown
    write_atomically(path, text.encode())
    return names


def _text(values: dict) -> str:
    folder = files(__package__) / "page"
    page, style, script = ((folder / f"replay.{kind}").read_text("utf-8") for kind in PARTS)
    # No word of a model's may end the script that holds it.
    data = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    return page.replace("/*style*/", style).replace("/*script*/", script).replace("/*data*/", data)


PARTS = ("html", "css", "js")
