"""The doctor: what it says of machines that are only described."""

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from counted_memory import meta_mllm
from huggingface_hub import constants

import foodseg.doctor.__main__ as doctor
from foodseg.common import hub
from foodseg.common.errors import DataError
from foodseg.doctor import examine
from foodseg.doctor.verdict import (
    SIZES,
    Facts,
    describe,
    fetch_problems,
    gpu_problems,
    hours,
    least_memory,
    needed_gb,
    plan,
)
from foodseg.models.random_mllm import qwen2_5_vl_3b
from foodseg.presets import KITCHEN, PAPER
from foodseg.training.memory import ModelSizes

GB = 10**9
GOOD = Facts(
    gpu="NVIDIA GeForce RTX 4090",
    capability=(8, 9),
    gpu_bytes=25 * GB,
    free_bytes=24 * GB,
    driver="580.65.06",
    home_free=100 * GB,
    cache_free=100 * GB,
    one_disk=True,
    mllm=True,
    segmenter=True,
    data=True,
    trained=0,
    model_type="qwen2_5_vl",
    hidden=2048,
    hub="",
    questions=None,
)
NOTHING_HERE = replace(GOOD, mllm=False, segmenter=False, data=False)
SEVEN = replace(GOOD, hidden=3584)


def qwen2_5_vl_7b():
    """The published configuration, as far as it differs."""
    config = qwen2_5_vl_3b()
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.vocab_size = 3584, 18_944, 152_064
    text.num_hidden_layers, text.layer_types = 28, text.layer_types[:28]
    text.num_attention_heads, text.num_key_value_heads = 28, 4
    config.vision_config.out_hidden_size = 3584
    config.tie_word_embeddings = text.tie_word_embeddings = False
    return config


@pytest.mark.parametrize("make", [qwen2_5_vl_3b, qwen2_5_vl_7b])
def test_the_sizes_are_those_of_the_true_configurations(make):
    config = make()
    mllm = meta_mllm(config, PAPER.lora_rank, torch.bfloat16, None)
    assert ModelSizes.of(mllm) == SIZES[config.text_config.hidden_size]


def problems(facts, door="all"):
    return fetch_problems(PAPER, facts, door, seeds=3) + gpu_problems(PAPER, facts)


def test_a_machine_that_serves_has_no_problem():
    assert problems(GOOD) == problems(replace(GOOD, hub="no network")) == []
    assert problems(replace(GOOD, model_type="", hidden=0)) == []


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        ({"gpu": "", "driver": ""}, "there is no CUDA GPU here.*rent one of 24 GB, or run the kit"),
        ({"gpu": ""}, r"PyTorch can't use the one here \(NVIDIA's driver 580.65.06\); install"),
        (
            {"gpu": "Tesla T4", "capability": (7, 5)},
            "Tesla T4 has compute capability 7.5.* 8.0; tak",
        ),
        (
            {"gpu_bytes": 8 * GB},
            r"RTX 4090 has 8.0 GB, and the smallest plan needs \d+\.\d; take a l",
        ),
        (
            {"free_bytes": 8 * GB},
            r"8.0 of 25.0 GB are free, and the smallest plan needs \d+\.\d; end what else uses",
        ),
        ({"model_type": "qwen3_vl"}, "is qwen3_vl, and this kit runs Qwen2.5-VL only"),
        ({"data": False}, "does not hold FoodReasonSeg; run `make data`"),
        (
            {"mllm": False, "hub": "HF_HUB_OFFLINE"},
            "HF_HUB_OFFLINE, and the weights are not all here",
        ),
        ({"home_free": GB}, "1.0 GB are free and 11.5 are needed; make room, or set FOODSEG_HOME"),
        (
            {"cache_free": GB, "one_disk": False, "mllm": False},
            "1.0 GB are free and 7.5 are needed; make room, or set HF_HOME",
        ),
    ],
)
def test_each_lack_is_one_sentence_with_its_fix(lack, words):
    (sentence,) = problems(replace(GOOD, **lack))
    with pytest.raises(DataError, match=words):
        raise DataError(sentence)
    assert sentence.endswith(".") and "\n" not in sentence


