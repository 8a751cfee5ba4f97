"""Where a result comes from: code, versions, machine, data and weights, as plain JSON values."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

PROJECT = Path(__file__).resolve().parents[1]
LARGE = 2**28  # bytes; files of so many are hashed once, as long as they stay as they are
PACKAGES = ("torch", "transformers", "peft", "sam2", "numpy", "scipy")


def provenance(device: str) -> dict:
    """Commit, versions and machine of a result that was computed on `device` (cpu, cuda)."""
    return {
        "commit": find_commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "device": _device(device),
    }


def find_commit() -> str:
    """The checkout's commit, with "+" if files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(PROJECT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "foodseg", ":(glob)notebooks/*.ipynb"],
            capture_output=True,
        )
    except FileNotFoundError:
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.decode().strip() + ("+" if changed.stdout else "")


def _device(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def file_hash(path: Path) -> str:
    """First 16 hexadecimal digits of the file's SHA-256."""
    return files_hash([path])


def files_hash(paths: Iterable[Path]) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the files' contents, in order of path."""
    paths = tuple(sorted(paths))
    stats = [path.stat() for path in paths]
    if sum(stat.st_size for stat in stats) < LARGE:
        return _digest(paths)
    return _known_digest(paths, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=16)
def _known_digest(paths: tuple[Path, ...], _states: tuple[tuple[int, int], ...]) -> str:
    """Gigabytes take seconds to read, and a run's identity is asked for often."""
    return _digest(paths)


def _digest(paths: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()[:16]


def as_json(value: Any) -> Any:
    """Settings as JSON values: dataclasses, functions, numbers, text, and sequences of them.

    A function is its module, name and source, a partial is that and its arguments, so settings
    that differ give values that differ; what a function calls or reads elsewhere is not seen.
    Raises ValueError for what can't be told apart: other objects, and functions without a name,
    with captured variables, or of which no source can be read.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [as_json(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, partial):
        keywords = {name: as_json(one) for name, one in sorted(value.keywords.items())}
        return as_json(value.func) | {"arguments": as_json(value.args), "keywords": keywords}
    if inspect.isfunction(value) and value.__name__ != "<lambda>" and not value.__closure__:
        source = _source(value).encode()
        name = f"{value.__module__}.{value.__qualname__}"
        return {"function": name, "source": hashlib.sha256(source).hexdigest()[:16]}
    raise ValueError(
        f"settings: {value!r} can't be written down; give numbers, text, and named functions of a "
        "file or of a notebook's cell, with their own settings by functools.partial."
    )


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except OSError:
        raise ValueError(
            f"settings: the source of {function.__qualname__} can't be read; write it in a file or "
            "in a notebook's cell."
        ) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines, atomically."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_lines(path: Path) -> list[dict]:
    """Rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
