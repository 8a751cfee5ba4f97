"""The one error that the kit raises for input it can't use."""

from __future__ import annotations


class DataError(ValueError):
    """Input that can't be used: one sentence names the file, the field and the fix."""
