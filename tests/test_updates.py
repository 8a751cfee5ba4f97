"""A rollout's updates against a plain loop over all groups, also when memory runs out."""

import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import kitchen_policy, toy_rollouts

from foodseg.models.fast.layers import training_layers
from foodseg.models.shared_prefix import completion_mask, score_groups
from foodseg.presets import SMOKE
from foodseg.recipes import DAPO, GRPO
from foodseg.rl.advantages import group_advantages, whole_completion
from foodseg.rl.objectives import k3, loss_normaliser, policy_loss
from foodseg.training import forwards
from foodseg.training.memory import GroupTokens, plan_memory
from foodseg.training.optimizer import MAX_GRADIENT_NORM
from foodseg.training.updates import PolicyUpdater

PRESET = replace(
    SMOKE, learning_rate=1e-3, warmup_steps=0, max_new_tokens=16, updates_per_rollout=2
)
REWARDS = ([1.0, 0.0, 3.0, 2.0], [2.0, 2.0, 2.0, 2.0], [0.0, 5.0, 0.0, 0.0])
EQUAL = ([1.0] * 4, [2.0] * 4, [0.0] * 4)
WITHOUT_KL = replace(GRPO, objective=replace(GRPO.objective, kl_weight=0.0))
CONSTANT = replace(DAPO, objective=replace(DAPO.objective, normalisation="constant"))


@pytest.fixture()
def make(exact_norms):
    """A policy in a dtype, always the same, and three groups that it has sampled."""

    def policy(dtype=torch.float32):
        mllm = kitchen_policy(dtype, scale=0.02)
        return mllm, toy_rollouts(mllm, 4, PRESET.max_new_tokens, seed=3)

    return policy


def scored(rollouts, rewards=REWARDS):
    return [SimpleNamespace(rollout=r, rewards=x) for r, x in zip(rollouts, rewards, strict=True)]


def adapter(mllm):
    return [parameter.detach().clone() for parameter in mllm.lora_parameters()]


def run(mllm, rollouts, recipe, rewards=(REWARDS,), preset=PRESET, score=score_groups):
    """A step for each list of rewards; the log rows and the adapter."""
    updater = PolicyUpdater(mllm, preset, recipe, score=score)
    return [updater.update(scored(rollouts, one)) for one in rewards], adapter(mllm)


def plain_run(mllm, rollouts, recipe, rewards=(REWARDS,), given=None):
    """The same without leaving anything out: every group, one after another, in every step.

    given: advantages of the groups, instead of those of the rewards.
    """
    objective = recipe.objective
    parameters, layers = mllm.lora_parameters(), training_layers(mllm.language_model)
    optimizer = torch.optim.AdamW(parameters, lr=PRESET.learning_rate, weight_decay=0.01)
    mask = completion_mask(rollouts)
    normaliser = loss_normaliser(objective.normalisation, mask, PRESET.max_new_tokens)
    with layers:
        with torch.no_grad(), mllm.reference_policy():
            reference = [score_groups(mllm, [rollout]).log_probs for rollout in rollouts]
        for one in rewards:
            advantages = given or [torch.tensor(a).float() for a in group_advantages(one)]
            with torch.no_grad():
                old = [score_groups(mllm, [rollout]).log_probs for rollout in rollouts]
            for _ in range(PRESET.updates_per_rollout):
                optimizer.zero_grad()
                for fixed in zip(rollouts, old, advantages, reference, strict=True):
                    scores = score_groups(mllm, [fixed[0]])
                    policy_loss(
                        scores.log_probs,
                        *fixed[1:3],
                        scores.mask,
                        objective,
                        reference_log_probs=fixed[3],
                        normaliser=normaliser,
                    ).loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
                optimizer.step()
    return adapter(mllm)


