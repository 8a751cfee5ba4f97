"""The GPU benchmark's code on a CPU: toy sizes, the same functions, and the page on a sample."""

import json
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from foodseg.bench.cuda import __main__ as cuda
from foodseg.bench.cuda.page import NOT_MEASURED, cuda_section
from foodseg.bench.cuda.rollout import rollout_by_phase
from foodseg.bench.cuda.workload import (
    PROMPT_TOKENS,
    STEP,
    WITHOUT_KL,
    draw_questions,
    random_policy,
)
from foodseg.bench.paired_timing import SideFailedError, Turns
from foodseg.bench.this_trainer import this_trainer
from foodseg.bench.workload import ban_end_token
from foodseg.models.random_mllm import qwen2_5_vl_3b, shrink
from foodseg.recipes import GRPO
from foodseg.system import read_photos, roll_out

TOY = replace(
    STEP,
    prompts_per_step=2,
    groups_per_update=2,
    group_size=4,
    max_new_tokens=6,
    image_side=112,
    lora_rank=4,
    dtype="float32",
    device="cpu",
)
LOAD = partial(random_policy, shrink(qwen2_5_vl_3b()))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return draw_questions(tmp_path_factory.mktemp("plates"), TOY.prompts_per_step)


def in_this_process(trials, rounds, *_):
    """`take_turns` of one trial after another, without processes."""
    rows = {title: [] for title in trials}
    for title, (side, arguments) in trials.items():
        connection = SimpleNamespace(send=rows[title].append, recv=lambda: None)
        side(Turns(connection), rounds, *arguments)
    return {title: reports[1:] for title, reports in rows.items()}


def rows_of(side, *arguments):
    return in_this_process({"": (side, arguments)}, 1)[""]


def test_the_step_is_the_shape_whose_floor_is_known(samples):
    sizes = (STEP.prompts_per_step, STEP.group_size, STEP.max_new_tokens, STEP.updates_per_step)
    assert sizes == (8, 8, 150, 1)
    model = (STEP.image_side, STEP.lora_rank, STEP.dtype, STEP.device)
    assert model == (840, 64, "bfloat16", "cuda")
    mllm = LOAD(replace(TOY, image_side=STEP.image_side))
    photo = torch.zeros(900, 64)
    prompts = mllm.embed_prompts([s.question for s in samples], [photo] * len(samples))
    assert all(abs(prompt.length - PROMPT_TOKENS) < 8 for prompt in prompts)
    assert WITHOUT_KL.objective.kl_weight == 0 < GRPO.objective.kl_weight
    assert replace(WITHOUT_KL, objective=GRPO.objective) == GRPO


def test_each_question_has_a_plate_of_its_own_and_no_completion_ends_early(samples):
    mllm = LOAD(TOY)
    ban_end_token(mllm)
    assert len(read_photos(mllm, TOY, samples)) == len(samples) == 2
    assert all(sample.references for sample in samples)
    rollouts = roll_out(mllm, TOY, samples, 2, 1.0)
    assert not any(end for rollout in rollouts for end in rollout.ended)


@pytest.mark.parametrize("recipe", [GRPO, WITHOUT_KL], ids=["KL", "no KL"])
def test_a_steps_phases_add_up_and_every_group_teaches(samples, recipe):
    kept = []

    def load(preset):
        kept.append(LOAD(preset))
        return kept[0]

    [row] = rows_of(this_trainer, load, replace(TOY, groups_per_update=1), samples, recipe)
    # Random text earns nothing, so only rewards set apart can move the adapter.
    moved = [bool(p.any()) for name, p in kept[0].peft.named_parameters() if "lora_B" in name]
    assert moved and all(moved)
    phases = ("reference", "forward", "backward", "optimizer")
    assert min(row[name] for name in (*phases, "rollout", "scoring")) > 0
    # The rest is bookkeeping for the log, about 10 of this toy's 60 ms; no phase counts twice.
    assert 0.6 * row["update"] < sum(row[name] for name in phases) <= row["update"]
    assert row["rollout"] + row["scoring"] + row["update"] == pytest.approx(row["step"])
    assert row["sampler_gap"] < 1e-4


def test_every_phase_of_the_rollout_is_measured(samples):
    [row] = rows_of(rollout_by_phase, LOAD, TOY, samples)
    assert min(row[name] for name in ("vision", "prompts", "prefill")) > 0
    whole = sum(row[name] for name in ("vision", "prompts", "prefill", "decode")) + row["prefill"]
    assert whole == pytest.approx(row["step"], rel=0.1)


def test_trl_trains_the_same_model_at_the_same_shape(samples):
    pytest.importorskip("trl")
    from foodseg.bench.trl_trainer import trl_trainer

    [row] = rows_of(trl_trainer, LOAD, TOY, samples, 4, True)
    assert row["step"] > row["rollout"] > 0


