"""The benchmark on a GPU: Qwen2.5-VL-3B in true sizes, random bfloat16 weights, known floor.

    python -m foodseg.bench.cuda                        # all stages, some 10 minutes on an H200
    python -m foodseg.bench.cuda check step             # some of them, in this order
    python -m foodseg.bench.cuda memory trl --figures figures --commit 0123456789ab

Stages, each with a part of figures/benchmark_cuda.json, which is written whenever something was
measured, so that a time limit costs only what it cuts off (minutes are estimates, not measured):

    check   is the fast way right on this device: log-probabilities and gradients of packed rows,
            the sampler's log-probabilities, its tokens, the vision tower (about 1 minute)
    step    every phase beside its floor, the whole step with one update and with two, and the
            ceilings of copying and multiplying on this very card (about 2 minutes)
    memory  the step where PyTorch may take 24, 48 or 80 GB, each in a fresh process (3 minutes)
    trl     TRL's GRPOTrainer at the same shape (3 to 6 minutes; needs the `bench` extra)

What is needed: a CUDA GPU with bfloat16 and 24 GB (60 GB for `check`, whose reference is in
float32); PyTorch 2.11 or later; the package's dependencies; no network, no weights, no data.
`--commit` names the code's commit where the checkout's history is not at hand. Afterwards
`make bench` puts the numbers into figures/benchmark.md. Where there is no GPU, one sentence says so
and nothing is written.

Where a command may run for ten minutes only, three do it, the first two with time to spare:

    python -m foodseg.bench.cuda check; python -m foodseg.bench.cuda step
    python -m foodseg.bench.cuda memory
    python -m foodseg.bench.cuda trl
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from foodseg.bench.cuda_checks import run_checks
from foodseg.bench.cuda_clock import GIGABYTE, measure
from foodseg.bench.cuda_phases import WITHOUT_KL, measure_rollout, measure_step
from foodseg.bench.cuda_work import Setting, build_policy, build_samples, true_setting
from foodseg.common.files import PROJECT, write_json
from foodseg.common.provenance import provenance
from foodseg.recipes import GRPO

RESULT = "benchmark_cuda.json"
CAPS = (24, 48, 80)
# Completions a forward and whether layers are checkpointed: what a user of TRL would try.
TRL_TRIALS = ((8, False), (8, True), (16, True))
CHILD_SECONDS = 180


def check_stage(setting: Setting) -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as folder:
        yield run_checks(setting, Path(folder))


def step_stage(setting: Setting) -> Iterator[dict]:
    """Phases of the rollout, and the step with and without a KL term."""
    with tempfile.TemporaryDirectory() as folder:
        mllm = build_policy(setting)
        samples = build_samples(mllm, setting, Path(folder))
        yield {"ceilings": measure_ceilings(mllm.device)}
        yield {"rollout": measure_rollout(mllm, setting, samples)}
        for name, updates, recipe in (
            ("floor", 1, WITHOUT_KL),
            ("one update", 1, GRPO),
            ("two updates", 2, GRPO),
        ):
            yield {name: measure_step(mllm, setting, samples, updates=updates, recipe=recipe)}


def measure_ceilings(device: torch.device, side: int = 8192) -> dict:
    """Bytes a second (read and written) of a large copy, bfloat16 operations of a large product."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(side, side, device=device, generator=generator).bfloat16() for _ in range(2)
    )
    source = torch.randn(8 * side * side, device=device, generator=generator)
    target = torch.empty_like(source)
    product = measure(lambda: [a @ b for _ in range(10)], 5, device)["seconds"] / 10
    copy = measure(lambda: [target.copy_(source) for _ in range(10)], 5, device)["seconds"] / 10
    return {
        "tflops": round(2 * side**3 / product / 1e12, 1),
        "tb_per_second": round(2 * source.nbytes / copy / 1e12, 2),
    }


def memory_stage(setting: Setting) -> Iterator[dict]:
    total = torch.cuda.get_device_properties(0).total_memory
    for cap in (cap for cap in CAPS if cap * GIGABYTE <= total):
        yield {str(cap): run_child("foodseg.bench.cuda_capped", cap)}


def trl_stage(setting: Setting) -> Iterator[dict]:
    """Each trial by "micro-batch, checkpointed"; also what stopped the ones that did not run."""
    for micro_batch, checkpointed in TRL_TRIALS:
        name = f"{micro_batch}{', checkpointed' * checkpointed}"
        yield {name: run_child("foodseg.bench.cuda_trl", micro_batch, int(checkpointed))}


# Each yields its result piece by piece.
STAGES = {"check": check_stage, "step": step_stage, "memory": memory_stage, "trl": trl_stage}


def run_child(module: str, *arguments: object) -> dict:
    """The JSON that `python -m module arguments... RESULT` writes, or {"error": why there is none}.

    A fresh process: its own peak memory, and what it breaks stays broken there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", module, *map(str, arguments), str(path)]
        try:
            child = subprocess.run(
                command, stderr=subprocess.PIPE, text=True, timeout=CHILD_SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {CHILD_SECONDS} s"}
        if path.exists():
            return json.loads(path.read_text())
        sys.stderr.write(child.stderr)
        last = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        return {"error": last[0]}


def run_stages(
    stages: Sequence[str], setting: Setting, figures: Path, commit: str | None = None
) -> None:
    """Run these stages one after another; what a stage has found is written at once."""
    path = figures / RESULT
    for stage in stages:
        facts = provenance(setting.device) | {"date": time.strftime("%Y-%m-%d")}
        facts["commit"] = commit or facts["commit"]
        part = {"measured": {key: facts[key] for key in ("date", "commit", "device")}}
        start = time.perf_counter()
        for piece in STAGES[stage](setting):
            part |= piece
            print(f"{stage}, {time.perf_counter() - start:.0f} s: {json.dumps(piece)}", flush=True)
            before = json.loads(path.read_text()) if path.exists() else {}
            write_json(path, before | facts | {"setting": setting.facts(), stage: part})
        # What follows, or another process, needs the memory.
        gc.collect()
        if setting.device == "cuda":
            torch.cuda.empty_cache()


def run_cuda(figures: Path) -> None:
    """All stages on this machine's GPU; writes figures/benchmark_cuda.json."""
    run_stages(list(STAGES), true_setting(), figures)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m foodseg.bench.cuda")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--figures", type=Path, default=PROJECT / "figures")
    parser.add_argument("--commit")
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"stage {min(unknown)} is unknown; use some of {', '.join(STAGES)}.")
    if not torch.cuda.is_available():
        print("No CUDA GPU here: the GPU benchmark is left out, its last table stays as it is.")
        return
    run_stages(options.stages or list(STAGES), true_setting(), options.figures, options.commit)


if __name__ == "__main__":
    main()
