"""ViSurf: the true answer in the group, its log-probs, and its reward's controls."""

from dataclasses import replace

import pytest
import torch

from foodseg.common.files import read_lines
from foodseg.data.references import scale_reference
from foodseg.methods.visurf import bare_answer, smooth, told_answer
from foodseg.models.rollouts import TEMPERATURE
from foodseg.presets import SMOKE
from foodseg.recipes import GRPO, VISURF
from foodseg.rl.advantages import group_advantages
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import total
from foodseg.supervised.targets import write_references
from foodseg.system import load_policy
from foodseg.training.sampler import GroupSampler
from foodseg.training.trainer import train
from foodseg.training.updates import PolicyUpdater

SIDE = SMOKE.image_side
PRESET = replace(SMOKE, prompts_per_step=2, group_size=4, max_new_tokens=160)


def test_the_true_answer_is_right_in_all_but_its_thinking(samples):
    for sample in samples[:5]:
        answer = parse_answer(bare_answer(sample, SIDE))
        scaled = [scale_reference(r, sample.size, (SIDE, SIDE)) for r in sample.references]
        assert [one.box for one in answer.objects] == [r.box for r in scaled]
        assert answer.thinking == ""
        told = parse_answer(told_answer(sample, SIDE))
        assert (told.objects, told.thinking) == (answer.objects, sample.answer)
        assert told_answer(sample, SIDE) == write_references(sample, SIDE)


@pytest.mark.parametrize(
    "rewards, smoothing", [([1.0, 5.9], 0.0), ([1.0, 6.0], -2.5), ([1.0, 7.0, 4.0], -2.0)]
)
def test_its_reward_is_the_mean_once_a_completion_earns_as_much(rewards, smoothing):
    points = {"segmentation_format": 2.0, "accuracy": 3.0, "non_repeat": 1.0}
    smoothed = smooth(points, rewards)
    assert smoothed == points | {"smoothing": smoothing}
    advantages = group_advantages([[*rewards, total(smoothed)]])[0]
    assert (advantages[-1] == pytest.approx(0)) == bool(smoothing)
    assert smoothing or advantages[-1] > max(advantages[:-1])


def test_it_joins_what_is_learnt_from_and_not_the_log(samples, knowing):
    mllm = load_policy(replace(PRESET, mllm=knowing))
    mllm.add_lora(rank=4, alpha=8, seed=0)
    plain = GroupSampler(mllm, PRESET, GRPO, samples, seed=0).next_batch()
    batch = GroupSampler(mllm, PRESET, VISURF, samples, seed=0).next_batch()
    for group, seen, without in zip(batch.groups, batch.seen, plain.groups, strict=True):
        assert seen.rollout.texts == without.rollout.texts == group.rollout.texts[:-1]
        assert group.rollout.texts[-1] == bare_answer(group.sample, SIDE)
        assert len(group.rewards) == len(group.evidence) == 5 and len(seen.rewards) == 4
        assert group.rewards[:-1] == without.rewards
        points = group.points[-1]
        assert points["thinking_format"] == 0 and points["accuracy"] == 3
        assert group.rollout.ended[-1] and group.rollout.tokens[-1][-1] == mllm.eos_token_id
        # its log-probs one token after another, from the prompt's own forward
        prompt, tokens = group.rollout.prompt, group.rollout.tokens[-1]
        embeddings = torch.cat([prompt.embeddings, mllm.embed_tokens(tokens)])[None]
        steps = torch.arange(len(tokens)) + prompt.next_position
        positions = torch.cat([prompt.position_ids, steps.expand(3, -1)], 1)[:, None]
        with torch.no_grad():
            hidden = mllm.hidden_states(embeddings, None, positions)[0, prompt.length - 1 : -1]
            expected = mllm.log_probabilities(hidden, TEMPERATURE)
        expected = expected.gather(1, tokens[:, None])[:, 0].float()
        torch.testing.assert_close(group.rollout.log_probs[-1], expected, rtol=0, atol=2e-4)


def test_a_step_makes_the_true_answer_likelier_and_a_run_trains(samples):
    preset = replace(PRESET, steps=2, learning_rate=1e-3)
    mllm = load_policy(preset)  # the base, which seldom earns as much
    mllm.add_lora(rank=4, alpha=8, seed=0)
    sampler = GroupSampler(mllm, preset, VISURF, samples, seed=0)
    batch = sampler.next_batch()
    assert any(group.points[-1]["smoothing"] == 0 for group in batch.groups)
    PolicyUpdater(mllm, preset, VISURF).update(batch.groups)
    after = [sampler._with_true_answers(replace(batch, groups=batch.seen)).groups]
    for group, later in zip(batch.groups, after[0], strict=True):
        if group.points[-1]["smoothing"] == 0:
            assert later.rollout.log_probs[-1].sum() > group.rollout.log_probs[-1].sum()
    train(preset, VISURF, 0, samples)
    rows = read_lines(preset.run_folder("visurf", 0) / "log.jsonl")
    assert all(row["gradient_norm"] > 0 and "points_smoothing" not in row for row in rows)
