"""TRL and this trainer on the same rollouts, and the whole benchmark at its smallest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import kitchen_folder

pytest.importorskip("trl", reason="the optional extra: make bench installs it")

from foodseg.bench import equal_losses, trl_side
from foodseg.bench.equal_losses import UnequalLossError, compare_losses
from foodseg.bench.run import Effort, benchmark
from foodseg.bench.scaling import Point
from foodseg.bench.work import Shape, bench_preset, training_questions
from foodseg.models.rollouts import Rollout
from foodseg.recipes import GRPO
from foodseg.rl.groups import score_group

SMALL = Shape(prompts=2, group_size=4, length=80)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The smoke plates in the kitchen's place: the benchmark's model is the kitchen's."""
    kitchen_folder(tmp_path)
    (tmp_path / "datasets" / "smoke").rename(tmp_path / "datasets" / "kitchen")
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))  # for processes
    return tmp_path


def test_trl_computes_the_same_loss_and_gradients():
    agreement = compare_losses(SMALL)
    agreement.check()
    # The check reaches what it is to check: gradients, more than one update, the clip range.
    assert agreement.trl_gradient_norm > 0.01
    assert len(agreement.gradient_errors) == SMALL.updates
    assert agreement.clipped_ratios > 0


def test_another_objective_is_noticed(monkeypatch):
    other = replace(GRPO, objective=replace(GRPO.objective, kl_weight=6e-3))
    monkeypatch.setattr(trl_side, "GRPO", other)
    with pytest.raises(UnequalLossError, match="nothing is timed"):
        compare_losses(SMALL).check()


def test_another_prompt_is_noticed(monkeypatch):
    drawn = equal_losses.in_drawing_order

    def others(sampler, count):
        return drawn(sampler, count + 1)[1:]

    monkeypatch.setattr(equal_losses, "in_drawing_order", others)
    with pytest.raises(UnequalLossError, match="prompt tokens"):
        compare_losses(SMALL)


def test_trl_is_paid_as_this_trainer_is():
    preset = bench_preset(SMALL)
    sample = training_questions(preset)[0]
    box, (x, y) = sample.references[0].box, sample.references[0].point
    scale = preset.image_side / sample.width, preset.image_side / sample.height
    right = {
        "bbox_2d": [round(v * scale[i % 2]) for i, v in enumerate(box)],
        "point_2d": [round(x * scale[0]), round(y * scale[1])],
    }
    texts = ("", f"<think>a</think> <answer>{json.dumps([right])}</answer>")
    rollout = Rollout(None, (), (), texts, (True, True))
    paid = score_group(sample, rollout, preset.image_side).rewards
    assert paid[1] > 4 > paid[0]
    function = trl_side._reward_function([sample], preset.image_side)
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    assert function(completions=completions, index=[0, 0], prompts=None) == paid


def test_the_whole_benchmark_at_its_smallest(home):
    effort = Effort(
        shape=Shape(prompts=2, group_size=2, length=12),
        rounds=1,
        points=(Point(2, 192, 64), Point(8, 192, 64), Point(8, 48, 64), Point(8, 192, 16)),
        scaling_repeats=1,
        questions=4,
        evaluation_repeats=1,
    )
    benchmark(effort, home)
    results = json.loads((home / "benchmark.json").read_text())
    assert {name: len(rows) for name, rows in results["sides"].items()} == {
        "this": 1,
        "plain": 1,
        "trl": 1,
    }
    for rows in results["sides"].values():
        (row,) = rows
        assert row["step"] == pytest.approx(sum(row[p] for p in ("rollout", "scoring", "update")))
        assert min(row["rollout"], row["update"]) > 0
    assert max(results["agreement"]["errors"]) < 1e-4
    assert results["evaluation"]["questions"] == 4
    assert (home / "benchmark.png").exists() and (home / "benchmark.md").exists()
