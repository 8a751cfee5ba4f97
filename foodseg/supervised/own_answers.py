"""The base's own right answers, to be taught by supervised fine-tuning.

This baseline tests what reinforcement adds (it is also called rejection sampling, or one round of
expert iteration): sample as many completions as a recipe may, keep those that are right, and
fine-tune on them. Right is an answer in the form asked for that finds every food, each by a box of
an IoU above 0.5. All that the reward pays for, tight boxes and centre points too, a base hardly
ever gives.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import read_sealed, write_sealed
from foodseg.common.progress import tqdm
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.presets import Preset
from foodseg.recipes import GRPO
from foodseg.rl.evidence import Evidence
from foodseg.rl.groups import Group
from foodseg.training.sampler import GroupSampler

FILE = "own_answers.txt"  # below the seal, JSON


def own_answers(
    folder: Path, preset: Preset, seed: int, samples: Sequence[Sample], mllm: Mllm
) -> list[Sample]:
    """Samples in which a right completion of the base stands for the data's answer.

    A question has as many as it has right completions. They are written to FILE of the run's folder
    after each rollout; sampling goes on after the last. Raises DataError if no completion is right,
    or if the file was changed.
    """
    by_id, file = {sample.sample_id: sample for sample in samples}, folder / FILE
    if not file.exists() or _read(file)["sampler"]["rounds"] < preset.steps:
        _sample(file, GroupSampler(mllm, preset, GRPO, samples, seed))
    kept = [(by_id[row["sample_id"]], row["completion"]) for row in _read(file)["right"]]
    if not kept:
        raise DataError(f"{folder.name}: none of the base's completions is right; sample more.")
    return [replace(sample, answer=completion) for sample, completion in kept]


def is_right(evidence: Evidence) -> bool:
    """The whole format reward, and the IoU criterion met by every object and every reference."""
    return evidence.score.format >= 3 and evidence.score.iou >= 1


def _sample(file: Path, sampler: GroupSampler) -> None:
    """Write the right ones among the completions of all questions that a recipe's run would ask."""
    steps = sampler.preset.steps
    known = _read(file) if file.exists() else {"sampler": sampler.state_dict(), "right": []}
    sampler.load_state_dict(known["sampler"])
    with tqdm(None, f"{sampler.preset.name}: own answers", steps, initial=sampler.rounds) as bar:
        while sampler.rounds < steps:
            right = known["right"] + _right(sampler.next_batch().seen)
            known = {"sampler": sampler.state_dict(), "right": right}
            write_sealed(file, json.dumps(known, indent=1).encode())
            bar.update()


def _right(groups: Sequence[Group]) -> list[dict[str, str]]:
    return [
        {"sample_id": group.sample.sample_id, "completion": one.answer.completion}
        for group in groups
        for one in group.evidence
        if is_right(one)
    ]


def _read(file: Path) -> dict:
    return json.loads(bytes(read_sealed(file, "remove it: it is made again")))
