"""Shared-prefix rows and the benchmark's plain rows against forwards of each completion."""

from __future__ import annotations

import pytest
import torch
from conftest import (
    assert_near,
    assert_same_gradients,
    kitchen_policy,
    randomise_adapter,
    toy_rollouts,
)
from plain_rows import plain_distributions

from foodseg.bench.plain_rows import plain_score_groups
from foodseg.models.shared_prefix import pad_rows, score_groups


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
