"""Demonstrations: right, learnt from, and counted in no curve."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
import torch
from conftest import kitchen_folder, load_kitchen

from foodseg import presets
from foodseg.data.samples import load_samples
from foodseg.presets import SMOKE
from foodseg.recipes import DAPO, GRPO
from foodseg.rl.advantages import holistic
from foodseg.rl.demonstrations import demonstrate, without_demonstration
from foodseg.rl.evidence import gather_evidence
from foodseg.rl.groups import GroupSampler, draw_samples, roll_out
from foodseg.rl.log import step_row
from foodseg.rl.shared_prefix import score_groups
from foodseg.rl.updates import PolicyUpdater
from foodseg.supervised.targets import write_references

PRESET = replace(SMOKE, prompts_per_step=2, group_size=3, max_new_tokens=40)
SHOWN = replace(GRPO, name="shown", demonstration=write_references)


@pytest.fixture()
def samples(tmp_path, monkeypatch):
    kitchen_folder(tmp_path)
    monkeypatch.setattr(presets, "HOME", tmp_path)
    return load_samples(SMOKE.single("train"))


def sampler_of(recipe, samples):
    mllm = load_kitchen(torch.float32)
    mllm.add_lora(4, 8, seed=0)
    return GroupSampler(mllm, PRESET, recipe, samples, seed=0)


def test_what_is_demonstrated_earns_full_marks(samples):
    side = SMOKE.image_side
    for sample in samples:
        [evidence] = gather_evidence(sample, [write_references(sample, side)], side)
        assert evidence.score.total == 7


def test_a_demonstration_joins_what_was_sampled_and_changes_nothing_of_it(samples):
    plain, shown = (sampler_of(recipe, samples).next_batch() for recipe in (GRPO, SHOWN))
    for before, group, seen in zip(plain.groups, shown.groups, shown.seen, strict=True):
        assert group.rollout.texts[:3] == seen.rollout.texts == before.rollout.texts
        assert group.rewards[:3] == seen.rewards == before.rewards and group.rewards[3] == 7
        assert group.rollout.texts[3] == write_references(group.sample, SMOKE.image_side)
        assert group.rollout.ended[3] and len(group.rollout.tokens) == 4


def test_its_tokens_are_its_text_and_the_end(samples):
    sampler = sampler_of(SHOWN, samples)
    tokenizer, [group, _] = sampler.mllm.tokenizer, sampler.next_batch().groups
    *words, end = group.rollout.tokens[-1].tolist()
    assert tokenizer.decode(words) == group.rollout.texts[-1]
    assert end == sampler.mllm.eos_token_id
    assert group.rollout.log_probs[-1].isnan().all()
    assert len(group.rollout.log_probs[-1]) == len(words) + 1


def test_where_every_sample_fails_the_group_still_teaches(samples):
    sampler = sampler_of(replace(SHOWN, dynamic_sampling=True), samples)
    sampler.preset = replace(PRESET, max_new_tokens=1)  # nothing can be said
    batch = sampler.next_batch()
    assert batch.rounds == 1
    for group, advantages in zip(batch.groups, holistic(batch.groups), strict=True):
        assert len(set(group.rewards[:3])) == 1 and advantages[3] > 1 > 0 > advantages[0]
        assert not group.parsed[0]


def test_curves_do_not_count_it(samples):
    sampler = sampler_of(SHOWN, samples)
    batch = sampler.next_batch()
    update = PolicyUpdater(sampler.mllm, PRESET, SHOWN).update(batch.groups)
    row = step_row(batch, update)
    sampled = [score for group in batch.groups for score in group.scores[:3]]
    assert row["reward_total"] == pytest.approx(fmean(score.total for score in sampled))
    assert row["sampler_gap"] < 1e-4  # and so no NaN
    [group, _] = batch.groups
    assert without_demonstration(group).parsed == group.parsed[:3]


@pytest.mark.parametrize("recipe", [GRPO, DAPO])
def test_the_policy_learns_to_say_it(samples, recipe):
    """Its log-probability rises over one step, which it does not without a demonstration."""
    gains = []
    recipe = replace(recipe, dynamic_sampling=False)  # completions of 40 tokens all fail alike
    for one in (replace(recipe, demonstration=write_references), recipe):
        sampler = sampler_of(one, samples)
        sampler.preset = replace(PRESET, learning_rate=1e-3, warmup_steps=0)
        updater = PolicyUpdater(sampler.mllm, sampler.preset, one)
        before = shown_log_probability(sampler.mllm, samples)
        updater.update(sampler.next_batch().groups)
        gains.append(shown_log_probability(sampler.mllm, samples) - before)
    assert gains[0] > max(gains[1], 0)


def shown_log_probability(mllm, samples) -> float:
    """Mean log-probability of the demonstrations' tokens for the sampler's first questions."""
    drawn = draw_samples(samples, 0, 0, PRESET.prompts_per_step)
    short = replace(PRESET, max_new_tokens=1)
    rollouts = [
        demonstrate(rollout, write_references(sample, PRESET.image_side), mllm)
        for sample, rollout in zip(drawn, roll_out(mllm, short, drawn, 1, 0.0), strict=True)
    ]
    with torch.no_grad():
        scores = score_groups(mllm, rollouts)
    return float(scores.log_probs[1::2].sum() / scores.mask[1::2].sum())
