"""What a log keeps for the replay: the same questions again and again, and changes no bit."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import kitchen_folder

from foodseg import presets
from foodseg.common.files import read_lines
from foodseg.data.samples import load_samples
from foodseg.recipes import DAPO, GRPO, VISURF
from foodseg.rl.advantages import group_advantages
from foodseg.training import trainer
from foodseg.training.diagnostics import GradientStep, MiniBatch, ratio_ranges
from foodseg.training.trainer import train
from foodseg.training.watched import Watcher, watched_samples

PRESET = replace(
    presets.SMOKE,
    steps=4,
    checkpoint_every=2,
    prompts_per_step=2,
    groups_per_update=1,
    group_size=4,
    max_new_tokens=80,
    learning_rate=1e-3,
)


def log_of(recipe):
    return read_lines(PRESET.run_folder(recipe.name, 0) / "log.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The log of a run of GRPO that nobody stopped."""
    root = tmp_path_factory.mktemp("whole")
    kitchen_folder(root)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FOODSEG_HOME", str(root))
        train(PRESET, GRPO, 0, load_samples(PRESET.samples_file("train")))
        return log_of(GRPO)


FIELDS = ("watched", "watched_after", "group", "group_ratios", "group_rewards")


def adapter(run):
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_first_questions_for_one_two_and_more_foods_are_watched_each_of_another_plate():
    def ask(image, count):
        return SimpleNamespace(image=image, foods=("rice",) * count)

    samples = [ask("a", 1), ask("b", 1), ask("a", 2), ask("c", 2), ask("c", 5), ask("d", 4)]
    assert watched_samples(samples) == [samples[0], samples[3], samples[5]]
    assert watched_samples(samples[1:2]) == samples[1:2] and watched_samples([]) == []


def test_steps_are_looked_at_by_fibonaccis_numbers(samples):
    watcher = Watcher(None, PRESET, GRPO, samples)
    assert [i + 1 for i in range(40) if watcher.due(i)] == [1, 2, 3, 5, 8, 13, 21, 34]
    helper = Watcher(None, PRESET, GRPO, samples, SimpleNamespace(main=False))
    assert not any(map(helper.due, range(5))) and helper.before(0) == {}
    assert helper.choose(None, 0, True) is None and helper.after({"loss": 1.0}) == {"loss": 1.0}


def test_a_run_that_is_watched_has_the_bits_of_one_that_is_not(samples, monkeypatch):
    preset = replace(PRESET, steps=3, max_new_tokens=48)
    run = preset.run_folder(DAPO.name, 0)
    train(preset, DAPO, 0, samples)
    bits, watched = adapter(run), log_of(DAPO)
    run.rename(run.with_name("watched"))
    monkeypatch.setattr(trainer, "Watcher", lambda *_: Watcher(None, preset, DAPO, []))
    train(preset, DAPO, 0, samples)
    assert adapter(run) == bits
    for row, other in zip(log_of(DAPO), watched, strict=True):
        assert not {*FIELDS, "seconds_watched"} & row.keys()
        same = [name for name in row if not name.startswith(("seconds", "peak"))]
        assert [row[name] for name in same] == [other[name] for name in same]


def test_the_log_has_each_looks_answers_and_its_group_as_it_was_learnt_from(whole, samples):
    rows, ids = whole, [sample.sample_id for sample in watched_samples(samples)]
    looks = [row for row in rows if "watched" in row]
    assert [row["step"] for row in looks] == [1, 2, 3] and len(ids) == 3
    for answers in [row["watched"] for row in looks] + [rows[-1]["watched_after"]]:
        assert [one["sample_id"] for one in answers] == ids
        assert all(one["text"] and 0 <= one["reward"]["total"] <= 7 for one in answers)
    # The first is the base's, and what is learnt shows.
    assert looks[0]["watched"] != rows[-1]["watched_after"]
    for row in (*looks, rows[-1]):
        group = row["group"]
        rewards = [sum(points.values()) for points in group["points"]]
        assert rewards == pytest.approx(row["group_rewards"][group["place"]])
        assert group["advantages"] == pytest.approx(group_advantages([rewards])[0])
        assert len(group["texts"]) == len(row["group_ratios"]) == PRESET.group_size
        assert all(low <= high for low, high in row["group_ratios"])
        assert len(row["group_rewards"]) == PRESET.prompts_per_step
    # Of the second mini-batch, whose policy has moved.
    assert any(high > 1.001 for row in looks[1:] for _, high in row["group_ratios"])
    assert len(json.dumps(looks[0])) < 12_000


def test_a_run_that_was_stopped_has_the_log_that_it_would_have_had(whole, samples, monkeypatch):
    take = trainer.PolicyLearner.step

    def stop(learner, index):
        if index == 3:
            raise KeyboardInterrupt
        return take(learner, index)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.PolicyLearner, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(PRESET, GRPO, 0, samples)
    train(PRESET, GRPO, 0, samples)
    kept, known = ([[row.get(n) for n in FIELDS] for row in log] for log in (log_of(GRPO), whole))
    assert kept == known


def test_a_true_answer_that_joins_a_group_is_logged_with_it(samples):
    train(replace(PRESET, steps=1), VISURF, 0, samples)
    (row,) = log_of(VISURF)
    group = row["group"]
    assert len(group["texts"]) == len(row["group_ratios"]) == PRESET.group_size + 1
    assert len(row["group_rewards"][group["place"]]) == PRESET.group_size


def test_a_groups_ratios_are_those_of_its_own_tokens():
    def rollout(*lengths):
        return SimpleNamespace(tokens=[torch.zeros(n) for n in lengths])

    first, second, absent = rollout(1, 2), rollout(2, 1), rollout(1)
    mask = torch.tensor([[1, 0], [1, 1], [1, 1], [1, 0]], dtype=torch.bool)
    old = torch.log(torch.tensor([[0.5, 9], [0.5, 0.5], [0.2, 0.4], [0.5, 9]]))
    new = torch.log(torch.tensor([[0.5, 1], [0.5, 0.5], [0.3, 0.2], [0.6, 1]]))
    batch = MiniBatch([first, second], mask, None, old, new, 1.0)
    steps = [GradientStep([], 1.0, None), GradientStep([], 1.0, batch)]
    assert ratio_ranges(steps, second) == [[0.5, 1.5], [1.2, 1.2]]
    assert ratio_ranges(steps, first)[1] == [1.0, 1.0] and ratio_ranges(steps, absent) is None
