"""Dynamic sampling against verl's DAPO recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foodseg.rl.dynamic_sampling import GroupCollector, NoSignalError, has_signal

VECTORS = Path(__file__).parent / "vectors"
CASES = json.loads((VECTORS / "dynamic_sampling.json").read_text())["cases"]


def as_numbers(group: list, dtype: str) -> np.ndarray:
    return np.array([float(value) for value in group], dtype=dtype)


def collect(given: dict) -> tuple[str, GroupCollector]:
    collector = GroupCollector(given["train_batch_size"], given["max_num_gen_batches"])
    for number, batch in enumerate(given["generation_batches"]):
        rewards = [as_numbers(group, given["dtype"]) for group in batch]
        try:
            collector.add([(number, index) for index in range(len(batch))], rewards)
        except NoSignalError:
            return "too_many_generation_batches", collector
        if collector.full:
            return "ok", collector
    return "data_exhausted", collector


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_collects_the_groups_that_verl_collects(case):
    given, want = case["input"], case["output"]
    outcome, collector = collect(given)
    assert (outcome, collector.rounds) == (want["outcome"], want["num_gen_batches"])
    kept = [
        [i for i, group in enumerate(batch) if has_signal(as_numbers(group, given["dtype"]))]
        for batch in given["generation_batches"][: collector.rounds]
    ]
    if case["name"].startswith("identical_"):
        # numpy's std of equal numbers is not always 0, so verl keeps some; ours are none
        assert kept == [[]]
        return
    assert kept == want["kept_groups"]
    assert collector.kept == want["num_prompts_accumulated"]
    if outcome == "ok":
        taken = [
            [batch, group, response]
            for batch, group in collector.take()
            for response in range(len(given["generation_batches"][batch][group]))
        ]
        assert taken == want["train_trajectories"]


@pytest.mark.parametrize("size", [2, 3, 6, 7, 8])
@pytest.mark.parametrize("reward", [0.1, 0.7, 2.1, 6.7, 1e6 + 0.1])
def test_equal_rewards_have_no_signal_and_one_ulp_has(reward, size):
    assert not has_signal([reward] * size)
    assert has_signal([reward] * (size - 1) + [np.nextafter(reward, 9e9)])


def test_a_missing_reward_has_no_signal():
    assert not has_signal([1.0, float("nan"), 2.0])
    assert not has_signal([1.0, None, 2.0])


def test_failure_says_what_was_found():
    collector = GroupCollector(size=2, max_rounds=2)
    collector.add(["a", "b"], [[0, 1], [1, 1]])
    with pytest.raises(NoSignalError, match="1 of 2 groups .* 2 rounds of 4 prompts"):
        collector.add(["c", "d"], [[0, 0], [1, 1]])
    with pytest.raises(RuntimeError, match="only 1 of 2"):
        collector.take()
