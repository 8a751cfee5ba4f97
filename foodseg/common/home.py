"""Where the checkout is, and where datasets and runs are."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The checkout, or the absolute folder that the variable FOODSEG_HOME names."""
    return Path(os.environ.get("FOODSEG_HOME") or PROJECT).absolute()
