"""The card says what the run's own files say, whose licence holds, and how to load the adapter."""

import json
import re
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file

from foodseg import recipes
from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, write_json
from foodseg.common.provenance import provenance
from foodseg.data.fetch.sources import LICENCE
from foodseg.presets import KITCHEN, KITCHEN_NOTHING, PAPER
from foodseg.recipes import Recipe
from foodseg.report.cards.model import main, write_card
from foodseg.report.cards.trained_run import find_base
from foodseg.segment.__main__ import _parse
from foodseg.supervised.targets import LISA, SFT
from foodseg.supervised.training import baseline_config
from foodseg.training.trainer import run_config

RECIPES = {
    one.name: one
    for value in vars(recipes).values()
    for one in (value if isinstance(value, tuple) else (value,))
    if isinstance(one, Recipe)
}


@pytest.fixture()
def make_run(saved_adapter, tmp_path):
    """A finished run's folder of a config."""

    def make(config, name="dapo-seed0", decoder=None):
        folder = tmp_path / "runs" / name
        shutil.copytree(saved_adapter, folder / "adapter", dirs_exist_ok=True)
        assert not (folder / "adapter/README.md").exists()
        adapter = file_hash(folder / "adapter" / "adapter_model.safetensors")
        trained = {"steps": 30, "seconds": 98.5, "adapter": adapter, "decoder": decoder}
        write_json(folder / "result.json", config | trained | provenance("cpu"))
        return folder

    return make


@pytest.fixture()
def run(make_run):
    return make_run(run_config(KITCHEN, recipes.DAPO, 0, []))


def evaluated(run, row, **changes):
    adapter = json.loads((run / "result.json").read_text())["adapter"]
    result = {"row": row, "adapter": adapter, "decoder": None, "samples": 348, "seconds": 12.1}
    result |= {"giou": 0.85712, "giou_interval": [0.838, 0.876], "parse_rate": 0.97}
    result |= {"ciou": 0.82269, "ciou_interval": [0.793, 0.851], "foods_right": 0.82}
    result |= {"commit": "abc", "device": "a CPU"} | changes
    write_json(run.parent / "predictions" / row / "result.json", result)


def based_on(run, source):
    file = run / "adapter" / "adapter_config.json"
    write_json(file, json.loads(file.read_text()) | {"base_model_name_or_path": source})


def write(run) -> tuple[ModelCard, str]:
    """The card that is written for a run, and its text, however its lines are broken."""
    card = ModelCard.load(write_card(run))
    return card, " ".join(card.text.split())


