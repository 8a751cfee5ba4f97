"""JSON of others: what two readers could read otherwise is refused.

Python takes NaN and Infinity, a number beyond a double as infinity, and of a key that an object has
twice the last.
"""

from __future__ import annotations

import json
import math
from typing import Any


class JsonError(ValueError):
    """Why a text is no JSON that can be used; it says where, if that is known."""


def read_json(text: str) -> Any:
    """The value of one JSON text. Raises JsonError."""
    try:
        return json.loads(
            text, object_pairs_hook=_once, parse_constant=_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise JsonError(f"{error.msg} at {where if error.lineno > 1 else where[8:]}") from error
    except RecursionError as error:
        raise JsonError("it nests too deeply") from error
    except ValueError as error:  # also an integer of more digits than Python takes
        raise JsonError(str(error)) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise JsonError(f"the key {key!r} stands there twice")
        found[key] = value
    return found


def _constant(text: str) -> None:
    raise JsonError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise JsonError(f"the number {text[:20]} is too large")
    return value
