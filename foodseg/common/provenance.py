"""Where a result comes from: code, versions, machine, data and weights, as plain JSON values."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from foodseg.common.files import PROJECT

CPU_INFO = Path("/proc/cpuinfo")
PACKAGES = ("torch", "transformers", "peft", "sam2", "numpy", "scipy")


def provenance(device: str) -> dict:
    """Commit, versions and machine of a result that was computed on `device` (cpu, cuda)."""
    return {
        "commit": find_commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "device": _device(device),
        "processor": processor_name(),
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


def processor_name() -> str:
    """The processor's model, such as "AMD EPYC 9B14", else its make: another rounds otherwise."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    found = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return " ".join(found[0].split()) if found else platform.processor() or platform.machine()


def _device(device: str) -> str:
    if device.partition(":")[0] == "cuda":
        import torch  # it takes seconds, and a CPU's name doesn't need it

        return torch.cuda.get_device_name(torch.device(device))
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"