def block(card, language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", card.text, re.DOTALL)
    return found


@pytest.mark.parametrize("other", [None, {"adapter": "0" * 16}, {"decoder": "0" * 16}])
def test_a_card_says_something_in_every_place_and_no_path_of_this_machine(run, tmp_path, other):
    if other:  # results of another adapter are left out
        evaluated(run, "dapo-seed0", **other)
    assert write_card(run) == run / "adapter" / "README.md"
    card, words = write(run)
    assert "More Information Needed" not in words and "[optional]" not in words
    assert card.data.base_model == "kitchen_mllm" and card.data.library_name == "peft"
    assert card.data.license == "apache-2.0" and card.data.datasets == ["foodseg-kitchen"]
    assert {"lora", "dapo", "reinforcement-learning"} <= set(card.data.tags)
    assert card.data.eval_results is None and "Not evaluated" in words
    assert str(tmp_path) not in card.content and KITCHEN.mllm not in card.content
    assert not re.search(r"(?<![\w.:/~-])/(home|root|tmp|var|usr|opt|work)/", card.content)
    config = run_config(KITCHEN, recipes.DAPO, 0, [])
    assert json.loads(block(card, "json")) == json.loads(json.dumps(config))
    assert "clip low 0.2, clip high 0.28" in words and "thinking_format + segmentation" in words
    assert block(card, "text").strip() == (run / "adapter" / "prompt_template.txt").read_text()


def test_results_have_their_intervals_and_the_base_beside_them(run):
    evaluated(run, "dapo-seed0")
    evaluated(run, "base", adapter=None, giou=0.138)
    evaluated(run, "base-any-form", adapter=None, giou=0.531)
    evaluated(run, "bound", adapter=None, samples=8)  # other questions
    card, words = write(run)
    assert "| dapo-seed0 | 348 | 0.857 (0.838 to 0.876) | 0.823 (0.793 to 0.851) | 97%" in words
    assert "| base | 348 | 0.138" in words and "| bound |" not in words
    assert "| base-any-form | 348 | 0.531" in words
    assert "`base-any-form`: its same answers, read in any form." in words
    measured = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert measured == {"giou": 0.8571, "ciou": 0.8227}
    assert "3% of the answers can't be parsed, and 18% don't name" in words


# PEFT 0.21 reads an attribute that transformers 5 has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_its_lines_for_loading_load_it(run, saved_adapter, monkeypatch):
    card, _ = write(run)
    monkeypatch.chdir(run / "adapter")
    code = block(card, "python").replace("foodseg/weights/kitchen_mllm", KITCHEN.mllm)
    loaded: dict = {}
    exec(code, loaded)
    assert isinstance(loaded["model"], PeftModel)
    found = {n.replace(".default", ""): p for n, p in loaded["model"].named_parameters()}
    for name, weight in load_file(saved_adapter / "adapter_model.safetensors").items():
        assert torch.equal(found[name], weight)
    words = shlex.split(block(card, "bash"))
    assert words[:3] == ["python", "-m", "foodseg.segment"]
    options = _parse(words[3:])
    assert (options.adapter, options.preset) == ("ADAPTER", "kitchen")


def test_a_decoder_is_named_with_its_own_licence(make_run):
    folder = make_run(run_config(KITCHEN, recipes.GRTO, 1, []), "grto-seed1", decoder="1" * 16)
    (folder / "adapter" / "decoder.safetensors").touch()
    words = write(folder)[1]
    assert "`decoder.safetensors` is a changed copy of a part of SAM2" in words
    assert "learning rate 0.0001" in words and "1" * 16 in words


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_card(make_run, name):
    words = write(make_run(run_config(KITCHEN, RECIPES[name], 0, [])))[1]
    assert words.startswith(f"# {RECIPES[name].title}, kitchen_mllm, seed 0")
    assert "{" not in words.split("<details>")[0].replace("{question}", "")


@pytest.mark.parametrize("baseline", [SFT, LISA])
def test_a_supervised_adapter_is_called_so(make_run, baseline):
    folder = make_run(baseline_config(KITCHEN, baseline, 0, []), f"{baseline.name}-seed0")
    if baseline.masks:
        (folder / "adapter" / "mask_head.safetensors").touch()
    card, words = write(folder)
    assert "supervised" in card.data.tags and "No reward" not in words
    assert ("python -m foodseg.segment" in words) != bool(baseline.masks)
    assert ("mask_head.safetensors" in words) == bool(baseline.masks)


@pytest.mark.parametrize("source", ["Qwen/Qwen2.5-VL-3B-Instruct", "/srv/Qwen2.5-VL-3B-Instruct/"])
def test_the_licence_of_the_3b_base_is_carried_on(make_run, source):
    folder = make_run(run_config(PAPER, recipes.DAPO, 0, []))
    based_on(folder, source)
    card, words = write(folder)
    assert card.data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert (card.data.license, card.data.license_name) == ("other", "qwen-research")
    assert card.data.license_link.endswith("/LICENSE") and card.data.license_link in words
    for sentence in (
        "Built with Qwen",
        "not commercially",
        "Copyright (c) Alibaba Cloud. All Rights Reserved.",
        " ".join(LICENCE.split()),
        "--preset paper",
        "840 x 840",
    ):
        assert sentence in words, sentence
    assert card.data.datasets == ["EduardoPacheco/FoodSeg103", "Yueha0/FoodReasonSeg"]
    assert "drawn plates" not in words and "/srv" not in words


def test_a_run_with_nothing_here_learnt_from_drawn_plates(make_run):
    folder = make_run(run_config(KITCHEN_NOTHING, recipes.DAPO, 0, []))
    card, words = write(folder)
    assert card.data.datasets == ["foodseg-kitchen"] and "Data of your own" not in words


def test_a_run_of_other_models_learnt_from_the_same_data(make_run):
    preset = replace(PAPER, name="paper--Qwen--Qwen2.5-VL-7B-Instruct")
    folder = make_run(run_config(preset, recipes.DAPO, 0, []))
    based_on(folder, "Qwen/Qwen2.5-VL-7B-Instruct")
    card, words = write(folder)
    assert card.data.datasets == ["EduardoPacheco/FoodSeg103", "Yueha0/FoodReasonSeg"]
    assert "--preset paper" in words


def test_what_the_kit_cannot_know_is_left_to_its_user_to_name(make_run):
    folder = make_run(run_config(replace(KITCHEN, name="mine"), recipes.DAPO, 0, []))
    based_on(folder, "someone/Qwen2.5-VL-7B-Instruct")
    card, words = write(folder)
    assert card.data.license == "other" and card.data.datasets is None
    assert words.count("before you pass this adapter on") == 2


def test_a_merged_models_card_says_that_the_weights_were_changed(make_run, tmp_path):
    folder, merged = make_run(run_config(PAPER, recipes.DAPO, 0, [])), tmp_path / "merged"
    based_on(folder, "Qwen/Qwen2.5-VL-3B-Instruct")
    words = " ".join(ModelCard.load(write_card(folder, merged=merged)).text.split())
    assert "a LoRA adapter was trained and merged into the base's weights)" in words
    assert "which this model, a work derived from it, carries on" in words
    assert "No photo and no question is part of this model." in words
    assert "untouched" not in words and "this adapter" not in words
    assert "the base's own weights are untouched)" in write(folder)[1]


@pytest.mark.parametrize("source", ["someone/model", "/a/b/model", "./model", "C:\\a\\model"])
def test_a_bases_folder_is_not_told(source):
    name = "someone/model" if source.startswith("someone") else "model"
    assert find_base(source).name == find_base(source).source == name


def test_a_validation_run_is_not_called_test(make_run):
    config = run_config(KITCHEN, replace(recipes.DAPO, name="dapo-validation"), 0, [])
    folder = make_run(config, "dapo-validation-seed0")
    evaluated(folder, "dapo-validation-seed0")
    evaluated(folder, "base", adapter=None)
    evaluated(folder, "base-validation", adapter=None)
    words = write(folder)[1]
    assert "348 questions of the validation split" in words
    assert "| base-validation |" in words and "| base |" not in words


def test_the_command_writes_a_card_for_each_finished_run(run, capsys):
    assert main([str(run), f"{run}/"]) == 0
    assert capsys.readouterr().out.count("written: ") == 2
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(DataError, match="not the file that this run trained"):
        write_card(run)
    (run / "result.json").unlink()
    assert main([str(run)]) == 1
    assert "result.json: it is missing" in capsys.readouterr().err
