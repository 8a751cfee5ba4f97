"""Shared-prefix and plain rows against forwards of each completion; layers against PEFT's."""

import pytest
import torch
from conftest import (
    assert_near,
    assert_same_gradients,
    kitchen_policy,
    load_kitchen,
    plain_distributions,
    randomise_adapter,
    toy_prompts,
    toy_rollouts,
    upcast,
)

from foodseg.bench.plain_rows import plain_score_groups
from foodseg.models.fast.layers import lean_layers, training_layers
from foodseg.models.shared_prefix import pad_rows, score_groups
from foodseg.training.forwards import checkpointed_layers


@pytest.fixture()
def policy64(exact_norms):
    return kitchen_policy(torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_both_ways_to_score_equal_a_forward_for_each_completion(policy64, temperature):
    rollouts = toy_rollouts(policy64, 4, 90, temperature=temperature, seed=3)
    shared = score_groups(policy64, rollouts, temperature)
    padded = plain_score_groups(policy64, rollouts, temperature)
    rows = [x for r in rollouts for x in plain_distributions(policy64, r, temperature)]
    tokens = [tokens for rollout in rollouts for tokens in rollout.tokens]
    assert shared.mask.sum() == sum(map(len, rows)) and len(set(map(len, rows))) > 2
    plain = [x.gather(1, own[:, None])[:, 0] for x, own in zip(rows, tokens, strict=True)]
    log_probs = pad_rows(plain, shared.mask)
    entropies = pad_rows([torch.special.entr(row.exp()).sum(-1) for row in rows], shared.mask)
    weights = torch.randn(log_probs.shape, dtype=torch.float64)

    def gradients(log_probs):
        loss = (log_probs * weights).sum()
        return torch.autograd.grad(loss, policy64.lora_parameters(), retain_graph=True)

    reference = gradients(log_probs)
    assert len(reference) == 2 * 7 * policy64.model.config.text_config.num_hidden_layers
    assert all(gradient.any() for gradient in reference)
    for scores in (shared, padded):
        assert_near(scores.log_probs, log_probs, roundings=1000)
        assert_near(scores.entropies, entropies, roundings=1000)
        assert_same_gradients(gradients(scores.log_probs), reference, relative=1e-9)


def test_sampler_log_probs_equal_the_updates_in_float32(kitchen_mllm):
    kitchen_mllm.add_lora(rank=4, alpha=8, seed=0)
    randomise_adapter(kitchen_mllm)
    rollouts = toy_rollouts(kitchen_mllm, 8, 160, seed=5)
    lengths = [len(tokens) for rollout in rollouts for tokens in rollout.tokens]
    # Enough rows end early that they leave the batch while others go on.
    assert sum(n < max(lengths) for n in lengths) > 0.3 * len(lengths)
    scores = score_groups(kitchen_mllm, rollouts)
    sampled = pad_rows([row for r in rollouts for row in r.log_probs], scores.mask)
    assert_near(scores.log_probs, sampled, roundings=200)


def test_a_group_scores_the_same_alone_and_in_a_batch(policy64):
    rollouts = toy_rollouts(policy64, 3, 16, seed=2)
    together = score_groups(policy64, rollouts)
    for index, rollout in enumerate(rollouts):
        alone = score_groups(policy64, [rollout])
        rows = slice(3 * index, 3 * index + 3)
        in_batch = together.log_probs[rows][together.mask[rows]]
        assert_near(alone.log_probs[alone.mask], in_batch, roundings=1000)


# Lean layers


def log_probs_and_gradient(mllm, rollouts):
    scores = score_groups(mllm, rollouts)
    weights = torch.linspace(-1, 1, scores.mask.shape[1], dtype=scores.log_probs.dtype)
    gradients = torch.autograd.grad((scores.log_probs * weights).sum(), mllm.lora_parameters())
    return scores.log_probs.detach(), gradients


@pytest.mark.parametrize("checkpointed", [0, 3])
def test_log_probs_and_gradients_are_the_same_in_float64(exact_norms, checkpointed):
    mllm = kitchen_policy(torch.float64)
    rollouts, model = toy_rollouts(mllm, 4, 24, seed=3), mllm.language_model
    plain, plain_gradients = log_probs_and_gradient(mllm, rollouts)
    with training_layers(model), checkpointed_layers(model, checkpointed):
        lean, gradients = log_probs_and_gradient(mllm, rollouts)
    assert_near(lean, plain, roundings=1000)
    assert len(gradients) == 2 * 7 * 4
    assert all(gradient.any() for gradient in plain_gradients)
    assert_same_gradients(gradients, plain_gradients, relative=1e-9)


def test_in_bfloat16_it_is_no_further_from_float32_than_bfloat16_is():
    mllm, exact = kitchen_policy(torch.bfloat16), kitchen_policy(torch.float32)
    for ours, theirs in zip(exact.model.parameters(), mllm.model.parameters(), strict=True):
        ours.data.copy_(theirs.data)
    rollouts = toy_rollouts(mllm, 4, 24, seed=3)
    assert {p.dtype for p in mllm.lora_parameters()} == {torch.float32}

    def distance(log_probs, gradients):
        off = sum((a - b).square().sum() for a, b in zip(gradients, expected[1], strict=True))
        size = sum(b.square().sum() for b in expected[1])
        return (log_probs - expected[0]).abs().mean(), (off / size).sqrt()

    expected = log_probs_and_gradient(exact, upcast(rollouts))
    plain = distance(*log_probs_and_gradient(mllm, rollouts))
    with training_layers(mllm.language_model):
        lean = distance(*log_probs_and_gradient(mllm, rollouts))
    for ours, theirs in zip(lean, plain, strict=True):
        assert 0 < ours < 1.5 * theirs
    assert lean[1] < 0.1


def test_the_reference_policy_is_the_base_within_it():
    base = load_kitchen(torch.float32)
    rollouts = toy_rollouts(base, 4, 24, seed=3)
    with torch.no_grad():
        expected = score_groups(base, rollouts).log_probs
    mllm = kitchen_policy(torch.float32)
    with torch.no_grad(), training_layers(mllm.language_model):
        adapted = score_groups(mllm, rollouts).log_probs
        with mllm.reference_policy():
            reference = score_groups(mllm, rollouts).log_probs
    assert_near(reference, expected, roundings=200)
    assert (adapted - expected).abs().max() > 1e-2


def prompt_states(mllm, prompt):
    with torch.no_grad():
        return mllm.hidden_states(prompt.embeddings[None], None, prompt.position_ids[:, None])


# float32 on a CPU folds the adapter in; float64 and bfloat16 keep it apart. transformers' norms
# round to float32 even in a float64 model.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-5), (torch.float32, 1e-5), (torch.bfloat16, 0.05)],
)
def test_lean_layers_equal_the_models_own_and_leave_no_trace(dtype, tolerance):
    mllm = kitchen_policy(dtype)
    [prompt] = toy_prompts(mllm, 1)
    before = {name: p.clone() for name, p in mllm.model.named_parameters()}
    expected = prompt_states(mllm, prompt)
    with lean_layers(mllm.language_model):
        lean = prompt_states(mllm, prompt)
    with mllm.reference_policy(), lean_layers(mllm.language_model):
        reference = prompt_states(mllm, prompt)
    assert (lean - expected).norm() < tolerance * expected.norm()
    assert not torch.equal(lean, expected)  # else it was not on
    with mllm.reference_policy():
        assert (reference - prompt_states(mllm, prompt)).norm() < tolerance * expected.norm()
    assert (reference - lean).norm() > 5 * tolerance * expected.norm()
    assert torch.equal(prompt_states(mllm, prompt), expected)
    assert all(torch.equal(p, before[name]) for name, p in mllm.model.named_parameters())
    assert not any("forward" in vars(module) for module in mllm.model.modules())


@pytest.mark.parametrize("context", [lean_layers, training_layers])
def test_after_an_error_every_layer_is_its_own_again(context):
    mllm = kitchen_policy(torch.float32)
    with pytest.raises(KeyboardInterrupt), context(mllm.language_model):
        assert any("forward" in vars(module) for module in mllm.language_model.modules())
        raise KeyboardInterrupt
    assert not any("forward" in vars(module) for module in mllm.model.modules())
