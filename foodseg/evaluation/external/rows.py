"""The rows of other systems: which names they may have, and which have been scored."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from foodseg.common.errors import DataError
from foodseg.common.files import load_json
from foodseg.presets import Preset

# generate-then-segment: the system answered the question by itself, as every row of ours does.
# teacher-forced: its masks were read while it was made to say the data's own answer.
PROTOCOLS = ("generate-then-segment", "teacher-forced")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Names of the kit's own rows: an untrained one, or a method with its seed.
_OURS = re.compile(r"(base|bound)(-.*)?|knowledge|.*-seed.*")


@dataclass(frozen=True)
class ExternalRow:
    """One scored system; `name` is its folder under the preset's predictions.

    reading: how its completions were read; "" if it handed in masks.
    """

    name: str
    system: str
    protocol: str
    reading: str = ""

    @property
    def title(self) -> str:
        """The row's title in the table, always with the protocol."""
        return ", ".join(filter(None, (self.system, self.protocol, self.reading)))

    @property
    def fields(self) -> dict[str, str]:
        """What result.json has of it, beside the name."""
        return {"system": self.system, "protocol": self.protocol, "reading": self.reading}


def external_rows(preset: Preset) -> list[ExternalRow]:
    """Every system that has been scored with the preset's questions, by title."""
    files = preset.runs_folder.glob("predictions/*/result.json")
    results = [load_json(file) for file in files]
    return sorted(filter(None, map(external_row, results)), key=lambda row: row.title)


def external_row(result: dict) -> ExternalRow | None:
    """The system of a result.json; None for a row of the kit's own."""
    if "system" not in result:
        return None
    fields = result["row"], result["system"], result["protocol"], result.get("reading", "")
    return ExternalRow(*fields)


def rows_of_readings(row: ExternalRow, lenient: str) -> tuple[ExternalRow, ExternalRow]:
    """The strict and the lenient row of a system's completions; lenient: how it was read."""
    return (
        replace(row, name=f"{row.name}-strict", reading="strict"),
        replace(row, name=f"{row.name}-lenient", reading=f"lenient: {lenient}"),
    )


def account_of(result: dict) -> dict:
    """What was handed in, of an external row's result."""
    return result["completions" if result.get("reading") else "masks"]


def check_row(preset: Preset, row: ExternalRow) -> None:
    """Raises DataError for a name or a title that is taken, or that can't name a folder."""
    if row.protocol not in PROTOCOLS:
        fix = f"say how the answers were made, {' or '.join(PROTOCOLS)}"
        raise DataError(f"protocol: {row.protocol!r} is none; {fix}.")
    if not _NAME.fullmatch(row.name) or _OURS.fullmatch(row.name):
        why = "is no name for another system's row; use letters, digits, dots and dashes"
        own = "no name of the kit's own rows, such as base or grpo-seed0"
        raise DataError(f"name: {row.name!r} {why}, and {own}.")
    if not row.system.strip() or not row.system.isprintable():
        raise DataError(f"system: {row.system!r} is no title; write the system's name.")
    for other in external_rows(preset):
        if other.title == row.title and other.name != row.name:
            fix = "give this one another system's name, or the same row's name to replace it"
            raise DataError(f"system: the row {other.name!r} is {row.title!r} already; {fix}.")
