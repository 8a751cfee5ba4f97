"""A rollout's gradient steps against a plain loop over mini-batches, also when memory runs out."""

import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import kitchen_policy, toy_rollouts

from foodseg.common.errors import DataError
from foodseg.common.processes import Processes
from foodseg.models.fast.layers import training_layers
from foodseg.models.shared_prefix import completion_mask, pad_rows, score_groups
from foodseg.presets import SMOKE
from foodseg.recipes import DAPO, GRPO
from foodseg.rl.advantages import whole_completion
from foodseg.rl.objectives import k3, loss_normaliser, policy_loss
from foodseg.training import forwards, updates
from foodseg.training.diagnostics import BINS, EDGES
from foodseg.training.memory import GroupTokens, plan_memory
from foodseg.training.optimizer import MAX_GRADIENT_NORM
from foodseg.training.updates import PolicyUpdater, mini_batches

PRESET = replace(
    SMOKE,
    learning_rate=1e-3,
    warmup_steps=0,
    max_new_tokens=16,
    prompts_per_step=4,
    groups_per_update=2,
)
# Groups 0 and 2 make the first mini-batch, 1 and 3 the second.
PARTS = ((0, 2), (1, 3))
REWARDS = ([1.0, 0.0, 3.0, 2.0], [2.0] * 4, [0.0, 5.0, 0.0, 0.0], [4.0, 4.0, 1.0, 0.0])
ONE_PART = ([1.0] * 4, [1.0, 0.0, 3.0, 2.0], [0.0] * 4, [0.0, 5.0, 0.0, 0.0])
EQUAL = ([1.0] * 4, [2.0] * 4, [0.0] * 4, [5.0] * 4)
WITHOUT_KL = replace(GRPO, objective=replace(GRPO.objective, kl_weight=0.0))
CONSTANT = replace(DAPO, objective=replace(DAPO.objective, normalisation="constant"))


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


@pytest.fixture()
def make(exact_norms):
    """A policy in a dtype, always the same, and four groups that it has sampled."""

    def policy(dtype=torch.float32):
        mllm = kitchen_policy(dtype, scale=0.02)
        return mllm, toy_rollouts(mllm, 4, PRESET.max_new_tokens, prompts=4, seed=3)

    return policy


def scored(rollouts, rewards=REWARDS):
    return [SimpleNamespace(rollout=r, rewards=x) for r, x in zip(rollouts, rewards, strict=True)]


def adapter(mllm):
    return [parameter.detach().clone() for parameter in mllm.lora_parameters()]


def run(mllm, rollouts, recipe, rewards=(REWARDS,), preset=PRESET, score=score_groups):
    """A step for each list of rewards; the log rows and the adapter."""
    updater = PolicyUpdater(mllm, preset, recipe, score=score)
    return [updater.update(scored(rollouts, one)) for one in rewards], adapter(mllm)


def score_each(mllm, rollouts):
    with torch.no_grad():
        return [score_groups(mllm, [rollout]).log_probs for rollout in rollouts]


def sampled_log_probs(rollouts):
    return [pad_rows(rollout.log_probs, completion_mask([rollout])) for rollout in rollouts]


def plain_advantages(recipe, rollouts, rewards):
    """Of each group (G, L): every token's, also where a completion has one number."""
    groups = scored(rollouts, rewards)
    return [
        torch.nn.utils.rnn.pad_sequence(
            [
                torch.as_tensor(np.broadcast_to(a, len(tokens)).copy(), dtype=torch.float32)
                for a, tokens in zip(one, group.rollout.tokens, strict=True)
            ],
            batch_first=True,
        )
        for one, group in zip(recipe.advantages(groups, None), groups, strict=True)
    ]


def plain_run(mllm, rollouts, recipe, rewards=(REWARDS,), later="sampler"):
    """The same without leaving anything out: every group of a mini-batch, one after another.

    later: whose log-probs the old ones are after the first step, the sampler's, those of the policy
    before it ("frozen"), or each step's own.
    """
    objective = recipe.objective
    parameters = mllm.lora_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=PRESET.learning_rate, weight_decay=0.01)
    with training_layers(mllm.language_model):
        with mllm.reference_policy():
            reference = score_each(mllm, rollouts)
        for one in rewards:
            advantages = plain_advantages(recipe, rollouts, one)
            old = score_each(mllm, rollouts)
            for part in PARTS:
                if not objective.kl_weight and not any(advantages[i].any() for i in part):
                    continue
                mask = completion_mask([rollouts[i] for i in part])
                optimizer.zero_grad()
                for i in part:
                    scores = score_groups(mllm, [rollouts[i]])
                    policy_loss(
                        scores.log_probs,
                        old[i],
                        advantages[i],
                        scores.mask,
                        objective,
                        reference_log_probs=reference[i],
                        normaliser=loss_normaliser(
                            objective.normalisation, mask, PRESET.max_new_tokens
                        ),
                    ).loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
                optimizer.step()
                if later != "frozen":
                    use = score_each(mllm, rollouts) if later == "own" else None
                    old = use or sampled_log_probs(rollouts)
    return adapter(mllm)


