"""TRL's GRPOTrainer on the same random model at the same shape, in a process of its own.

`python -m foodseg.bench.cuda_trl MICRO_BATCH CHECKPOINTING RESULT`: completions a forward, 1 or 0
for gradient checkpointing, and the JSON to write.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import TrainerCallback

from foodseg.bench.cuda_clock import Record, start_afresh
from foodseg.bench.cuda_work import Setting, build_samples, build_unadapted, true_setting
from foodseg.bench.trl_side import TimedTrainer, make_trainer
from foodseg.common.files import write_json

STEPS = 2  # timed; a step may take 20 s


class StepClock(TrainerCallback):
    """Seconds and peaks of every step but the first, which warms up."""

    def __init__(self):
        self.trainer: TimedTrainer | None = None
        self.records = {name: Record() for name in ("step", "rollout")}
        self.began: float | None = None

    def on_step_end(self, args, state, control, **_) -> None:
        now, rollout = self.trainer.clock(), self.trainer.seconds["rollout"]
        if self.began is not None:
            self.records["step"].add(now - self.began)
            self.records["step"].note_peak()
            self.records["rollout"].add(rollout)
        self.trainer.seconds.clear()
        start_afresh(args.device)
        self.began = self.trainer.clock()


def measure_trl(setting: Setting, micro_batch: int, checkpointing: bool) -> dict:
    """Summaries of TRL's "step" and its "rollout"; "error" where memory ran out."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        mllm = build_unadapted(setting)
        mllm.model.set_attn_implementation("sdpa")
        samples = build_samples(mllm, setting, Path(folder))
        rollouts = setting.repeats + 1
        try:
            clock.trainer = make_trainer(
                mllm,
                setting.preset(),
                setting.shape,
                samples * rollouts,
                micro_batch=micro_batch,
                rollouts=rollouts,
                folder=folder,
                callback=clock,
                model=mllm.model,
                gradient_checkpointing=checkpointing,
            )
            clock.trainer.train()
        except torch.OutOfMemoryError as error:
            return {"error": str(error).split(". ")[0]}
    return {"phases": {name: record.summary() for name, record in clock.records.items()}}


def main(micro_batch: str, checkpointing: str, result: str) -> None:
    setting = replace(true_setting(), repeats=STEPS)
    write_json(Path(result), measure_trl(setting, int(micro_batch), checkpointing == "1"))


if __name__ == "__main__":
    main(*sys.argv[1:])
