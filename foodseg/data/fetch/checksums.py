"""What is known of downloaded files: their SHA-256, in a small JSON file beside the data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256, write_json
from foodseg.data.foodseg103 import Problem


@dataclass(frozen=True)
class Remembered:
    """What is known of a file: its sum, its size, its place, and whose word the sum is."""

    sha256: str
    bytes: int
    source: str
    word: str  # "published" or "first seen"


class Checksums:
    """The sums of downloaded files by name."""

    def __init__(self, path: Path):
        """Raises DataError for a file that is there and can't be read."""
        self.path = path
        self._known: dict[str, Remembered] = {}
        try:
            if path.is_file():
                entries = json.loads(path.read_text(encoding="utf-8"))
                self._known = {name: Remembered(**entry) for name, entry in entries.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: no list of checksums ({error}); remove the file.") from error

    def get(self, name: str) -> Remembered | None:
        """What is remembered of a file, None if it is new."""
        return self._known.get(name)

    def remember(self, name: str, path: Path, sha256: str, source: str, word: str) -> None:
        """Notes a file's sum, at once on disk too."""
        self._known[name] = Remembered(sha256, path.stat().st_size, source, word)
        write_json(self.path, {name: asdict(self._known[name]) for name in sorted(self._known)})

    def check(self, name: str, path: Path) -> Problem | None:
        """The fault of a file that differs from what is remembered; a new file is remembered."""
        found, known = file_sha256(path), self.get(name)
        if known is None:
            self.remember(name, path, found, "put there by hand", "first seen")
        if known is None or known.sha256 == found:
            return None
        sums = f"it has {found[:12]}…, {known.sha256[:12]}… is {known.word}"
        entry = f"its entry in {self.path.name} if it is meant to differ"
        fix = f"{sums}; remove the file to fetch it again, or {entry}"
        return Problem(name, "sha256", "changed since it was fetched", fix)
