"""The policy losses against TRL's, a batch in parts, and dynamic sampling against verl's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_near

from foodseg.rl.dynamic_sampling import GroupCollector, NoSignalError, has_signal
from foodseg.rl.objectives import Objective, loss_normaliser, policy_loss

VECTORS = Path(__file__).parent / "vectors"
CASES = json.loads((VECTORS / "policy_losses.json").read_text())["cases"]
NORMALISATION = {"grpo": "sequence", "bnpo": "token", "dapo": "token", "dr_grpo": "constant"}


def tensor(values: list | None) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float64)


def trl_normaliser(given: dict) -> float:
    """TRL averages over accumulated micro-batches; "dapo" counts the generation batch's tokens."""
    mask, accumulation = tensor(given["completion_mask"]), given["gradient_accumulation_steps"]
    if given["loss_type"] == "dapo":
        return given["num_items_in_batch"] * accumulation / given["steps_per_generation"]
    normalisation = NORMALISATION[given["loss_type"]]
    return loss_normaliser(normalisation, mask, given["max_completion_length"]) * accumulation


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_loss_gradient_and_figures_are_those_of_trl(case):
    given, want = case["input"], case["output"]
    log_probs = tensor(given["per_token_logps"]).requires_grad_()
    objective = Objective(
        clip_low=given["epsilon_low"],
        clip_high=given["epsilon_high"],
        kl_weight=given["beta"],
        normalisation=NORMALISATION[given["loss_type"]],
    )
    got = policy_loss(
        log_probs,
        tensor(given["old_per_token_logps"]),
        tensor(given["advantages"]),
        tensor(given["completion_mask"]),
        objective,
        reference_log_probs=tensor(given["ref_per_token_logps"]),
        normaliser=trl_normaliser(given),
    )
    got.loss.backward()
    assert got.loss.item() == pytest.approx(want["loss"], abs=1e-10)
    gradient = tensor(want["grad_per_token_logps"])
    torch.testing.assert_close(log_probs.grad, gradient, rtol=0, atol=1e-10)
    assert got.clip_low_fraction == pytest.approx(want["clip_low_mean"], abs=1e-6)  # float32
    assert got.clip_high_fraction == pytest.approx(want["clip_high_mean"], abs=1e-6)
    if "mean_kl" in want:
        assert got.kl == pytest.approx(want["mean_kl"], abs=1e-10)


