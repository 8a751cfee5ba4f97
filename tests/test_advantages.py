"""Advantages against TRL's and verl's outputs in float64."""

import json
from pathlib import Path

import numpy as np
import pytest

from foodseg.rl import advantages as rule
from foodseg.rl.advantages import group_advantages

VECTORS = Path(__file__).parent / "vectors"
CASES = json.loads((VECTORS / "advantages.json").read_text())["cases"]
PEERS = {"trl_group_f64": 1e-4, "verl_f64": 1e-6}  # their epsilons


# TRL forms Bessel's n / (n - 1) from integer tensors, hence in float32 even for float64 rewards:
# its std is off by up to 3e-8 of itself. We keep the exact factor.
TOLERANCE = {"trl_group_f64": 1e-7}


def pairs_of(peers):
    """Every case with each of the peers that takes its input."""
    taken = [(case, peer) for case in CASES for peer in peers if peer in case["output"]]
    return [pytest.param(*pair, id=f"{pair[0]['name']}-{pair[1]}") for pair in taken]


@pytest.mark.parametrize(("case", "peer"), pairs_of(PEERS))
def test_float64_advantages_are_the_peers(case, peer, monkeypatch):
    monkeypatch.setattr(rule, "EPSILON", PEERS[peer])
    got = group_advantages(case["input"]["reward_groups"])
    for advantages, want in zip(got, case["output"][peer], strict=True):
        if len(want) == 1:
            # verl leaves a lone reward as its own advantage; without a group there is none
            want = [0.0]
        assert advantages.tolist() == pytest.approx(want, abs=TOLERANCE.get(peer, 1e-9))


@pytest.mark.parametrize(("case", "peer"), pairs_of(TOLERANCE))
def test_float32_bessel_factor_is_all_that_trl_differs_by(case, peer, monkeypatch):
    monkeypatch.setattr(rule, "_std", trl_std)
    monkeypatch.setattr(rule, "EPSILON", PEERS[peer])
    got = group_advantages(case["input"]["reward_groups"])
    for advantages, want in zip(got, case["output"][peer], strict=True):
        assert advantages.tolist() == pytest.approx(want, abs=1e-9)


def trl_std(rewards: np.ndarray) -> float:
    valid = rewards[~np.isnan(rewards)]
    n = len(valid)
    return np.sqrt(np.var(valid) * np.float64(np.float32(n) / np.float32(n - 1))) if n > 1 else 0.0


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 16])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, 2.1, 6.7, 1e6 + 0.1, 1e-300])
def test_equal_rewards_give_exactly_zero(reward, size):
    equal, mixed = group_advantages([[reward] * size, [0.0, 1.0]])
    assert equal.tolist() == [0.0] * size
    assert mixed[1] > 0


def test_default_is_besselian_with_epsilon_1e_6():
    got, equal = group_advantages([[0.0, 7.0], [0.1, None, 0.1, 0.1, float("nan")]])
    assert got == pytest.approx(np.array([-3.5, 3.5]) / (np.sqrt(24.5) + 1e-6), abs=1e-15)
    assert equal.tolist() == [0.0] * 5  # also beside a missing one


def test_infinite_reward_is_refused():
    with pytest.raises(ValueError, match="infinite"):
        group_advantages([[1.0, float("inf")]])
