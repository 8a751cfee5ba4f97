"""What `make score` prints: the rows, what was missing or odd, and form and substance apart."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from foodseg.common.number_text import signed_interval, with_interval
from foodseg.common.tables import to_markdown
from foodseg.evaluation.external.entries import named
from foodseg.evaluation.external.rows import account_of
from foodseg.evaluation.predictions import load_predictions, paired_difference
from foodseg.presets import Preset

NOTES = {
    "missing": "questions have no answer and count as empty",
    "unknown": "entries are named after no test question and were left out",
    "many_valued": "masks have more than two values; all but 0 are foreground",
    "other_files": "files are no masks and were left out",
}


def describe(results: Sequence[dict]) -> str:
    """The scored rows as a table, and by name what was missing or odd."""
    lines = [to_markdown(pd.DataFrame(map(_line, results)).set_index("row")).rstrip()]
    lines += [nothing_sentence(result) for result in results if "n_acc" in result]
    given = account_of(results[0])
    for key, what in NOTES.items():
        if given.get(key):
            lines.append(f"{len(given[key])} {what}: {named(given[key])}.")
    for result in results:
        failures = account_of(result).get("failures", {})
        if failures:
            counts = ", ".join(f"{kind} {count}" for kind, count in failures.items())
            lines.append(f"Not read, {result['reading']}: {counts}.")
    return "\n".join(lines)


def _line(result: dict) -> dict[str, str]:
    return {
        "row": result["row"],
        "system": result["system"],
        "protocol": result["protocol"],
        "reading": result["reading"] or "masks",
        "given": f"{account_of(result)['given']} of {result['samples']}",
        "read": f"{result['parse_rate']:.0%}" if result["reading"] else "masks",
        "gIoU, 95%": with_interval(result["giou"], result["giou_interval"]),
        "cIoU, 95%": with_interval(result["ciou"], result["ciou_interval"]),
    }


def nothing_sentence(result: dict) -> str:
    """gRefCOCO's two accuracies of a row, where some questions have no target."""
    text = (
        "{row}: N-acc {n_acc:.0%} ({no_target} questions that nothing answers), T-acc {t_acc:.0%}."
    )
    return text.format(**result)


def form_sentence(preset: Preset, strict: dict, lenient: dict) -> str:
    """How much gIoU the form of the same answers costs, by plates."""
    runs = [load_predictions(preset.predictions_folder(one["row"])) for one in (lenient, strict)]
    text = signed_interval(*paired_difference(runs[:1], runs[1:]))
    return f"Form, the same answers read leniently less strictly: gIoU {text}, paired by plates."