def batch(rows: int = 6, length: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([5, 1, 3, 2, 4, 0])[:rows]
    log_probs = -normal(rows, length).abs()
    return {
        "log_probs": log_probs,
        "old_log_probs": log_probs + 0.3 * normal(rows, length),
        "reference_log_probs": log_probs + 0.3 * normal(rows, length),
        "advantages": normal(rows),
        "mask": torch.arange(length) < lengths[:, None],
    }


def loss_of(inputs: dict, **keywords) -> torch.Tensor:
    settings = dict(clip_low=0.2, clip_high=0.28, kl_weight=0.01, normalisation="token")
    normaliser = keywords.pop("normaliser", None)
    objective = Objective(**(settings | keywords))
    return policy_loss(**inputs, objective=objective, normaliser=normaliser).loss


@pytest.mark.parametrize("normalisation", ["sequence", "token", "constant"])
@pytest.mark.parametrize("parts", [[6], [1, 5], [2, 3, 1], [1] * 6])
def test_micro_batches_add_up_to_the_whole_batch(normalisation, parts):
    inputs = batch()
    whole = loss_normaliser(normalisation, inputs["mask"], max_length=8)
    keywords = {"normalisation": normalisation, "normaliser": whole}
    inputs["log_probs"].requires_grad_()
    total = loss_of(inputs, **keywords)
    (gradient,) = torch.autograd.grad(total, inputs["log_probs"])
    pieces = zip(*(values.split(parts) for values in inputs.values()), strict=True)
    losses = [loss_of(dict(zip(inputs, piece, strict=True)), **keywords) for piece in pieces]
    (split_gradient,) = torch.autograd.grad(sum(losses), inputs["log_probs"])
    # A token's gradient is its part of the loss, but for the KL's.
    assert_near(sum(losses), total, roundings=16, scale=gradient.abs().sum())
    assert_near(split_gradient, gradient, roundings=16)


def test_figures_by_hand():
    """Ratios 0.5, 2 and 1 of three tokens with a positive advantage."""
    objective = Objective(clip_low=0.2, clip_high=0.28, kl_weight=0.0, normalisation="token")
    got = policy_loss(
        torch.tensor([[0.5, 2.0, 1.0]]).log(),
        torch.zeros(1, 3),
        torch.ones(1),
        torch.ones(1, 3),
        objective,
        reference_log_probs=torch.zeros(1, 3),
    )
    assert got.ratio == pytest.approx(7 / 6, rel=1e-6)
    assert got.clip_high_fraction == pytest.approx(1 / 3)
    assert got.clip_low_fraction == 0  # a positive advantage is never clipped below
    # k3 = 1/r - 1 + ln r: 2 - 1 - ln 2, 0.5 - 1 + ln 2, 0
    assert got.kl == pytest.approx(0.5 / 3, rel=1e-5)


def test_figures_are_the_same_whatever_stands_in_the_padding():
    clean = batch()
    clean["advantages"] = clean["advantages"][:, None].expand_as(clean["mask"])
    dirty = {
        k: v if k == "mask" else v.masked_fill(~clean["mask"], torch.nan) for k, v in clean.items()
    }
    objective = Objective(clip_low=0.2, clip_high=0.28, kl_weight=0.01, normalisation="token")
    one, other = (policy_loss(**inputs, objective=objective) for inputs in (clean, dirty))
    assert replace(one, loss=one.loss.item()) == replace(other, loss=other.loss.item())
    none = clean | {"mask": torch.zeros_like(clean["mask"])}
    assert policy_loss(**none, objective=objective).loss.item() == 0


def test_normalisations_differ_as_they_should_and_missing_pieces_are_named():
    """Two rows of 1 and 3 tokens, advantages 1 and -1, ratio 1: the longer row weighs more."""
    inputs = {
        "log_probs": torch.zeros(2, 3, dtype=torch.float64),
        "old_log_probs": None,
        "advantages": torch.tensor([1.0, -1.0], dtype=torch.float64),
        "mask": torch.tensor([[1, 0, 0], [1, 1, 1]]),
    }
    settings = {"kl_weight": 0.0}
    assert loss_of(inputs, normalisation="sequence", **settings).item() == 0
    assert loss_of(inputs, normalisation="token", **settings).item() == 2 / 4
    assert loss_of(inputs, normalisation="constant", normaliser=2 * 10, **settings).item() == 0.1
    with pytest.raises(ValueError, match="max_length"):
        loss_of(batch(), normalisation="constant")
    with pytest.raises(ValueError, match="reference_log_probs"):
        loss_of(batch() | {"reference_log_probs": None})


def test_ratio_1_and_a_lower_bound_of_2_never_clip():
    inputs = batch()
    one_update = inputs | {"old_log_probs": None}
    tight = loss_of(one_update, clip_low=0.0, clip_high=0.0)
    assert tight.item() == loss_of(one_update, clip_low=9.0, clip_high=9.0).item()
    # The paper prints eps_low = 2.0: 1 - 2.0 lies below any ratio.
    inputs["log_probs"] = inputs["old_log_probs"] - 50
    objective = Objective(clip_low=2.0, clip_high=2.8, kl_weight=0.0, normalisation="token")
    got = policy_loss(**inputs, objective=objective)
    assert got.clip_low_fraction == 0
    assert got.ratio == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("padding", [float("nan"), float("inf"), -float("inf"), 1e9])
def test_padding_changes_neither_loss_nor_gradient(padding):
    clean, dirty = batch(), batch()
    for name in ("log_probs", "old_log_probs", "reference_log_probs"):
        dirty[name] = dirty[name].masked_fill(~dirty["mask"], padding)
    gradients = []
    for inputs in (clean, dirty):
        inputs["log_probs"].requires_grad_()
        gradients.append(torch.autograd.grad(loss_of(inputs), inputs["log_probs"])[0])
    assert loss_of(clean).item() == loss_of(dirty).item()
    assert torch.equal(*gradients)


# Dynamic sampling

SAMPLING_CASES = json.loads((VECTORS / "dynamic_sampling.json").read_text())["cases"]


def as_numbers(group: list, dtype: str) -> np.ndarray:
    return np.array([float(value) for value in group], dtype=dtype)


def collect(given: dict) -> tuple[str, GroupCollector]:
    collector = GroupCollector(
        given["train_batch_size"],
        given["max_num_gen_batches"] * len(given["generation_batches"][0]),
    )
    for number, batch in enumerate(given["generation_batches"]):
        rewards = [as_numbers(group, given["dtype"]) for group in batch]
        try:
            collector.add([(number, index) for index in range(len(batch))], rewards)
        except NoSignalError:
            return "too_many_generation_batches", collector
        if collector.full:
            return "ok", collector
    return "data_exhausted", collector


@pytest.mark.parametrize("case", SAMPLING_CASES, ids=lambda case: case["name"])
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
def test_equal_or_missing_rewards_have_no_signal_and_one_ulp_has(reward, size):
    assert not has_signal([reward] * size)
    assert has_signal([reward] * (size - 1) + [np.nextafter(reward, 9e9)])
    for missing in (float("nan"), None):
        assert not has_signal([reward, missing, reward + 1])


def test_failure_says_what_was_found():
    collector = GroupCollector(size=2, max_groups=3)
    assert collector.missing == 2
    collector.add(["a", "b"], [[0, 1], [1, 1]])
    assert collector.missing == 1
    with pytest.raises(NoSignalError, match="1 of 2 groups .* after 3 prompts"):
        collector.add(["c"], [[0, 0]])
    assert collector.take() == ["a"]
