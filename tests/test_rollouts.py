"""Sampling: against transformers' own generate, reproducible, and free of vision tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
from conftest import toy_prompts
from plain_rows import plain_distributions
from transformers import GenerationConfig

from foodseg.rl.rollouts import sample_rollouts


def test_greedy_equals_transformers_generate(kitchen_mllm):
    prompts = toy_prompts(kitchen_mllm)
    rollouts = sample_rollouts(
        kitchen_mllm, prompts, group_size=1, max_new_tokens=20, temperature=0.0
    )
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=kitchen_mllm.eos_token_id,
        pad_token_id=kitchen_mllm.eos_token_id,
        suppress_tokens=kitchen_mllm.banned_token_ids,
    )
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        generated = kitchen_mllm.model.generate(
            inputs_embeds=prompt.embeddings[None],
            attention_mask=torch.ones(1, prompt.length, dtype=torch.long),
            position_ids=prompt.position_ids[:, None],
            generation_config=config,
        )
        assert rollout.tokens[0].tolist() == generated[0].tolist()


def test_same_seed_same_completions_and_another_seed_others(kitchen_mllm):
    prompts = toy_prompts(kitchen_mllm)

    def sample(seed):
        rollouts = sample_rollouts(
            kitchen_mllm, prompts, group_size=4, max_new_tokens=30, temperature=2.0, seed=seed
        )
        return [tokens.tolist() for rollout in rollouts for tokens in rollout.tokens]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_vision_tokens_are_never_sampled_and_their_log_prob_is_minus_infinity(kitchen_mllm):
    prompts = toy_prompts(kitchen_mllm)
    # Make the banned tokens by far the likeliest: only the ban keeps them out.
    bias = torch.zeros(kitchen_mllm.model.config.text_config.vocab_size)
    bias[kitchen_mllm.banned_token_ids] = 1e4
    kitchen_mllm.model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    rollouts = sample_rollouts(kitchen_mllm, prompts, group_size=8, max_new_tokens=30, seed=1)
    sampled = {int(t) for rollout in rollouts for tokens in rollout.tokens for t in tokens}
    assert sampled and not sampled & set(kitchen_mllm.banned_token_ids)
    hidden = torch.zeros(1, kitchen_mllm.model.config.text_config.hidden_size)
    scores = kitchen_mllm.log_probabilities(hidden)
    assert torch.isneginf(scores[0, kitchen_mllm.banned_token_ids]).all()
    assert abs(scores.exp().sum().item() - 1) < 1e-5


def test_sampled_frequencies_follow_the_distribution(kitchen_mllm):
    [prompt] = toy_prompts(kitchen_mllm, 1)
    [rollout] = sample_rollouts(
        kitchen_mllm, [prompt], group_size=4000, max_new_tokens=1, temperature=3.0, seed=0
    )
    expected = plain_distributions(kitchen_mllm, rollout_of_one(rollout), 3.0)[0][0].exp()
    assert expected.max() < 0.9  # else any sampler would pass
    first = torch.cat(rollout.tokens).bincount(minlength=len(expected)) / 4000
    likely = expected > 0.01
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert likely.sum() > 3
    assert ((first - expected)[likely].abs() < 4.5 * deviation[likely]).all()


def rollout_of_one(rollout):
    return replace(rollout, tokens=rollout.tokens[:1], log_probs=rollout.log_probs[:1])


def test_completions_stop_at_the_end_token_and_say_so(kitchen_mllm):
    rollouts = sample_rollouts(
        kitchen_mllm, toy_prompts(kitchen_mllm), group_size=8, max_new_tokens=50, seed=0
    )
    ended = [end for rollout in rollouts for end in rollout.ended]
    assert any(ended) and not all(ended)
    for rollout in rollouts:
        for tokens, log_probs, ended in zip(
            rollout.tokens, rollout.log_probs, rollout.ended, strict=True
        ):
            assert len(tokens) == len(log_probs) <= 50
            assert (tokens[:-1] != kitchen_mllm.eos_token_id).all()
            assert ended == (tokens[-1].item() == kitchen_mllm.eos_token_id)
            assert ended or len(tokens) == 50
