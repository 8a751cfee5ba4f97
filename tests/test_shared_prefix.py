"""A group's shared-prefix row against plain rows, and the sampler against the update."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near, assert_same_gradients, load_kitchen, toy_prompts
from plain_rows import plain_distributions, plain_log_probs
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from foodseg.models.rollouts import sample_rollouts
from foodseg.models.shared_prefix import pad_rows, score_groups


def randomise_adapter(mllm):
    """LoRA's B starts at zero; give it values, so that every gradient is alive."""
    generator = torch.Generator().manual_seed(1)
    for parameter in mllm.lora_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(noise * 0.05)


def rms_norm_in_own_dtype(self, hidden):
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))


@pytest.fixture()
def policy64(monkeypatch):
    # transformers' norm rounds to float32 even in a float64 model; that rounding (1e-8 here) would
    # hide the equality under test, so both paths get the same norm in float64.
    monkeypatch.setattr(Qwen2_5_VLRMSNorm, "forward", rms_norm_in_own_dtype)
    mllm = load_kitchen(torch.float64)
    mllm.add_lora(rank=4, alpha=8, seed=0)
    mllm.model.double()
    randomise_adapter(mllm)
    return mllm


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_gradients_equal_plain_rows_in_float64(policy64, temperature):
    rollouts = sample_rollouts(
        policy64,
        toy_prompts(policy64),
        group_size=4,
        max_new_tokens=24,
        temperature=temperature,
        seed=3,
    )
    scores = score_groups(policy64, rollouts, temperature)
    plain = [row for rollout in rollouts for row in plain_log_probs(policy64, rollout, temperature)]
    assert scores.mask.sum() == sum(map(len, plain))
    assert_near(scores.log_probs, pad_rows(plain, scores.mask), roundings=1000)

    weights = torch.randn(scores.log_probs.shape, dtype=torch.float64)
    shared = torch.autograd.grad(
        (scores.log_probs * weights).sum(), policy64.lora_parameters(), retain_graph=True
    )
    reference = torch.autograd.grad(
        (pad_rows(plain, scores.mask) * weights).sum(), policy64.lora_parameters()
    )
    assert len(shared) == 2 * 7 * policy64.model.config.text_config.num_hidden_layers
    assert all(gradient.any() for gradient in reference)
    assert_same_gradients(shared, reference, relative=1e-9)


def test_sampler_log_probs_equal_the_updates_in_float32(kitchen_mllm):
    kitchen_mllm.add_lora(rank=4, alpha=8, seed=0)
    randomise_adapter(kitchen_mllm)
    rollouts = sample_rollouts(
        kitchen_mllm, toy_prompts(kitchen_mllm), group_size=8, max_new_tokens=160, seed=5
    )
    lengths = [len(tokens) for rollout in rollouts for tokens in rollout.tokens]
    # Enough rows end early that they leave the batch while others go on.
    assert sum(n < max(lengths) for n in lengths) > 0.3 * len(lengths)
    scores = score_groups(kitchen_mllm, rollouts)
    sampled = pad_rows([row for r in rollouts for row in r.log_probs], scores.mask)
    assert_near(scores.log_probs, sampled, roundings=200)


def test_a_group_scores_the_same_alone_and_in_a_batch(policy64):
    rollouts = sample_rollouts(
        policy64, toy_prompts(policy64), group_size=3, max_new_tokens=16, seed=2
    )
    together = score_groups(policy64, rollouts)
    for index, rollout in enumerate(rollouts):
        alone = score_groups(policy64, [rollout])
        rows = slice(3 * index, 3 * index + 3)
        in_batch = together.log_probs[rows][together.mask[rows]]
        assert_near(alone.log_probs[alone.mask], in_batch, roundings=1000)


def test_entropies_are_those_of_plain_rows(policy64):
    rollouts = sample_rollouts(
        policy64, toy_prompts(policy64, 1), group_size=3, max_new_tokens=8, seed=2
    )
    scores = score_groups(policy64, rollouts, 0.7)
    rows = plain_distributions(policy64, rollouts[0], 0.7)
    expected = [torch.special.entr(row.exp()).sum(-1) for row in rows]
    assert_near(scores.entropies, pad_rows(expected, scores.mask), roundings=1000)
