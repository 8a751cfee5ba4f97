"""Started by test_processes.py, alone or twice at once: five steps and a dropped group.

Arguments: the recipe, and for one with a tool the folder of a base whose answers can be read.
"""

import sys
from dataclasses import replace
from functools import partial

import torch

from foodseg import recipes
from foodseg.common.processes import Processes
from foodseg.data.samples import load_samples
from foodseg.methods.grto import ToolTraining
from foodseg.presets import SMOKE
from foodseg.training.sampler import draw_samples
from foodseg.training.trainer import train

# float64: batches of another size round otherwise, and among the 4,000 random numbers of a run some
# lie within float32's rounding (1e-7) of a token's share: they would pick another token.
PRESET = replace(
    SMOKE, steps=6, prompts_per_step=4, group_size=3, max_new_tokens=50, dtype="float64"
)
SEED = 3


def brevity(evidence, *, silent):
    """Fewer words pay; of one question all completions are paid alike."""
    if evidence.sample.sample_id == silent:
        return 0.0
    return -float(len(evidence.answer.completion)) / 100


def main() -> None:
    preset = PRESET
    if sys.argv[2:]:  # only answers that can be read teach a tool
        preset = replace(preset, mllm=sys.argv[2], max_new_tokens=160)
    samples = load_samples(preset.samples_file("train"))
    # The first question of the first round: the first process's. Its group is dropped.
    silent = draw_samples(samples, SEED, 0, 1)[0].sample_id
    reward = (partial(brevity, silent=silent), recipes.GRPO.reward[1])
    recipe = replace(getattr(recipes, sys.argv[1]), name="run", reward=reward)
    if sys.argv[2:]:
        recipe = replace(recipe, tool=ToolTraining(off_policy_steps=2, off_policy_rounds=1))
    result = train(preset, recipe, SEED, samples)
    assert result["steps"] == 5  # a dropped group, or the tool's first stage, costs one
    assert train(preset, recipe, SEED, samples) == result  # finished: every process gets it
    processes = Processes.find(preset.device)
    for index in range(processes.world_size):  # in order
        if index == processes.rank:
            print(f"process {index} of {processes.world_size}", flush=True)
        processes.gather([])
    if processes.world_size > 1:
        # Left to the interpreter's end, gloo's threads now and then outlive it, and it aborts.
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
