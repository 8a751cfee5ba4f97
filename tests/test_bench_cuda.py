"""The GPU benchmark's code on a CPU: toy sizes, the same functions, and the page on a sample."""

import json
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from foodseg.bench import this_trainer as trainer_side
from foodseg.bench.cuda import __main__ as cuda
from foodseg.bench.cuda import check
from foodseg.bench.cuda.page import NOT_MEASURED, cuda_section
from foodseg.bench.cuda.precision import PRECISIONS, precision, precisions
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
from foodseg.models.sam2_checkpoints import KITCHEN_SAM2
from foodseg.models.shared_prefix import score_groups
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
    assert row["rollout"] + row["scoring"] + row["update"] == pytest.approx(row["step"])
    assert row["sampler_gap"] < 1e-4


def test_scores_with_a_gradient_and_without_are_timed_apart(samples, monkeypatch):
    """By a clock that stands still but for a stand-in's five seconds a call."""
    now, calls = [0.0], Counter()
    monkeypatch.setattr(trainer_side, "clock", lambda: now[0])

    def score(*arguments):
        now[0] += 5
        calls["forward" if torch.is_grad_enabled() else "reference"] += 1
        return score_groups(*arguments)

    [row] = rows_of(this_trainer, LOAD, replace(TOY, groups_per_update=1), samples, GRPO, score)
    assert min(calls.values()) > 0 and len(calls) == 2
    assert {name: row[name] for name in calls} == {name: 5.0 * n for name, n in calls.items()}


def test_every_phase_of_the_rollout_is_measured(samples, monkeypatch):
    ticks = accumulate([0, 1, 2, 4, 32] * 2)  # a round to warm up, and one that counts
    monkeypatch.setattr("foodseg.bench.cuda.rollout.clock", lambda: next(ticks))
    [row] = rows_of(rollout_by_phase, LOAD, TOY, samples)
    assert [row[name] for name in ("vision", "prompts", "prefill", "decode")] == [1, 2, 4, 28]


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
    assert (
        "stage speed is unknown; use some of segmenter, step, memory, trl"
        in capsys.readouterr().err
    )


def test_sam2s_precisions_are_timed_and_their_masks_compared(samples, monkeypatch):
    preset = replace(TOY, segmenter_config=replace(KITCHEN_SAM2, pred_obj_scores=True))
    [row] = rows_of(precisions, preset, samples)
    assert min(row[name] for name in PRECISIONS) > 0 and row["weights"] == "random"
    # TensorFloat-32 is a GPU's; here only bfloat16 rounds.
    same = {name: row["differs"][name] for name in ("float32", "default", "tf32")}
    assert set(same.values()) == {0.0} and 0 < row["differs"]["bfloat16"] < 0.5
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for name, allowed in (("float32", [False] * 2), ("tf32", [True] * 2), ("default", before)):
        with precision(name, "cpu"):
            assert [flag.allow_tf32 for flag in flags] == allowed
        assert [flag.allow_tf32 for flag in flags] == before


def test_the_segmenter_alone_makes_a_page(tmp_path):
    rows = [{name: 0.8 for name in PRECISIONS} | {"weights": "random"}]
    rows[0]["differs"] = dict.fromkeys(PRECISIONS, 0.0) | {"bfloat16": 0.00125}
    part = {key: value for key, value in SAMPLE.items() if key not in ("step", "memory", "trl")}
    result = part | {"segmenter": {"measured": {}, "precisions": rows}}
    (tmp_path / cuda.RESULT).write_text(json.dumps(result))
    page = cuda_section(tmp_path)
    assert "| bfloat16 | 100 | 0.1250% |" in page and "with random weights" in page


def part(name: str, code: str, seconds: float = 20) -> check.Part:
    return check.Part(name, ("-c", code), seconds)


def test_a_check_that_is_cut_off_keeps_what_it_measured(tmp_path, monkeypatch):
    """Also of a part that fails or hangs; and nothing that it started goes on."""
    started = tmp_path / "child"
    hang = (
        "import os, subprocess, sys, time; from pathlib import Path; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"Path({str(started)!r}).write_text(str(child.pid)); "
        "print('begun', flush=True); time.sleep(60)"
    )
    log = (
        "import os; from pathlib import Path; "
        "run = Path(os.environ['FOODSEG_HOME'], 'runs/dry-run/grpo-seed0'); "
        "run.mkdir(parents=True); "
        """(run / 'log.jsonl').write_text('{"seconds_update": 2.5, "completion": "w1"}')"""
    )
    parts = [
        part("good", "print('fine')"),
        part("bad", "raise SystemExit('no such file')"),
        part("train", log),
        part("hang", hang, 10),
        part("late", "print('never')"),
    ]
    told = []
    write = check.write_json
    monkeypatch.setattr(
        check, "write_json", lambda path, value: (told.append(1), write(path, value))
    )
    check.check(tmp_path / "out", parts[:4], "cpu")
    result = json.loads((tmp_path / "out" / check.RESULT).read_text())
    assert len(told) == 4  # after each part
    outcomes = {name: one["outcome"] for name, one in result["parts"].items()}
    assert outcomes == dict(good="done", bad="failed", train="done", hang="cut off after 10 s")
    assert result["parts"]["bad"]["tail"] == ["no such file"]
    assert result["parts"]["hang"]["tail"] == ["begun"]
    assert result["steps"] == {"grpo-seed0": [{"seconds_update": 2.5}]} and "processor" in result
    child = Path("/proc") / started.read_text() / "stat"
    assert not child.exists() or child.read_text().split()[2] == "Z"
    late = check.check(tmp_path / "late", parts[4:], "cpu", seconds=0)["parts"]["late"]
    assert late["outcome"] == "left out: no time"


def test_the_check_is_made_of_doors_that_there_are_and_ends_in_time(tmp_path):
    parts = check.list_parts(tmp_path)
    assert [one.name for one in parts] == [
        *("equalities", "weights", "01", "02", "04", "05", "bench"),
    ]
    # Whatever hangs, the bench has time left, and it writes what it has after each trial.
    assert sum(one.seconds for one in parts[:-1]) + 30 < check.SECONDS <= 8 * 60
    for one in parts:
        for word in one.arguments:
            if word.endswith((".py", ".ipynb")) and "executed" not in word:
                assert (check.PROJECT / word).exists()
    assert parts[0].arguments[-1] == "tests/test_gpu.py" and "gpu" in parts[0].arguments
    assert set(parts[-1].arguments[2:4]) <= set(cuda.STAGES)


def test_without_a_gpu_the_check_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check.main([str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()


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
