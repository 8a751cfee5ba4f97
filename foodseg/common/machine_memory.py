"""The machine's memory, and the most of it that this process has held."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def physical_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """This process's peak resident memory so far."""
    if STATUS.exists():  # Linux: getrusage's figure starts at the parent's
        return int(re.search(r"VmHWM:\s*(\d+)", STATUS.read_text())[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