def largest_difference(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def distance(ours, theirs):
    """In norm, of two adapters."""
    return float(torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)]).norm())


@pytest.mark.parametrize("recipe", [GRPO, WITHOUT_KL, DAPO, CONSTANT])
def test_leaving_out_what_has_no_gradient_changes_no_bit(make, recipe):
    """In two rollouts, of which the second has a mini-batch without signal."""
    start = adapter(make()[0])
    rows, ours = run(*make(), recipe, (REWARDS, ONE_PART))
    theirs = plain_run(*make(), recipe, (REWARDS, ONE_PART))
    assert largest_difference(ours, start) > 1e-4
    # Bits: the same operations on the same shapes, and what is left out would add zeros.
    assert largest_difference(ours, theirs) == 0
    skipped = 0 if recipe is GRPO else 1
    assert [row["gradient_steps"] for row in rows] == [2, 2 - skipped]


@pytest.mark.parametrize("recipe", [GRPO, DAPO, CONSTANT, RISING])
def test_old_log_probs_are_those_of_the_policy_before_the_first_step(make, recipe):
    start = adapter(make(torch.float64)[0])
    _, ours = run(*make(torch.float64), recipe)
    theirs = plain_run(*make(torch.float64), recipe, later="frozen")
    # The sampler notes log-probs down in float32: ratios are off by 1e-6. AdamW's first steps are
    # as long for a small gradient as for a large one, so what is small enlarges that.
    assert distance(ours, theirs) < 1e-4 * distance(ours, start)
    other = plain_run(*make(torch.float64), recipe, later="own")
    assert distance(ours, other) > 1e-2 * distance(ours, start)


def compared(monkeypatch):
    """The (log-probs, old log-probs, advantages, mask) of every loss from here on."""
    seen = []

    def look(log_probs, old, advantages, mask, *rest, **keywords):
        given = None if old is None else old.clone()
        seen.append((log_probs.detach(), given, advantages, mask))
        return policy_loss(log_probs, old, advantages, mask, *rest, **keywords)

    monkeypatch.setattr(updates, "policy_loss", look)
    return seen


def test_where_nothing_moves_every_ratio_is_one(make, monkeypatch):
    seen = compared(monkeypatch)
    still = replace(PRESET, learning_rate=0.0)
    [row], _ = run(*make(), GRPO, preset=still)
    assert [old is None for _, old, *_ in seen] == [True, True, False, False]
    later = [(new - old)[mask].abs().max() for new, old, _, mask in seen[2:]]
    # Sampler and forward add the same products in another order; a log-prob is a difference of
    # logits of about 10, each right to some roundings of 1e-6.
    assert 0 < max(later) < 1e-4
    assert row["clip_low_fraction"] == row["clip_high_fraction"] == 0


def test_gains_are_binned_by_the_probability_when_sampled(make, monkeypatch):
    seen = compared(monkeypatch)
    [row], _ = run(*make(), DAPO)
    [(new, old, advantages, mask)] = seen[2:]  # of the second mini-batch one group has signal
    better = mask & (advantages > 0)
    chance, gain = old[better].exp(), (new - old)[better].exp() - 1
    assert sum(row[f"gain_tokens_{name}"] for name in BINS) == len(chance) > 10
    for name, low, high in zip(BINS, (0, *EDGES), (*EDGES, 2), strict=True):
        inside = gain[(low <= chance) & (chance < high)]
        assert row[f"gain_tokens_{name}"] == len(inside)
        if not len(inside):
            assert row[f"gain_{name}"] is row[f"clip_high_{name}"] is None
            continue
        # Means of float32 numbers, ours in float64.
        assert row[f"gain_{name}"] == pytest.approx(float(inside.mean()), abs=1e-6)
        clipped = (inside > DAPO.objective.clip_high).float().mean()
        assert row[f"clip_high_{name}"] == pytest.approx(float(clipped), abs=1e-6)
    once, _ = run(*make(), DAPO, preset=replace(PRESET, groups_per_update=4))
    assert all(once[0][f"gain_{name}"] is None for name in BINS)


