"""The GPU benchmark's code on a CPU: toy sizes, the same functions, and the page on a sample."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from foodseg.bench import cuda, cuda_capped, cuda_checks
from foodseg.bench.cuda_page import NOT_MEASURED, cuda_sections
from foodseg.bench.cuda_phases import WITHOUT_KL, measure_rollout, measure_step
from foodseg.bench.cuda_work import (
    Setting,
    answer_well,
    build_policy,
    build_samples,
    open_photos,
    true_setting,
)
from foodseg.bench.work import Shape
from foodseg.models.random_mllm import qwen2_5_vl_3b, shrink
from foodseg.models.rollouts import sample_rollouts
from foodseg.models.shared_prefix import TokenScores, score_groups
from foodseg.recipes import GRPO
from foodseg.rl.groups import score_group

TOY = Setting(
    config=shrink(qwen2_5_vl_3b()),
    shape=Shape(prompts=2, group_size=4, length=6, updates=1),
    image_side=112,
    prompt_tokens=120,
    lora_rank=4,
    dtype="float32",
    device="cpu",
    repeats=1,
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    mllm = build_policy(TOY)
    return mllm, build_samples(mllm, TOY, tmp_path_factory.mktemp("plates"))


def test_the_true_setting_is_the_shape_whose_floor_is_known():
    setting = true_setting()
    assert setting.facts() == {
        "prompts": 8,
        "group_size": 8,
        "completion_tokens": 150,
        "prompt_tokens": 1100,
        "image_side": 840,
        "lora_rank": 64,
        "dtype": "bfloat16",
        "repeats": 5,
    }
    assert setting.preset(2).updates_per_rollout == 2


def test_plates_become_samples_whose_prompts_have_the_length_asked_for(toy):
    mllm, samples = toy
    visual = mllm.embed_images(open_photos(samples))
    prompts = mllm.embed_prompts([sample.question for sample in samples], visual)
    assert all(TOY.prompt_tokens - 8 < prompt.length <= TOY.prompt_tokens for prompt in prompts)
    assert all(len(sample.references) == len(sample.foods) >= 2 for sample in samples)
    rollouts = sample_rollouts(mllm, prompts, group_size=2, max_new_tokens=4)
    # No completion may end early, and what is scored is worth scoring.
    assert not any(end for rollout in rollouts for end in rollout.ended)
    answered = answer_well(samples, rollouts)[0]
    assert score_group(samples[0], answered, TOY.image_side).rewards == [7.0, 7.0]


def test_every_phase_is_measured_and_a_steps_phases_add_up(toy):
    mllm, samples = toy
    rollout = measure_rollout(mllm, TOY, samples)
    assert set(rollout) == {"vision", "prompts", "prefill", "sampling", "scoring", "decode"}
    seconds = {name: phase["seconds"] for name, phase in rollout.items()}
    # A difference of two timings, which on a busy machine may be anything.
    decode = seconds.pop("decode")
    assert decode == pytest.approx(seconds["sampling"] - seconds["prefill"], abs=1e-4)
    assert min(seconds.values()) > 0
    before = [p.clone() for p in mllm.lora_parameters()]
    step = measure_step(mllm, TOY, samples, updates=2, recipe=GRPO)
    assert any(not torch.equal(a, b) for a, b in zip(before, mllm.lora_parameters(), strict=True))
    seconds = {name: phase["seconds"] for name, phase in step["phases"].items()}
    whole = seconds.pop("step")
    assert set(seconds) == {"rollout", "reference", "forward", "backward", "optimizer"}
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) == pytest.approx(whole, abs=1e-4)
    assert step["plan"]["parts"] == 1


def test_the_floors_step_leaves_the_kl_out():
    assert WITHOUT_KL.objective.kl_weight == 0 < GRPO.objective.kl_weight
    assert replace(WITHOUT_KL, objective=GRPO.objective) == GRPO


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_checks_hold(dtype, tmp_path):
    checks = cuda_checks.run_checks(replace(TOY, dtype=dtype), tmp_path)
    assert len(checks) == 6
    assert all(check["holds"] for check in checks.values()), checks


def test_the_checks_notice_scores_that_are_a_little_wrong(tmp_path, monkeypatch):
    def warmer(mllm, rollouts, temperature):
        scores = score_groups(mllm, rollouts, 1.03 * temperature)
        return TokenScores(scores.log_probs, scores.entropies, scores.mask)

    monkeypatch.setattr(cuda_checks, "score_groups", warmer)
    checks = cuda_checks.run_checks(replace(TOY, dtype="bfloat16"), tmp_path)
    wrong = {name for name, check in checks.items() if not check["holds"]}
    assert wrong == {"packed log-probs", "packed gradients"}


def test_stages_write_what_they_have_and_leave_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "measure_ceilings", lambda device: CEILINGS)
    path = tmp_path / cuda.RESULT
    path.write_text(json.dumps({"trl": {"8": {"error": "out of memory"}}}))
    cuda.run_stages(["check", "step"], TOY, tmp_path, commit="abc")
    result = json.loads(path.read_text())
    assert result["commit"] == "abc" and result["setting"] == TOY.facts()
    assert result["trl"] == {"8": {"error": "out of memory"}}
    assert set(result["step"]) == {
        "measured",
        "ceilings",
        "rollout",
        "floor",
        "one update",
        "two updates",
    }
    page = "\n".join(cuda_sections(tmp_path))
    assert "commit abc" in page and "**the whole step**" in page and "| packed gradients |" in page


def test_a_stage_that_breaks_off_keeps_what_it_had(tmp_path, monkeypatch):
    def broken(setting):
        yield {"24": {"error": "none"}}
        raise RuntimeError("CUDA error")

    monkeypatch.setitem(cuda.STAGES, "memory", broken)
    with pytest.raises(RuntimeError):
        cuda.run_stages(["memory"], TOY, tmp_path)
    assert json.loads((tmp_path / cuda.RESULT).read_text())["memory"]["24"] == {"error": "none"}


def test_ceilings_are_positive():
    ceilings = cuda.measure_ceilings(torch.device("cpu"), side=64)
    assert ceilings["tflops"] >= 0 and ceilings["tb_per_second"] >= 0


def test_a_child_process_gives_its_result_or_why_there_is_none(tmp_path):
    (tmp_path / "in.json").write_text('{"a": 1}')
    assert cuda.run_child("json.tool", tmp_path / "in.json") == {"a": 1}
    assert "No such file" in cuda.run_child("json.tool", tmp_path / "missing.json")["error"]


def test_running_out_of_memory_is_a_result(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More words.")

    assert cuda_capped.measure_capped(TOY)["phases"]["step"]["seconds"] > 0
    monkeypatch.setattr(cuda_capped, "measure_step", full)
    assert cuda_capped.measure_capped(TOY) == {"error": "CUDA out of memory"}


def test_trl_trains_the_same_model_at_the_same_shape():
    pytest.importorskip("trl")
    from foodseg.bench.cuda_trl import measure_trl

    phases = measure_trl(TOY, micro_batch=4, checkpointing=False)["phases"]
    assert phases["step"]["seconds"] > phases["rollout"]["seconds"] > 0


def test_without_a_gpu_one_sentence_is_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda.main(["step", "--figures", str(tmp_path)])
    assert capsys.readouterr().out.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert cuda_sections(tmp_path) == [NOT_MEASURED]


def test_an_unknown_stage_is_named(capsys):
    with pytest.raises(SystemExit):
        cuda.main(["speed"])
    assert "stage speed is unknown; use some of check, step" in capsys.readouterr().err


CEILINGS = {"tflops": 780.0, "tb_per_second": 4.25}


def phase(seconds: float, gigabytes: float = 10.0) -> dict:
    return {
        "seconds": seconds,
        "fastest": seconds - 0.01,
        "slowest": seconds + 0.01,
        "allocated_gb": gigabytes,
        "reserved_gb": gigabytes + 1,
    }


def step(seconds: float, gigabytes: float = 10.0) -> dict:
    parts = {"rollout": 0.5, "forward": 0.2, "backward": 0.3, "optimizer": 0.002}
    plan = {"groups": 2, "parts": 1, "checkpointed": 9, "counted_gb": 12.3, "free_gb": 13.0}
    phases = {name: phase(value) for name, value in parts.items()}
    return {"phases": phases | {"step": phase(seconds, gigabytes)}, "plan": plan}


SAMPLE = {
    "device": "NVIDIA H200",
    "date": "2026-12-01",
    "commit": "0123456789ab",
    "versions": {"torch": "2.15.0", "transformers": "5.23.0"},
    "setting": true_setting().facts(),
    "check": {
        "measured": {"date": "2026-12-01"},
        "packed log-probs": {"plain": 0.004, "error": 0.005, "limit": 0.008, "holds": True},
        "greedy tokens": {"error": 0.5, "limit": 0.0, "holds": False},
    },
    "step": {
        "measured": {"date": "2026-12-01"},
        "ceilings": CEILINGS,
        "rollout": {"vision": phase(0.1), "prefill": phase(0.128), "decode": phase(0.3)},
        "floor": step(1.3),
        "one update": step(1.5, 60.0),
    },
    "memory": {"24": step(2.0, 23.0), "48": {"error": "CUDA out of memory"}},
    "trl": {"8": step(15.0, 90.0), "16, checkpointed": {"error": "not done after 180 s"}},
}


def test_the_page_shows_floors_ratios_plans_and_failures(tmp_path):
    (tmp_path / cuda.RESULT).write_text(json.dumps(SAMPLE))
    page = "\n".join(cuda_sections(tmp_path))
    assert "NVIDIA H200, 2026-12-01, commit 0123456789ab, PyTorch 2.15.0" in page
    assert "| packed log-probs | 5.0e-03 | 4.0e-03 | 8.0e-03 | yes |" in page
    assert "| greedy tokens | 5.0e-01 |  | 0.0e+00 | **no** |" in page
    assert "| vision tower | 100 | 50 | 2.0 | 10.0 |" in page
    assert "| **the whole step** | 1300 | 650 | 2.0 | 10.0 |" in page
    assert "780 TFLOP/s" in page
    assert "| one update, KL | 0.50 | 1.00 | 1.50 | 1.49 to 1.51 | 60.0 |" in page
    assert "| 24 GB | 2.00 | 23.0 (24.0 reserved) | 2 groups in a forward, 9 layers" in page
    assert "| 48 GB |  |  | CUDA out of memory |" in page
    assert "| TRL, micro-batch 16, checkpointed |  |  |  | not done after 180 s |" in page
    assert "TRL's fastest takes 10.0 times as long." in page


def test_the_page_shows_the_stages_that_there_are(tmp_path):
    part = {key: value for key, value in SAMPLE.items() if key not in ("step", "check", "memory")}
    (tmp_path / cuda.RESULT).write_text(json.dumps(part))
    page = "\n".join(cuda_sections(tmp_path))
    assert "TRL, micro-batch 8 |" in page and "times as long" not in page
