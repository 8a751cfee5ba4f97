"""Sampling: against transformers' own generate, reproducible, and free of vision tokens."""

from dataclasses import replace

import pytest
import torch
from conftest import assert_near, plain_distributions, toy_prompts, toy_rollouts
from transformers import GenerationConfig

from foodseg.models.mllm import Prompt
from foodseg.models.rollouts import BLOCK, pick, sample_rollouts


def flat(rollouts):
    """(tokens, log-probs) of each completion, as lists."""
    return [
        (tokens.tolist(), log_probs.tolist())
        for rollout in rollouts
        for tokens, log_probs in zip(rollout.tokens, rollout.log_probs, strict=True)
    ]


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.5])
def test_greedy_equals_transformers_generate(kitchen_mllm, penalty):
    prompts = toy_prompts(kitchen_mllm)
    options = {"group_size": 1, "max_new_tokens": 20, "temperature": 0.0}
    rollouts = sample_rollouts(kitchen_mllm, prompts, repetition_penalty=penalty, **options)
    plain = sample_rollouts(kitchen_mllm, prompts, **options)
    assert (flat(rollouts) == flat(plain)) == (penalty == 1.0)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=kitchen_mllm.eos_token_id,
        pad_token_id=kitchen_mllm.eos_token_id,
        suppress_tokens=kitchen_mllm.banned_token_ids,
        repetition_penalty=penalty,
    )
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        generated = kitchen_mllm.model.generate(
            input_ids=prompt.input_ids[None],  # whose tokens count as seen
            inputs_embeds=prompt.embeddings[None],
            attention_mask=torch.ones(1, prompt.length, dtype=torch.long),
            position_ids=prompt.position_ids[:, None],
            generation_config=config,
        )
        assert rollout.tokens[0].tolist() == generated[0, prompt.length :].tolist()


def test_same_seed_same_completions_and_another_seed_others(kitchen_mllm):
    def sample(seed):
        return flat(toy_rollouts(kitchen_mllm, 4, 30, temperature=2.0, seed=seed))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_vision_tokens_are_never_sampled_and_their_log_prob_is_minus_infinity(kitchen_mllm):
    def sampled():
        rollouts = toy_rollouts(kitchen_mllm, 8, 30, temperature=2.0, seed=1)
        return torch.cat([tokens for rollout in rollouts for tokens in rollout.tokens])

    # The likeliest tokens take the vision tokens' place: only the ban keeps them out.
    likeliest = sampled().bincount().topk(4).indices.tolist()
    assert kitchen_mllm.eos_token_id not in likeliest
    assert not set(sampled().tolist()) & set(kitchen_mllm.banned_token_ids)
    kitchen_mllm.banned_token_ids = likeliest
    assert not set(sampled().tolist()) & set(likeliest)
    hidden = torch.zeros(1, kitchen_mllm.model.config.text_config.hidden_size)
    scores = kitchen_mllm.log_probabilities(hidden)
    assert torch.isneginf(scores[0, likeliest]).all()
    assert scores.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_sampled_frequencies_follow_the_distribution(kitchen_mllm):
    [rollout] = toy_rollouts(kitchen_mllm, 4000, 1, prompts=1, temperature=2.5, seed=0)
    one = replace(rollout, tokens=rollout.tokens[:1])
    expected = plain_distributions(kitchen_mllm, one, 2.5)[0][0].exp()
    assert expected.max() < 0.9  # else any sampler would pass
    first = torch.cat(rollout.tokens).bincount(minlength=len(expected)) / 4000
    likely = expected > 0.0025  # ten of them are expected
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert likely.sum() > 3
    assert ((first - expected)[likely].abs() < 4.5 * deviation[likely]).all()


def test_completions_stop_at_the_end_token_or_the_limit_and_say_so(kitchen_mllm):
    rollouts = toy_rollouts(kitchen_mllm, 8, 50, seed=0)
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
            assert log_probs.isfinite().all()
    for limit in (1, 2):
        rollouts = toy_rollouts(kitchen_mllm, 2, limit)
        assert [len(tokens) for tokens, _ in flat(rollouts)] == [limit] * 6
        assert not any(end for rollout in rollouts for end in rollout.ended)


def test_pick_is_inverse_transform_sampling():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2000, 3 * BLOCK + 5, generator=generator, dtype=torch.float64) ** 20
    uniforms = torch.rand(2000, generator=generator, dtype=torch.float64)
    cumulative = weights.cumsum(1)
    expected = (cumulative <= (uniforms * cumulative[:, -1])[:, None]).sum(1)
    assert torch.equal(pick(weights, uniforms), expected)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_pick_at_the_ends_takes_no_token_of_probability_0(uniform):
    for first, last in ((0, 7), (3, BLOCK - 1), (BLOCK, 3 * BLOCK), (5, 5)):
        weights = torch.zeros(1, 4 * BLOCK + 1, dtype=torch.float64)
        weights[0, [first, last]] = torch.tensor([0.1, 0.3], dtype=torch.float64)
        token = pick(weights, torch.tensor([uniform], dtype=torch.float64))
        assert token.item() == (last if uniform else first)


def test_pick_survives_rounding_at_every_boundary():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(400, 9 * BLOCK, generator=generator, dtype=torch.float64)
    weights[:, ::BLOCK] = 0.0  # each block begins with a token that must not be found
    ends = weights.unflatten(1, (9, BLOCK)).sum(-1).cumsum(1)
    for uniforms in (ends / ends[:, -1:]).T:
        for u in (uniforms.clamp(max=1 - 2**-53), uniforms.nextafter(torch.zeros_like(uniforms))):
            token = pick(weights, u)
            assert (weights.gather(1, token[:, None]) > 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_of_unlike_length_decode_together_as_alone(kitchen_mllm, temperature):
    prompts = toy_prompts(kitchen_mllm)
    whole = prompts[0]
    prompts.append(
        Prompt(whole.input_ids[-40:], whole.embeddings[-40:], whole.position_ids[:, -40:])
    )
    assert len({p.length for p in prompts}) == 4

    def sample(prompts, group_size):
        options = {"max_new_tokens": 200, "temperature": temperature, "seed": 4}
        return flat(sample_rollouts(kitchen_mllm, prompts, group_size=group_size, **options))

    together = sample(prompts, 3)
    assert len({len(tokens) for tokens, _ in together}) > 1  # rows left the batch one by one
    # A prompt alone has the same random numbers only if it is the first.
    for alone, batched in zip(sample(prompts[:1], 3), together[:3], strict=True):
        assert alone[0] == batched[0]
        assert_near(torch.tensor(alone[1]), torch.tensor(batched[1]), roundings=200)
    [(tokens, _)] = sample(prompts[:1], 1)
    assert tokens == together[0][0]
    if not temperature:
        for index, prompt in enumerate(prompts):
            assert sample([prompt], 1)[0][0] == together[3 * index][0]
