"""What a training finds again after an interruption: files of its work folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

WORK_HELP = "folder where drawn plates and finished steps are kept"


def save_whole(state: dict, path: Path) -> None:
    """Write tensors and plain values so that a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path) -> dict:
    """Read what `save_whole` wrote, onto the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def made_once(path: Path, make: Callable[[], dict]) -> dict:
    """`make()`, or what an earlier call wrote of it to `path`."""
    if not path.is_file():
        save_whole(make(), path)
    return load(path)