def test_fetching_the_data_needs_neither_a_gpu_nor_room_for_weights():
    small = replace(NOTHING_HERE, gpu="", home_free=3 * GB)
    assert fetch_problems(PAPER, small, "data", seeds=3) == []
    assert needed_gb(small, "data", 3) == (2.6, 0)
    (network,) = fetch_problems(PAPER, replace(small, hub="gone"), "data", seeds=3)
    assert "and the data are not all here" in network
    assert len(fetch_problems(PAPER, small, "all", seeds=3)) == 2  # no data yet, and the disk


def test_memory_is_asked_of_the_trainers_own_plan():
    for facts in (GOOD, SEVEN):
        sizes = facts.sizes
        least = least_memory(PAPER, sizes)
        fits = plan(PAPER, sizes, least)
        assert fits.forward_bytes <= fits.free_bytes and fits.checkpointed == sizes.layers
        short = plan(PAPER, sizes, least - GB // 10)
        assert short.forward_bytes > short.free_bytes
        assert gpu_problems(PAPER, replace(facts, gpu_bytes=least, free_bytes=least)) == []
        (sentence,) = gpu_problems(PAPER, replace(facts, gpu_bytes=least - 1))
        assert ("or the 3B (leave MLLM= out)" in sentence) == (facts is SEVEN)
    assert plan(PAPER, GOOD.sizes, 24 * GB).choice == (2, 1, 0)  # as docs/performance.md has it


# Both trainings with three seeds in hours, and the answers of all rows to 1,000 questions.
ROW = r"^\| \d+ GB, ([\w ]+) \(.*\| ([\d.]+) hours? \| (\d+) minutes \|$"
PAGE = Path(__file__).parents[1] / "docs" / "paper_preset.md"
CARDS = re.findall(ROW, PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("card", "training", "minutes"), CARDS)
def test_hours_are_those_of_the_page(card, training, minutes):
    assert len(CARDS) == 6
    training, minutes = float(training), float(minutes)
    computed, answers = hours(PAPER, SIZES[2048], card, 3, 1000)
    assert computed == pytest.approx(training, rel=0.05)
    assert 60 * answers == pytest.approx(minutes, rel=0.05)
    # Twice the questions cost twice as much, twice the seeds also more answers.
    assert hours(PAPER, SIZES[2048], card, 3, 2000)[1] == pytest.approx(2 * answers, rel=0.02)
    more = hours(PAPER, SIZES[2048], card, 6, 1000)
    assert more[0] == pytest.approx(2 * computed) and answers / 9 * 15 > more[1] > answers / 11 * 17
    assert hours(PAPER, SIZES[3584], card, 3, 1000)[0] > 2 * computed


def test_runs_that_are_here_need_no_room():
    before = needed_gb(GOOD, "all", 3)[0]
    adapters = replace(GOOD, trained=4 * GB)
    assert needed_gb(adapters, "all", 3)[0] == pytest.approx(before - 4)
    assert needed_gb(replace(GOOD, trained=99 * GB), "all", 3) == (0, 0)
    assert problems(replace(GOOD, home_free=5 * GB)) and not problems(
        replace(GOOD, home_free=5 * GB, trained=9 * GB)
    )


def test_what_is_here_and_what_it_costs_is_said():
    text = "\n".join(describe(PAPER, replace(NOTHING_HERE, questions=4321), 3))
    assert "GPU: NVIDIA GeForce RTX 4090, 25.0 GB, 24.0 of them free" in text
    assert "to fetch: 9.7 GB; to be written: 22.5 GB, of 100 that are free" in text
    assert "Memory plan: 2 of 4 groups in a forward, no layers checkpointed" in text
    assert "9 rows of answers to 4,321 test questions (counted)" in text
    text = "\n".join(describe(PAPER, replace(GOOD, gpu="Some card"), 1))
    assert "computed for an A100" in text and "1,000 test questions (until notebook 01" in text
    assert "not known for a model of this size" in describe(PAPER, replace(GOOD, hidden=64), 3)[-1]


@pytest.fixture
def bare(empty_home, monkeypatch):
    """A machine without a GPU, a network and anything fetched, whatever this one has."""
    room = SimpleNamespace(free=10**12)  # the disk of the machine that tests may be all but full
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: room)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: "/nowhere")
    return empty_home


