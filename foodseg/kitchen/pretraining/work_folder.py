"""What a training finds again after an interruption: files of its work folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from foodseg.common.files import whole_or_nothing

WORK_HELP = "folder where drawn plates and finished steps are kept"


def save_whole(state: dict, path: Path) -> None:
    """Write tensors and plain values so that a crash leaves the old file or the new one."""
    with whole_or_nothing(path) as partial:
        torch.save(state, partial)


def load(path: Path) -> dict:
    """Read what `save_whole` wrote, onto the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def made_once(path: Path, make: Callable[[], dict]) -> dict:
    """`make()`, or what an earlier call wrote of it to `path`."""
    if not path.is_file():
        save_whole(make(), path)
    return load(path)