def largest_difference(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("recipe", [GRPO, WITHOUT_KL, DAPO, CONSTANT])
def test_leaving_out_what_has_no_gradient_changes_no_bit(make, recipe):
    start = adapter(make()[0])
    _, ours = run(*make(), recipe)
    theirs = plain_run(*make(), recipe)
    assert largest_difference(ours, start) > 1e-4
    # Bits: the same operations on the same shapes, and what is left out would add zeros.
    assert largest_difference(ours, theirs) == 0


def test_a_step_without_any_signal_does_what_it_did_when_nothing_was_left_out(make):
    """AdamW's momentum and weight decay go on at a gradient of exactly 0."""
    rows, ours = run(*make(), DAPO, (REWARDS, EQUAL))
    assert largest_difference(ours, plain_run(*make(), DAPO, (REWARDS, EQUAL))) == 0
    assert largest_difference(ours, run(*make(), DAPO)[1]) > 1e-5
    assert rows[1]["gradient_norm"] == 0 and rows[1]["entropy"] > 0


def spread(groups, tokenizer):
    """The holistic rule, spelled out token by token."""
    return [
        [np.full(len(tokens), a) for tokens, a in zip(group.rollout.tokens, one, strict=True)]
        for group, one in zip(groups, whole_completion(groups, tokenizer), strict=True)
    ]


def rising(groups, tokenizer):
    """Advantages that differ from token to token; one completion of each group has a number."""
    return [
        [one[0], *(a * np.linspace(-1, 2, len(a)) for a in one[1:])]
        for one in ([row[0][0], *row[1:]] for row in spread(groups, tokenizer))
    ]


RISING = replace(GRPO, name="rising", advantages=rising)


@pytest.mark.parametrize("recipe", [GRPO, DAPO])
def test_equal_advantages_of_all_tokens_are_those_of_the_completion(make, recipe):
    row, ours = run(*make(), replace(recipe, advantages=spread))
    expected, theirs = run(*make(), recipe)
    assert largest_difference(ours, theirs) == 0
    assert row[0]["loss"] == expected[0]["loss"]


@pytest.mark.parametrize("recipe", [GRPO, DAPO, CONSTANT])
def test_advantages_of_tokens_reach_their_tokens(make, recipe):
    """One group after another in a plain loop, which pads nothing."""
    recipe = replace(recipe, advantages=rising)
    _, ours = run(*make(), recipe)
    mllm, rollouts = make()
    groups = scored(rollouts)
    advantages = [
        torch.nn.utils.rnn.pad_sequence(
            [
                torch.as_tensor(np.broadcast_to(a, len(tokens)).copy(), dtype=torch.float32)
                for a, tokens in zip(one, group.rollout.tokens, strict=True)
            ],
            batch_first=True,
        )
        for one, group in zip(rising(groups, None), groups, strict=True)
    ]
    theirs = plain_run(mllm, rollouts, recipe, given=advantages)
    assert largest_difference(ours, theirs) == 0
    assert (
        largest_difference(ours, run(*make(), replace(recipe, advantages=whole_completion))[1])
        > 1e-4
    )


def test_only_groups_of_which_some_token_has_a_gradient_are_scored(make):
    mllm, rollouts = make()
    seen = []

    def spy(mllm, some, temperature):
        seen.append((torch.is_grad_enabled(), [r.prompt.length for r in some]))
        return score_groups(mllm, some, temperature)

    first, second, third = ([rollout.prompt.length] for rollout in rollouts)
    [row], _ = run(mllm, rollouts, DAPO, score=spy)
    # The reference is asked about one group, to draw a curve.
    assert seen == [(True, first), (True, third), (True, first), (True, third), (False, first)]
    assert row["kl"] > 0
    seen.clear()
    run(mllm, rollouts, GRPO, score=spy)
    assert seen[:6] == [(graded, one) for one in (first, second, third) for graded in (False, True)]
    assert seen[6:] == [(True, one) for one in (first, second, third)]
    seen.clear()
    run(mllm, rollouts, DAPO, (EQUAL,), score=spy)
    assert seen == [(True, first), (True, first), (False, first)]
    seen.clear()

    def last_token(groups, tokenizer):
        rules = [[np.zeros(len(t)) for t in group.rollout.tokens] for group in groups]
        rules[1][2][-1] = 1.0
        return rules

    [row], _ = run(mllm, rollouts, replace(DAPO, advantages=last_token), score=spy)
    assert seen == [(True, second), (True, second), (False, second)] and row["gradient_norm"] > 0


def test_without_a_kl_term_the_log_has_the_kl_of_the_first_group(make, capsys):
    mllm, rollouts = make()
    scores = score_groups(mllm, rollouts[:1])
    with torch.no_grad(), mllm.reference_policy():
        reference = score_groups(mllm, rollouts[:1]).log_probs
    expected = k3(reference - scores.log_probs)[scores.mask].mean().item()
    [row], _ = run(mllm, rollouts, DAPO)
    # A token's exp(d) - d - 1 is a difference of ones: it is right to one rounding of 1.
    assert row["kl"] == pytest.approx(expected, rel=1e-3) and expected > 1e-3
    # A CPU says nothing and measures its peak.
    assert capsys.readouterr().out == ""
    assert 50 < row["peak_memory_mb"] < 1e5 and row["seconds_update"] > 0


def test_the_first_ratio_is_one_whatever_the_sampler_rounded(make):
    mllm, rollouts = make()
    once = replace(PRESET, updates_per_rollout=1)
    [row], ours = run(mllm, rollouts, GRPO, preset=once)
    assert row["ratio"] == 1.0 and row["clip_low_fraction"] == row["clip_high_fraction"] == 0
    assert row["sampler_gap"] < 1e-4
    mllm, rollouts = make()
    off = [
        replace(r, log_probs=tuple(x + 0.25 * (-1) ** i for i, x in enumerate(r.log_probs)))
        for r in rollouts
    ]
    [row], theirs = run(mllm, off, GRPO, preset=once)
    assert row["ratio"] == 1.0
    assert row["sampler_gap"] == pytest.approx(0.25, abs=1e-4)
    assert largest_difference(ours, theirs) == 0


def gpu_with(monkeypatch, free):
    monkeypatch.setattr(forwards, "available_bytes", lambda device, missing: free)


UNCHANGED: dict[str, tuple] = {}


def unchanged(make, recipe):
    """Log row and adapter in float64 of one group at a time, to be reached by every other way."""
    if recipe.name not in UNCHANGED:
        [row], ours = run(*make(torch.float64), recipe)
        UNCHANGED[recipe.name] = row, ours
    return UNCHANGED[recipe.name]


def assert_same_step(row, mllm, expected):
    # AdamW's steps have the learning rate's size, whatever the gradient's.
    assert largest_difference(adapter(mllm), expected[1]) < 1e-3 * PRESET.learning_rate
    for name in ("loss", "ratio", "entropy", "gradient_norm"):
        assert row[name] == pytest.approx(expected[0][name], rel=1e-6), name


@pytest.mark.parametrize(
    "recipe, share",
    [(GRPO, 100), (GRPO, 0.7), (GRPO, 0), (DAPO, 100), (DAPO, 0.4), (RISING, 100), (RISING, 0)],
)
def test_every_plan_gives_the_same_adapter(make, monkeypatch, recipe, share):
    """From all groups in one forward to one completion in each, all layers checkpointed."""
    mllm, rollouts = make(torch.float64)
    updater = PolicyUpdater(mllm, PRESET, recipe)
    largest_group = plan_memory(updater.forwards.sizes, [GroupTokens.of(r) for r in rollouts], None)
    gpu_with(monkeypatch, share * largest_group.forward_bytes)
    row = updater.update(scored(rollouts))
    groups, parts, checkpointed = updater.forwards.plan.choice
    if share == 100:
        assert (parts, checkpointed) == (1, 0) and groups > 1
    elif share == 0:
        assert (groups, parts, checkpointed) == (1, 4, 4)
    else:
        assert parts > 1 or checkpointed
    assert_same_step(row, mllm, unchanged(make, recipe))


@pytest.mark.parametrize(
    "recipe, call", [(GRPO, 1), (GRPO, 4), (GRPO, 8), (DAPO, 1), (DAPO, 2), (DAPO, 4)]
)
def test_a_step_that_runs_out_of_memory_ends_with_the_same_adapter(
    make, monkeypatch, capsys, recipe, call
):
    """Wherever in the two updates: in the reference's forward, in the policy's, at any group."""
    expected = unchanged(make, recipe)
    calls, alive, asked = [], [], []

    def fails_once(mllm, some, temperature):
        calls.append(some)
        scores = score_groups(mllm, some, temperature)
        if len(calls) == call:
            alive.append(weakref.ref(scores.log_probs))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return scores

    def available(device, missing):  # a CPU's answer; the failed forward is gone by now
        asked.append(len(alive))
        assert not alive or alive[0]() is None

    monkeypatch.setattr(forwards, "available_bytes", available)
    mllm, rollouts = make(torch.float64)
    updater = PolicyUpdater(mllm, PRESET, recipe, score=fails_once)
    row = updater.update(scored(rollouts))
    assert len(calls) > call and asked[-1] == 1
    assert_same_step(row, mllm, expected)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" in a forward")[0] for line in said][0] == "Out of memory"
    assert said[1].startswith("Memory plan: ") and len(said) == 2
    assert updater.forwards.plan.choice != (1, 1, 0)  # the next step begins with what was enough


def test_the_microbatch_shrinks_step_by_step_and_then_names_what_to_reduce(
    make, monkeypatch, capsys
):
    tried = []

    def fails(mllm, some, temperature):
        tried.append(sum(len(rollout.tokens) for rollout in some))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    gpu_with(monkeypatch, 1e12)
    mllm, rollouts = make()
    before = adapter(mllm)
    updater = PolicyUpdater(mllm, PRESET, GRPO, score=fails)
    with pytest.raises(torch.OutOfMemoryError, match="max_new_tokens") as error:
        updater.update(scored(rollouts))
    assert str(error.value.__cause__) == "CUDA out of memory."
    assert tried[0] == 12 and tried[-1] == 1 and tried == sorted(tried, reverse=True)
    assert len(tried) > 3 and updater.forwards.plan.checkpointed == 4
    assert largest_difference(adapter(mllm), before) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Memory plan: all groups in a forward, no layers checkpointed")
    plans = [line for line in said if line.startswith("Memory plan")]
    assert len(plans) == len(set(plans)) == len(tried)
