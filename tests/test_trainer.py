"""Training: reproducible to the bit, also through kill -9, and its log says what happened."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from functools import partial

import pytest

from foodseg import presets
from foodseg.common.errors import DataError
from foodseg.common.files import read_lines
from foodseg.common.lock import alone
from foodseg.recipes import DAPO, GRPO, SAM_R1
from foodseg.rl.rehearsal_reward import lottery
from foodseg.supervised.targets import SFT
from foodseg.supervised.training import train_baseline
from foodseg.system import load_policy
from foodseg.training import run_folder, trainer
from foodseg.training.sampler import draw_samples
from foodseg.training.trainer import train

SETTINGS = {
    "steps": 5,
    "checkpoint_every": 2,
    "prompts_per_step": 2,
    "groups_per_update": 1,
    "group_size": 4,
    "max_new_tokens": 80,
    "learning_rate": 1e-3,
}
PRESET = replace(presets.SMOKE, **SETTINGS)
# The same run in a process of its own, so that it can be killed.
SCRIPT = f"""
from dataclasses import replace
from foodseg import presets
from foodseg.data.samples import load_samples
from foodseg.recipes import DAPO
from foodseg.training.trainer import train
preset = replace(presets.SMOKE, **{SETTINGS})
train(preset, DAPO, 1, load_samples(preset.samples_file("train")))
"""


def adapter(run):
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def run_until(home, steps=None, seconds=None):
    """Start the script and kill -9 it once its log has so many rows, or after so many seconds.

    With neither, or if it is done before, it ends by itself.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"FOODSEG_HOME": str(home)},
        stderr=subprocess.PIPE,
    )
    log, started = home / "runs" / "smoke" / "dapo-seed1" / "log.jsonl", time.monotonic()
    while not (steps is seconds is None) and process.poll() is None:
        there = steps and log.exists() and log.read_bytes().count(b"\n") >= steps
        if there or (seconds and time.monotonic() - started > seconds):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    error = process.communicate()[1].decode()
    killed = process.returncode == -signal.SIGKILL
    assert killed if steps else killed or process.returncode == 0, error


def test_a_run_killed_twice_ends_with_the_same_bits(home, samples, campaign):
    train(PRESET, DAPO, 1, samples)
    run = home / "runs" / "smoke" / "dapo-seed1"
    uninterrupted = adapter(run)
    rewards = [row["reward_total"] for row in read_lines(run / "log.jsonl")]
    run.rename(home / "uninterrupted")

    run_until(home, 1)  # before the first checkpoint
    run_until(home, 3)  # between two checkpoints
    assert (run / "state.pt").exists()
    kept = (run / "log.jsonl").read_text().splitlines()[:2]
    started = time.monotonic()
    run_until(home)
    whole = time.monotonic() - started
    # Seconds and all: the steps before the checkpoint were not taken again.
    assert (run / "log.jsonl").read_text().splitlines()[:2] == kept
    assert adapter(run) == uninterrupted
    rows = read_lines(run / "log.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rewards) + 1))
    assert [row["reward_total"] for row in rows] == rewards

    kills = campaign("a training killed by kill -9: the same bits", 2, 20) - 2  # those above
    dice = random.Random(0)
    for number in range(kills):
        if (run / "result.json").exists():
            assert adapter(run) == uninterrupted
            run.rename(home / f"run-{number}")
        run_until(home, seconds=dice.uniform(0, 1.3 * whole))
    run_until(home)
    assert adapter(run) == uninterrupted
    assert [row["reward_total"] for row in read_lines(run / "log.jsonl")] == rewards


def test_what_can_teach_nothing_is_refused_before_a_model_is_loaded(samples, monkeypatch):
    monkeypatch.setattr(trainer, "load_policy", None)
    with pytest.raises(DataError, match="samples: there is none to learn from; build"):
        train(PRESET, GRPO, 0, [])
    with pytest.raises(DataError, match="group_size: 1 teaches nothing"):
        train(replace(PRESET, group_size=1), GRPO, 0, samples)
    for method in (GRPO, DAPO):
        assert not PRESET.run_folder(method.name, 0).exists()
    with pytest.raises(DataError, match="samples: there is none"):
        train_baseline(PRESET, SFT, 0, [])


def test_every_recipe_samples_its_budget_and_no_more(samples):
    silent = draw_samples(samples, 1, 0, 1)[0].sample_id  # the first question's group has no signal

    def brevity(evidence, *, silent):
        words = len(evidence.answer.completion)
        return 0.0 if evidence.sample.sample_id == silent else -words / 100

    short = replace(PRESET, steps=3)
    rollout = short.prompts_per_step * short.group_size
    found = {}
    for recipe in (GRPO, DAPO, replace(GRPO, name="long", budget=2)):
        result = train(
            short, replace(recipe, reward=(partial(brevity, silent=silent),)), 1, samples
        )
        rows = read_lines(short.run_folder(recipe.name, 1) / "log.jsonl")
        assert len(rows) == result["steps"] and sum(r["sampled"] for r in rows) == result["sampled"]
        found[recipe.name] = result["steps"], result["sampled"]
    assert found["grpo"] == (3, 3 * rollout) and found["long"] == (6, 6 * rollout)
    steps, sampled = found["dapo"]
    # The one group that was missing was asked for alone, and another rollout did not fit any more.
    assert (steps, sampled) == (2, 2 * rollout + short.group_size)


@pytest.mark.parametrize("where", [(run_folder, "save_checkpoint"), (trainer, "finish")])
def test_a_run_stopped_at_the_worst_place_keeps_its_bits(home, samples, monkeypatch, where):
    short = replace(PRESET, steps=3)
    train(short, GRPO, 0, samples)
    run = PRESET.run_folder("grpo", 0)
    uninterrupted = adapter(run)
    run.rename(home / "uninterrupted")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*where, stop)
        with pytest.raises(KeyboardInterrupt):
            train(short, GRPO, 0, samples)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "rew')  # as a kill in the middle of a write leaves it
    train(short, GRPO, 0, samples)
    assert adapter(run) == uninterrupted
    assert [row["step"] for row in read_lines(run / "log.jsonl")] == [1, 2, 3]


