"""One step under a cap on memory, in a process of its own: what does a smaller card do?

`python -m foodseg.bench.cuda_capped CAP RESULT`: CAP in GB (10^9 bytes), RESULT the JSON to write.
A card's 24 GB are 25.8 of these, so a cap of 24 leaves what CUDA itself takes beside PyTorch.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from foodseg.bench.cuda_clock import GIGABYTE
from foodseg.bench.cuda_phases import WITHOUT_KL, measure_step
from foodseg.bench.cuda_work import Setting, build_policy, build_samples, true_setting
from foodseg.common.files import write_json


def measure_capped(setting: Setting) -> dict:
    """Plan, seconds and peak of the floor's step in this process; "error" where it ran out."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            mllm = build_policy(setting)
            samples = build_samples(mllm, setting, Path(folder))
            return measure_step(mllm, setting, samples, updates=1, recipe=WITHOUT_KL)
    except torch.OutOfMemoryError as error:
        return {"error": str(error).split(". ")[0]}


def main(cap: str, result: str) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, float(cap) * GIGABYTE / total))
    write_json(Path(result), measure_capped(true_setting()))


if __name__ == "__main__":
    main(*sys.argv[1:])
