"""What the paper preset lacks here and will cost, before anything is fetched: `make doctor`.

This file imports nothing of it: what a notebook imports decides when make runs it again.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from foodseg.common.errors import DataError
from foodseg.common.files import PROJECT

if TYPE_CHECKING:
    from foodseg.presets import Preset


def examine(preset: Preset, door: str = "all", seeds: str = "0,1,2") -> None:
    """Print what the doctor says; raises DataError with the problems if it can't work.

    door: "all", or "data" for what needs neither a GPU nor weights. seeds: of the trainings. A
    preset that draws its own plates asks for nothing. In a process of its own: one that has used
    the GPU can't start others to train on several.
    """
    if preset.train_plates:
        return
    command = [sys.executable, "-m", "foodseg.doctor", door, "--seeds", seeds]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    print(done.stdout, end="")
    if done.returncode:
        raise DataError(done.stderr.strip())