def test_a_rollout_without_any_signal_takes_no_step(make):
    """AdamW would move on by its momentum and weight decay."""
    rows, ours = run(*make(), DAPO, (REWARDS, EQUAL))
    assert largest_difference(ours, run(*make(), DAPO)[1]) == 0
    for name in ("gradient_norm", "gradient_norm_max", "entropy", "ratio", "kl", "sampler_gap"):
        assert rows[0][name] is not None and rows[1][name] is None
    assert rows[1]["gradient_steps"] == 0
    [row], moved = run(*make(), GRPO, (EQUAL,))  # its KL term has a gradient
    assert row["gradient_steps"] == 2 and largest_difference(moved, adapter(make()[0])) > 1e-4


def poisoned(value, *calls):
    """Scores whose gradient is `value` in the forwards of these numbers, from 0; in all without."""
    done = []

    def score(mllm, some, temperature):
        scores, number = score_groups(mllm, some, temperature), len(done)
        if scores.log_probs.requires_grad:
            done.append(number)
            if number in calls or not calls:
                scores.log_probs.register_hook(lambda gradient: gradient * value)
        return scores

    return score


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_left_out_and_counted(make, value):
    """Of DAPO's two gradient steps the first, whose two groups have a forward each."""
    start, expected = adapter(make()[0]), run(*make(), DAPO, (ONE_PART,))[1]
    mllm, rollouts = make()
    rewards = [REWARDS[0], *ONE_PART[1:]]  # a first mini-batch with signal before the second
    [row], ours = run(mllm, rollouts, DAPO, (rewards,), score=poisoned(value, 0))
    assert row["skipped_steps"] == 1 and row["gradient_steps"] == 1 and row["ratio"] == 1.0
    assert np.isfinite(row["loss"]) and np.isfinite(row["gradient_norm"])
    # As if the first had no signal.
    assert largest_difference(ours, expected) == 0 < largest_difference(ours, start)


def test_several_gradients_in_a_row_that_are_not_finite_end_the_run(make):
    mllm, rollouts = make()
    before = adapter(mllm)
    updater = PolicyUpdater(mllm, PRESET, GRPO, score=poisoned(float("nan")))
    for _ in range(2):
        row = updater.update(scored(rollouts))
        assert (row["skipped_steps"], row["gradient_steps"], row["loss"]) == (2, 0, None)
    with pytest.raises(DataError, match="gradient: 5 in a row are NaN .*lower the learning rate"):
        updater.update(scored(rollouts))
    assert largest_difference(adapter(mllm), before) == 0
    assert updater.optimizer.learning_rate == PRESET.learning_rate
    finite = PolicyUpdater(mllm, PRESET, GRPO, score=poisoned(float("nan"), *range(8)))
    for _ in range(3):  # four gradients of two forwards each are skipped, then all is well
        row = finite.update(scored(rollouts))
    assert row["skipped_steps"] == finite.optimizer.skipped_in_a_row == 0
    assert finite.optimizer.skipped == 4


def test_the_warm_up_counts_gradient_steps(make):
    mllm, rollouts = make()
    updater = PolicyUpdater(mllm, replace(PRESET, warmup_steps=2), GRPO)
    rates = [updater.optimizer.learning_rate]
    for _ in range(3):
        updater.update(scored(rollouts))
        rates.append(updater.optimizer.learning_rate)
    assert rates == pytest.approx([PRESET.learning_rate * x for x in (0.25, 0.75, 1, 1)])