def test_stages_write_what_they_have_and_leave_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "take_turns", in_this_process)
    path = tmp_path / cuda.RESULT
    path.write_text(json.dumps({"trl": {"TRL, micro-batch 8": {"error": "out of memory"}}}))
    cuda.run_stages(tmp_path, ["step"], "abc", TOY, LOAD)
    result = json.loads(path.read_text())
    assert result["commit"] == "abc" and result["preset"]["group_size"] == TOY.group_size
    assert result["trl"] == {"TRL, micro-batch 8": {"error": "out of memory"}}
    titles = ["rollout", "one update, no KL", "one update, KL"]
    titles.append("two updates of half the groups, KL (the paper's preset)")
    assert list(result["step"]) == ["measured", *titles]
    assert all(len(result["step"][title]) == cuda.ROUNDS for title in titles)
    page = cuda_section(tmp_path)
    assert "commit abc" in page and "**the whole step**" in page


def test_a_stage_that_breaks_off_keeps_what_it_had(tmp_path, monkeypatch):
    def full_then_broken(trials, *_):
        if "one update, no KL" in trials:
            raise ZeroDivisionError
        raise SideFailedError("rollout: CUDA out of memory. Tried to allocate 2 GiB. More words.")

    monkeypatch.setattr(cuda, "take_turns", full_then_broken)
    with pytest.raises(ZeroDivisionError):
        cuda.run_stages(tmp_path, ["step"], None, TOY, LOAD)
    step = json.loads((tmp_path / cuda.RESULT).read_text())["step"]
    assert step["rollout"] == {"error": "CUDA out of memory"} and len(step) == 2


def test_memory_is_capped_at_what_the_card_has(monkeypatch):
    card = SimpleNamespace(total_memory=51 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    trials = cuda.list_trials("memory", LOAD, TOY, ["a sample"])
    assert list(trials) == [f"one update, no KL, in {cap} GB" for cap in (24, 48)]
    shares = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)

    def stop(preset):
        raise ZeroDivisionError

    for side, (_, *arguments) in trials.values():
        with pytest.raises(ZeroDivisionError):
            side(None, 1, stop, *arguments)
    assert shares == pytest.approx([24 / 51, 48 / 51])


def test_without_a_gpu_or_a_stage_of_that_name_one_sentence_is_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda.main(["step", "--figures", str(tmp_path)])
    assert capsys.readouterr().out.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert cuda_section(tmp_path) == NOT_MEASURED
    with pytest.raises(SystemExit):
        cuda.main(["speed"])
    assert "stage speed is unknown; use some of step, memory, trl" in capsys.readouterr().err


def trial(step: float, gigabytes: float = 10.0, **more) -> list[dict]:
    """Rows of two steps, the second a tenth of a second longer."""
    parts = {"rollout": 0.5, "scoring": 0.0, "memory": gigabytes * 1e9 / 2**20} | more
    return [parts | {"step": s, "update": s - 0.5} for s in (step, step + 0.1)]


PHASES = {"reference": 0.05, "forward": 0.2, "backward": 0.3, "optimizer": 0.002}
SAMPLE = {
    "device": "NVIDIA H200",
    "date": "2026-12-01",
    "commit": "0123456789ab",
    "versions": {"torch": "2.15.0", "transformers": "5.23.0"},
    "preset": asdict(STEP),
    "step": {
        "measured": {"date": "2026-12-01"},
        "rollout": [{"vision": 0.1, "prompts": 0.01, "prefill": 0.128, "decode": 0.3}],
        "one update, no KL": trial(1.25, plan="2 of 8 groups in a forward", **PHASES),
        "one update, KL": trial(1.45, 60.0),
    },
    "memory": {"one update, no KL, in 48 GB": {"error": "CUDA out of memory"}},
    "trl": {
        "TRL, micro-batch 8": trial(14.95, 90.0),
        "TRL, micro-batch 16, checkpointed": {"error": "not done after 180 s"},
    },
}


def test_the_page_shows_floors_ratios_plans_failures_and_only_the_stages_there_are(tmp_path):
    (tmp_path / cuda.RESULT).write_text(json.dumps(SAMPLE))
    page = cuda_section(tmp_path)
    assert "NVIDIA H200, 2026-12-01, commit 0123456789ab, PyTorch 2.15.0" in page
    assert "840x840 photos, 8 prompts of about 1100 tokens x G = 8, completions of 150" in page
    assert "| vision tower | 100 | 50 | 2.0 |" in page
    assert "| **the whole step** | 1300 | 650 | 2.0 |" in page
    plan = "| one update, no KL | 0.50 | 0.80 | 1.30 (1.25 to 1.35) | 10.0 | 2 of 8 groups in a "
    assert plan in page
    assert "| one update, KL | 0.50 | 1.00 | 1.50 (1.45 to 1.55) | 60.0 |  |" in page
    assert "| one update, no KL, in 48 GB |  |  |  |  | CUDA out of memory |" in page
    assert "| TRL, micro-batch 16, checkpointed |  |  |  |  | not done after 180 s |" in page
    assert "TRL's fastest takes 10.0 times as long" in page
    part = {key: value for key, value in SAMPLE.items() if key not in ("step", "memory")}
    (tmp_path / cuda.RESULT).write_text(json.dumps(part))
    page = cuda_section(tmp_path)
    assert "| TRL, micro-batch 8 |" in page and "times as long" not in page