def test_the_log_and_the_result_say_what_happened(samples):
    preset = replace(PRESET, steps=2, extra_reward=(lottery,))  # a signal, whatever is sampled
    result = train(preset, GRPO, 0, samples)
    train(preset, DAPO, 0, samples)
    # DAPO's KL has no weight, but it is measured.
    assert read_lines(PRESET.run_folder("dapo", 0) / "log.jsonl")[-1]["kl"] > 0
    rows = read_lines(PRESET.run_folder("grpo", 0) / "log.jsonl")
    for row in rows:
        terms = ("thinking_format", "segmentation_format", "accuracy", "non_repeat")
        total = sum(row[f"reward_{term}"] for term in terms)
        assert row["reward_total"] == pytest.approx(total)
        parts = sum(row[f"reward_{term}"] for term in ("iou", "box_l1", "point_l2"))
        assert row["reward_accuracy"] == pytest.approx(parts)
        assert 0 <= row["parse_rate"] <= 1 and 0 <= row["zero_variance"] <= 1
        assert row["kl"] >= 0 and row["entropy"] > 0 and row["length"] > 1
        assert min(row[f"seconds_{phase}"] for phase in ("rollout", "update")) > 0
        failures = sum(row[name] for name in row if name.startswith("failure_"))
        assert row["parse_rate"] + failures == pytest.approx(1)
        assert row["mean_pass"] <= row["pass_at_g"] <= 1 and row["distinct_foods"] <= 4
        assert row["gradient_steps"] == 2 and row["gradient_norm_max"] >= row["gradient_norm"] > 0
    # The second of two updates sees a policy that has moved off the one that sampled.
    assert rows[1]["ratio"] != 1.0 and rows[1]["gain_tokens_p90_100"] > 0
    assert result["seed"] == 0 and result["steps"] == 2 and result["recipe"]["name"] == "grpo"
    assert {"commit", "versions", "device", "seconds", "adapter", "data", "base"} <= result.keys()


def test_a_finished_run_is_kept_beside_another_seeds_and_moved_aside_for_other_settings(samples):
    short = replace(PRESET, steps=1)
    result = train(short, GRPO, 0, samples)
    run = PRESET.run_folder("grpo", 0)
    stamp = (run / "result.json").stat().st_mtime_ns
    assert train(short, GRPO, 0, samples) == result
    assert (run / "result.json").stat().st_mtime_ns == stamp
    train(short, GRPO, 1, samples)
    assert adapter(PRESET.run_folder("grpo", 1)) != adapter(run)
    train(replace(short, learning_rate=1e-4), GRPO, 0, samples)
    [aside] = run.parent.glob("grpo-seed0.before-*")
    assert json.loads((aside / "result.json").read_text()) == result
    assert json.loads((run / "config.json").read_text())["preset"]["learning_rate"] == 1e-4
    # A folder is trained in by one process at a time.
    folder = PRESET.run_folder("dapo", 0)
    with alone(folder), pytest.raises(DataError, match="dapo-seed0: another process is at it"):
        train(short, DAPO, 0, samples)
    assert not folder.exists()


def test_a_finished_run_goes_on_for_more_steps_with_the_bits_of_the_longer_run(samples):
    run = PRESET.run_folder("dapo", 0)
    train(replace(PRESET, steps=4), DAPO, 0, samples)
    whole = adapter(run)
    run.rename(run.with_name("whole"))
    first = train(replace(PRESET, steps=2), DAPO, 0, samples)
    result = train(replace(PRESET, steps=4), replace(DAPO, max_rounds=11), 0, samples)
    assert first["steps"] < result["steps"] and adapter(run) == whole
    assert not list(run.parent.glob("*.before-*"))
    train(replace(PRESET, steps=2), DAPO, 0, samples)  # a step can't be taken back
    assert len(list(run.parent.glob("dapo-seed0.before-*"))) == 1


def test_a_training_leaves_no_model_behind(samples, monkeypatch):
    """On a GPU the next training, and the evaluation, need its room at once."""
    alive = []

    def note(*arguments, **options):
        mllm = load_policy(*arguments, **options)
        alive.append(weakref.ref(mllm.model))
        return mllm

    monkeypatch.setattr(trainer, "load_policy", note)
    gc.collect()
    gc.disable()  # a cycle of references would wait for it, however much it holds
    try:
        # Its reward asks for masks, so the sampler keeps embeddings of photos.
        train(replace(PRESET, steps=1), SAM_R1, 0, samples)
        assert len(alive) == 1 and alive[0]() is None
    finally:
        gc.enable()