def test_the_command_fails_where_it_cannot_work_and_says_why(bare, capsys):
    assert doctor.main([]) == 1
    said = capsys.readouterr()
    assert "GPU: none" in said.out and "hours, computed for an A100" in said.out
    starts = [line.partition(":")[0] for line in said.err.splitlines()]
    assert starts == ["Data", "Network", "GPU"]
    samples = PAPER.samples_file("test")
    samples.parent.mkdir(parents=True)
    PAPER.dataset.mkdir()
    for split in ("train", "test"):
        assert doctor.main(["data"]) == 1  # some of it is not here
        assert "and the data are not all here" in capsys.readouterr().err
        (PAPER.dataset / f"FoodReasonSeg_{split}.json").touch()
        for kind in ("img_dir", "ann_dir"):
            (PAPER.dataset / "Images" / kind / split).mkdir(parents=True)
    assert doctor.main(["data"]) == 0  # the rest is for later
    said = capsys.readouterr()
    assert "later: GPU: there is no CUDA GPU" in said.out and said.err == ""
    assert doctor.main(["--seeds", "0,0"]) == 1
    assert "name each seed once" in capsys.readouterr().err


def test_a_folder_of_another_kind_is_noticed_before_anything_is_read(bare, monkeypatch, capsys):
    folder = bare / "model"
    folder.mkdir()
    monkeypatch.setenv("FOODSEG_MLLM", str(folder))
    for config, words in (({"model_type": "qwen3_vl"}, "qwen3_vl"), (None, "not given")):
        (folder / "config.json").unlink(missing_ok=True)
        if config:
            (folder / "config.json").write_text(json.dumps(config))
        assert doctor.main([]) == 1
        assert f"is {words}, and this kit runs Qwen2.5-VL only" in capsys.readouterr().err


def test_a_model_is_here_once_all_its_parts_are(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert not hub.is_here("some/one")
    (tmp_path / "model.safetensors").touch()
    assert hub.is_here("some/one") and not hub.is_here("some/one", None, "sam2.pt")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "1.safetensors").touch()
    assert not hub.is_here("some/one")
    (tmp_path / "2.safetensors").touch()
    assert hub.is_here("some/one") and hub.is_here(tmp_path)


def test_notebooks_ask_it_only_of_a_preset_that_fetches(monkeypatch, capsys):
    asked = []

    def run(command, **_):
        asked.append(command[1:])
        return SimpleNamespace(stdout="models: ...\n", stderr="GPU: none.\n", returncode=1)

    monkeypatch.setattr(subprocess, "run", run)
    examine(KITCHEN)
    assert asked == []
    with pytest.raises(DataError, match="^GPU: none.$"):
        examine(copy.copy(PAPER), "data")
    assert asked == [["-m", "foodseg.doctor", "data", "--seeds", "0,1,2"]]
    assert "models" in capsys.readouterr().out


def test_asking_costs_the_smaller_presets_no_import():
    loaded = "import sys, foodseg.doctor; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_configuration_that_cannot_be_fetched_is_refused_with_the_fix(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    words = r"config.json can't be fetched \(no network\); download the model and name its folder"
    with pytest.raises(DataError, match=words):
        doctor._config(replace(PAPER, mllm="some/one"), here=False, online=True)
