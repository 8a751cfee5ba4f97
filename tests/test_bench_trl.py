"""TRL and this trainer on the same rollouts, and the whole benchmark at its smallest."""

import json
from dataclasses import replace

import pytest
from conftest import kitchen_folder

pytest.importorskip("trl", reason="the optional extra: make bench installs it")

from foodseg.bench import trl_trainer
from foodseg.bench.equal_losses import UnequalLossError, compare_losses
from foodseg.bench.page import write_figures
from foodseg.bench.run import Effort, run
from foodseg.bench.scaling import Point
from foodseg.bench.workload import STEP
from foodseg.common.files import write_json
from foodseg.data.samples import load_samples
from foodseg.models.prompts import build_messages
from foodseg.models.rollouts import Rollout
from foodseg.recipes import GRPO
from foodseg.rl.groups import score_group
from foodseg.supervised.targets import write_references

SMALL = replace(STEP, prompts_per_step=4, groups_per_update=2, group_size=4, max_new_tokens=80)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The smoke plates in the kitchen's place: the benchmark's model is the kitchen's."""
    kitchen_folder(tmp_path)
    (tmp_path / "datasets" / "smoke").rename(tmp_path / "datasets" / "kitchen")
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture()
def samples(home):
    return load_samples(SMALL.samples_file("train"))


def test_trl_computes_the_same_loss_and_gradients(samples):
    agreement = compare_losses(SMALL, samples)
    agreement.check()
    # The check reaches what it is to check: gradients, more than one update, the clip range.
    assert agreement.trl_gradient_norm > 0.01
    assert len(agreement.gradient_errors) == SMALL.updates_per_step
    assert agreement.clipped_ratios > 0


def test_another_objective_or_prompt_is_noticed(samples, monkeypatch):
    other = replace(GRPO, objective=replace(GRPO.objective, kl_weight=6e-3))
    monkeypatch.setattr(trl_trainer, "GRPO", other)
    with pytest.raises(UnequalLossError, match="nothing is timed"):
        compare_losses(SMALL, samples).check()

    def other(question, template):
        return build_messages(question + " Now.", template)

    monkeypatch.setattr(trl_trainer, "build_messages", other)
    with pytest.raises(UnequalLossError, match="prompt tokens"):
        compare_losses(SMALL, samples)


def test_trl_is_paid_as_this_trainer_is(samples):
    sample = samples[0]
    texts = ("", write_references(sample, SMALL.image_side))
    rollout = Rollout(None, (), (), texts, (True, True))
    paid = score_group(sample, rollout, SMALL.image_side, thresholds=SMALL.thresholds).rewards
    assert paid[1] == 7 > 4 > paid[0]
    function = trl_trainer.make_reward([sample], SMALL)
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    assert function(completions=completions, index=[0, 0], prompts=None) == paid


def test_the_whole_benchmark_at_its_smallest(home):
    effort = Effort(
        preset=replace(
            STEP, prompts_per_step=2, groups_per_update=1, group_size=2, max_new_tokens=12
        ),
        rounds=1,
        points=(Point(2, 192, 64), Point(8, 192, 64), Point(8, 48, 64), Point(8, 192, 16)),
        scaling_repeats=1,
        questions=4,
        evaluation_repeats=1,
    )
    write_json(home / "benchmark.json", run(effort))
    write_figures(home)
    results = json.loads((home / "benchmark.json").read_text())
    assert results["sides"].keys() == {"this", "plain", "trl"}
    for rows in results["sides"].values():
        (row,) = rows
        assert row["step"] == pytest.approx(sum(row[p] for p in ("rollout", "scoring", "update")))
        assert min(row["rollout"], row["update"]) > 0
    assert max(results["agreement"]["errors"]) < 1e-4
    assert results["evaluation"]["questions"] == 4
    assert (home / "benchmark.png").exists() and (home / "benchmark.md").exists()
