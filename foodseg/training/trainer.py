"""Train one adapter: sample, score, filter, update, log, checkpoint.

A run lives in one folder (`Preset.run_folder`, `training.run_folder`): config.json, log.jsonl (a
row a step, from which every curve is drawn), state.pt (all that the next step needs), and at the
end adapter/ and result.json. Where the mask decoder is trained as well, tool.jsonl has a row for
each step that it took before the policy's first, and adapter/ has its weights too. Kill it anywhere
and start it again: it goes on from state.pt and, on a CPU of the same make, ends with the bits that
it would have had. The checkpoint that counts is always the last step's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from foodseg.common.files import write_lines
from foodseg.common.lock import alone
from foodseg.common.processes import Processes
from foodseg.common.progress import tqdm
from foodseg.data.samples import Sample
from foodseg.models.segmenter import DECODER, save_decoder
from foodseg.presets import Preset
from foodseg.system import load_policy, one_thread
from foodseg.training.identity import check_learnable, goes_on, payable_told, run_config
from foodseg.training.log import step_row
from foodseg.training.mask_decoder import OffPolicyStage, ToolUpdater
from foodseg.training.run_folder import (
    OnStep,
    claim,
    finish,
    restore,
    save_checkpoint,
    take_steps,
)
from foodseg.training.sampler import GroupSampler
from foodseg.training.updates import PolicyUpdater
from foodseg.training.watched import Watcher

if TYPE_CHECKING:  # a training loads only the methods that its recipe uses
    from foodseg.recipes import Recipe

TOOL_LOG = "tool.jsonl"


def train(
    preset: Preset,
    recipe: Recipe,
    seed: int,
    samples: Sequence[Sample],
    on_step: OnStep | None = None,
) -> dict:
    """Train one adapter, or go on where an interrupted run stopped; returns its result.

    on_step: called after each step with the path of log.jsonl (for live curves). A finished run
    of the same configuration is returned as it is; with more `steps`, or a larger `max_rounds`
    where that makes no other step, a run goes on; one of other settings is moved aside.
    Under `accelerate launch` every process calls this alike and gets the same result; the first of
    them writes the folder. Questions that nothing in the photo answers are left out, which is said,
    unless the recipe can earn something there (`nothing`). On a CPU it computes in one thread
    (`system.one_thread`). Raises ValueError for more processes than questions in a step, DataError
    if another training is at this folder, or if there is nothing to learn from, and NoSignalError
    if dynamic sampling finds no group to learn from: the run is kept as it was before that step.
    """
    processes = _find_processes(preset)
    samples = payable_told(recipe.title, samples, recipe.nothing)
    check_learnable(preset, samples)
    folder, writes = preset.run_folder(recipe.name, seed), processes.main
    config = run_config(preset, recipe, seed, samples)
    with alone(folder) if writes else nullcontext(), one_thread(preset.device):
        if result := processes.from_main(claim(folder, config, goes_on) if writes else None):
            return result
        learner = PolicyLearner(preset, recipe, seed, samples, processes)
        rows = restore(folder, learner, writes)
        tool_rows = train_tool_first(folder, learner, preset.checkpoint_every, writes)
        title = f"{recipe.title}, seed {seed}"
        steps = recipe.budget * preset.steps
        rows = take_steps(folder, title, preset, learner, rows, on_step, writes, steps)
        return processes.from_main(
            finish(folder, config, len(rows), rows + tool_rows, learner) if writes else None
        )


class PolicyLearner:
    """The policy with its adapter, and all that a training step needs."""

    def __init__(
        self,
        preset: Preset,
        recipe: Recipe,
        seed: int,
        samples: Sequence[Sample],
        processes: Processes,
    ) -> None:
        self.mllm = load_policy(preset, recipe.prompt)
        self.mllm.add_lora(preset.lora_rank, preset.lora_alpha, seed)
        self.sampler = GroupSampler(self.mllm, preset, recipe, samples, seed, processes)
        self.updater = PolicyUpdater(self.mllm, preset, recipe, processes)
        self.watcher = Watcher(self.mllm, preset, recipe, samples, processes)
        self.tool = (
            ToolUpdater(self.sampler.features, recipe.tool, processes) if recipe.tool else None
        )
        self.first_stage = OffPolicyStage(self.tool, self.sampler) if self.tool else None

    @property
    def sampled(self) -> int:
        """Completions so far, those for the mask decoder's first stage included."""
        first = self.tool.rollouts_before if self.tool else 0
        return first * self.sampler.preset.round_size + self.sampler.sampled

    def ends(self, steps: int) -> bool:
        """Whether no further rollout fits into the budget, which counts completions, not steps.

        So every recipe samples as much: dynamic sampling takes fewer steps of more completions.
        """
        preset, budget = self.sampler.preset, self.sampler.recipe.budget
        # At least one step: at smoke's size B-GRTO's first stage alone exceeds the budget.
        left = budget * preset.steps * preset.round_size - self.sampled
        return steps > 0 and left < preset.round_size

    def step(self, index: int) -> dict:
        """One training step; returns its log row."""
        seen = self.watcher.before(index)
        batch = self.sampler.next_batch()
        last = self.ends(index + 1)
        group = self.watcher.choose(batch, index, last)
        update = self.updater.update(batch.groups, group)
        row = step_row(batch, update, self.sampler.processes) | seen
        row |= self.watcher.group_fields(batch, group) if group else {}
        if self.tool:  # the mask decoder learns after the policy, from the same groups
            row |= self.tool.update(batch.mine)
        return self.watcher.after(row) if last else row

    def state_dict(self) -> dict:
        """All that the next step needs."""
        adapter = [parameter.detach().cpu() for parameter in self.mllm.lora_parameters()]
        return {"adapter": adapter} | {n: part.state_dict() for n, part in self._parts().items()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        for parameter, value in zip(self.mllm.lora_parameters(), state["adapter"], strict=True):
            parameter.data.copy_(value)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def save(self, folder: Path) -> None:
        """Write the adapter and, if it was trained, the mask decoder."""
        self.mllm.save_adapter(folder, self.sampler.preset.name)
        if self.tool:
            save_decoder(self.tool.segmenter, folder / DECODER)

    def _parts(self) -> dict:
        parts = {"sampler": self.sampler, "updater": self.updater, "tool": self.tool}
        parts |= {"first_stage": self.first_stage}
        return {name: part for name, part in parts.items() if part}


def train_tool_first(
    folder: Path, learner: PolicyLearner, checkpoint_every: int, writes: bool
) -> list[dict]:
    """B-GRTO's stage before the policy's first step, or what is left of it; returns its log rows.

    writes: whether this process writes the folder; no rows and no log for a recipe without a tool.
    With several processes an interrupted stage begins again: each has lessons of its own.
    """
    stage = learner.first_stage
    if stage is None:
        return []
    steps = stage.updater.training.off_policy_steps
    alone, done = learner.sampler.processes.world_size == 1, len(stage.rows)
    with tqdm(None, "decoder, off-policy", steps, initial=done, disable=not writes) as bar:
        while not stage.ended:
            stage.step()
            bar.update()
            due = alone and len(stage.rows) % checkpoint_every == 0
            if writes and (due or stage.ended):
                save_checkpoint(folder, [], learner)
    if writes:
        write_lines(folder / TOOL_LOG, stage.rows)
    return stage.rows


def _find_processes(preset: Preset) -> Processes:
    processes = Processes.find(preset.device)
    if processes.world_size > preset.prompts_per_step:
        raise ValueError(
            f"{processes.world_size} processes, but prompts_per_step of preset {preset.name!r} is "
            f"{preset.prompts_per_step}: a group is not divided; start fewer."
        )
    return processes