@pytest.mark.parametrize("groups, size", [(8, 2), (8, 3), (8, 8), (1, 4), (7, 2)])
def test_groups_are_dealt_out_to_mini_batches_that_processes_share(groups, size):
    parts = list(mini_batches(range(groups), size))
    assert sorted(place for part in parts for place in part) == list(range(groups))
    assert max(map(len, parts)) <= size and len(parts) == -(-groups // size)
    assert all(list(part) == sorted(part) for part in parts)
    for count in (2, 4):
        shares = [Processes(rank, count).part(groups) for rank in range(count)]
        held = [[len(set(part) & set(share)) for share in shares] for part in parts]
        assert all(max(one) - min(one) <= 1 for one in held)


@pytest.mark.parametrize("recipe", [GRPO, DAPO])
def test_equal_advantages_of_all_tokens_are_those_of_the_completion(make, recipe):
    row, ours = run(*make(), replace(recipe, advantages=spread))
    expected, theirs = run(*make(), recipe)
    assert largest_difference(ours, theirs) == 0
    assert row[0]["loss"] == expected[0]["loss"]


@pytest.mark.parametrize("recipe", [GRPO, DAPO, CONSTANT])
def test_advantages_of_tokens_reach_their_tokens(make, recipe):
    """One group after another in a plain loop, which pads nothing."""
    tokens = replace(recipe, advantages=rising)
    _, ours = run(*make(), tokens)
    assert largest_difference(ours, plain_run(*make(), tokens)) == 0
    assert largest_difference(ours, run(*make(), recipe)[1]) > 1e-4


def test_only_groups_of_which_some_token_has_a_gradient_are_scored(make):
    mllm, rollouts = make()
    seen = []

    def spy(mllm, some, temperature):
        seen.append((torch.is_grad_enabled(), [r.prompt.length for r in some]))
        return score_groups(mllm, some, temperature)

    first, second, third, fourth = ([rollout.prompt.length] for rollout in rollouts)
    [row], _ = run(mllm, rollouts, DAPO, score=spy)
    # The reference is asked about one group, to draw a curve.
    assert seen == [(True, first), (True, third), (True, fourth), (False, first)]
    assert row["kl"] > 0
    seen.clear()
    run(mllm, rollouts, GRPO, score=spy)
    order = (first, third, second, fourth)
    assert seen == [(graded, one) for one in order for graded in (False, True)]
    seen.clear()
    run(mllm, rollouts, DAPO, (EQUAL,), score=spy)
    assert seen == []

    def last_token(groups, tokenizer):
        rules = [[np.zeros(len(t)) for t in group.rollout.tokens] for group in groups]
        rules[1][2][-1] = 1.0
        return rules

    # The first mini-batch has no gradient: the second begins with the policy that sampled.
    [row], _ = run(mllm, rollouts, replace(DAPO, advantages=last_token), score=spy)
    assert seen == [(True, second), (False, second)] and row["gradient_norm"] > 0
    assert row["ratio"] == 1.0 and row["gradient_steps"] == 1


def test_without_a_kl_term_the_log_has_the_kl_of_the_first_group(make, capsys):
    mllm, rollouts = make()
    scores = score_groups(mllm, rollouts[:1])
    with torch.no_grad(), mllm.reference_policy():
        reference = score_groups(mllm, rollouts[:1]).log_probs
    expected = k3(reference - scores.log_probs)[scores.mask].mean().item()
    [row], _ = run(mllm, rollouts, DAPO)
    # A token's exp(d) - d - 1 is a difference of ones: it is right to some roundings of 1.
    assert row["kl"] == pytest.approx(expected, abs=1e-6) and expected > 1e-4
    # A CPU says nothing and measures its peak.
    assert capsys.readouterr().out == ""
    assert 50 < row["peak_memory_mb"] < 1e5 and row["seconds_update"] > 0


def test_the_first_ratio_is_one_whatever_the_sampler_rounded(make):
    mllm, rollouts = make()
    once = replace(PRESET, groups_per_update=4)
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
    plans = []

    def plan(*arguments):
        plans.append(plan_memory(*arguments))
        return plans[-1]

    monkeypatch.setattr(forwards, "plan_memory", plan)
    row = updater.update(scored(rollouts))
    choices = [plan.choice for plan in plans]
    assert len(choices) == 2  # one for each mini-batch
    if share == 100:
        assert choices[0] == (2, 1, 0) and choices[1][1:] == (1, 0)
    elif share == 0:
        assert choices == [(1, 4, 4)] * 2
    else:
        assert any(parts > 1 or checkpointed for _, parts, checkpointed in choices)
    assert_same_step(row, mllm, unchanged(make, recipe))


@pytest.mark.parametrize(
    "recipe, call", [(GRPO, 1), (GRPO, 4), (GRPO, 8), (DAPO, 1), (DAPO, 2), (DAPO, 3)]
)
def test_a_step_that_runs_out_of_memory_ends_with_the_same_adapter(
    make, monkeypatch, capsys, recipe, call
):
    """Wherever in the two steps: in the reference's forward, in the policy's, at any group."""
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
    assert len(calls) > call and asked[-1] == 1 and updater.forwards.most_bytes
    assert_same_step(row, mllm, expected)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" in a forward")[0] for line in said][0] == "Out of memory"
    assert len(said) > 1 and all(line.startswith("Memory plan: ") for line in said[1:])


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
    assert tried[0] == 8 and tried[-1] == 1 and tried == sorted(tried, reverse=True)
    assert len(tried) > 3 and updater.forwards.plan.checkpointed == 4
    assert largest_difference(adapter(mllm), before) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Memory plan: all groups in a forward, no layers checkpointed")
    plans = [line for line in said if line.startswith("Memory plan")]
    assert len(plans) == len(set(plans)) == len(tried)
