"""What another system handed in as JSON, entry by entry, and what is told of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.strict_json import read_json
from foodseg.data.foodseg103 import Problem

NAMED = 20  # of a long list; result.json has all


def read_entries(
    path: Path, ids: Sequence[str], keys: Sequence[str]
) -> list[tuple[str, object, object]]:
    """(field, sample id, value) of every entry of a JSON-lines or JSON file; None for what lacks.

    ids, keys: the names that the id and the value may have. A JSON file may also be one object of
    values by sample id. Raises DataError for broken JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            # Not splitlines(): a text in JSON may hold U+2028, which ends a line to that.
            lines = enumerate(text.split("\n"), start=1)
            items = [(f"line {number}", read_json(line)) for number, line in lines if line.strip()]
        elif isinstance(value := read_json(text), dict):
            return [(f"[{key!r}]", key, one) for key, one in value.items()]
        else:
            items = [(f"[{i}]", item) for i, item in enumerate(value)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: broken JSON ({error}); write it again.") from error
    rows = [(field, item if isinstance(item, dict) else {}) for field, item in items]
    return [(field, _first(row, ids), _first(row, keys)) for field, row in rows]


def _first(row: dict, names: Sequence[str]) -> object:
    return next((row[name] for name in names if name in row), None)


def by_sample(
    path: Path, entries: Iterable[tuple[str, object, object]], kind: type, fix: str
) -> tuple[dict[str, tuple[str, object]], list[Problem]]:
    """sample id -> (field, value), and the faults.

    kind: of the values; fix: what to write in place of an entry that is none.
    """
    found: dict[str, tuple[str, object]] = {}
    problems = []
    for field, sample_id, value in entries:
        if not isinstance(sample_id, str) or not isinstance(value, kind):
            problems.append(Problem(path.name, field, "wrong shape", fix))
        elif sample_id in found:
            again = f"{sample_id!r} stands in {found[sample_id][0]} already; write one"
            problems.append(Problem(path.name, field, "repeated sample_id", again))
        else:
            found[sample_id] = field, value
    return found, problems


def account(path: Path, asked: Sequence[str], given: Collection[str], sha256: str) -> dict:
    """Of which questions something was handed in, for result.json.

    asked, given: sample ids; sha256: of what was handed in. Raises DataError if it is about none of
    the questions.
    """
    known = set(given) & set(asked)
    if not known:
        why = f"none of its {len(given)} entries is named after a test question"
        raise DataError(f"{path}: {why}; name them by sample id, as in {asked[0]}.")
    return {
        "given": len(known),
        "missing": [sample_id for sample_id in asked if sample_id not in known],
        "unknown": sorted(set(given) - known),
        "sha256": sha256,
        "source": path.resolve().name,
    }


def named(items: Iterable[object], separator: str = ", ") -> str:
    """The first of a long list by name, and how many more there are."""
    texts = [str(item) for item in items]
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return separator.join(texts[:NAMED] + more)
