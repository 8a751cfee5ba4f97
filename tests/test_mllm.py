"""The model wrapper's adapters: what is saved, and that a loaded one does something."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import load_kitchen, randomise_adapter, toy_prompts
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import sample_rollouts
from foodseg.presets import SMOKE


@pytest.fixture()
def adapter(kitchen_mllm, tmp_path):
    """The folder of a saved adapter of random weights."""
    kitchen_mllm.add_lora(4, 8, seed=0)
    randomise_adapter(kitchen_mllm)
    kitchen_mllm.save_adapter(tmp_path)
    return tmp_path


def test_an_adapter_names_its_base_and_no_path_of_this_machine(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "kitchen_mllm"
    assert SMOKE.mllm not in (adapter / "adapter_config.json").read_text()
    assert sorted(file.name for file in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "prompt_template.txt",
    ]


@pytest.mark.parametrize(
    ("part", "words"), [("lora_A", "the adapter changes no output"), ("lora_B", "B matrices")]
)
def test_an_adapter_that_does_nothing_is_refused(adapter, part, words):
    file = adapter / "adapter_model.safetensors"
    load_kitchen(torch.float32).load_adapter(adapter)
    weights = {n: w * (part not in n) for n, w in load_file(file).items()}
    save_file(weights, file)
    with pytest.raises(ValueError, match=words):
        load_kitchen(torch.float32).load_adapter(adapter)


def test_a_chat_template_that_only_the_processor_has_is_found(tmp_path):
    """As in older checkpoints: the tokenizer's own template knows no images."""
    folder = tmp_path / "mllm"
    shutil.copytree(SMOKE.mllm, folder)
    images = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": images}))
    sizes = {"image_side": SMOKE.image_side, "template": SMOKE.prompt_template}
    assert Mllm.load(folder, **sizes).tokenizer.chat_template == images
    (folder / "chat_template.json").unlink()
    with pytest.raises(OSError, match="chat_template.json"):
        Mllm.load(folder, **sizes)


@pytest.mark.parametrize("shown", [True, False])
def test_loading_shows_no_bar_and_leaves_the_setting(capsys, shown):
    setting = logging.enable_progress_bar if shown else logging.disable_progress_bar
    setting()
    try:
        load_kitchen(torch.float32)
        assert logging.is_progress_bar_enabled() == shown
    finally:
        logging.enable_progress_bar()
    assert "%" not in capsys.readouterr().err


def test_every_end_token_of_the_checkpoint_ends_a_completion(kitchen_mllm):
    ours = kitchen_mllm.tokenizer
    assert kitchen_mllm.end_token_ids.tolist() == [ours.eos_token_id]
    model = kitchen_mllm.model
    model.generation_config.eos_token_id = [ours.eos_token_id, ours.pad_token_id]
    several = Mllm(model, ours, kitchen_mllm.image_processor, SMOKE.image_side, "{question}")
    assert several.end_token_ids.tolist() == sorted([ours.eos_token_id, ours.pad_token_id])
    prompts = toy_prompts(several, 2)
    options = {"group_size": 4, "max_new_tokens": 60, "seed": 3}
    for rollout in sample_rollouts(several, prompts, **options):
        for tokens, ended in zip(rollout.tokens, rollout.ended, strict=True):
            ends = torch.isin(tokens, several.end_token_ids)
            assert ends.sum() == ended and (not ended or ends[-1])
    # Any token may be made the end: rows stop at their first one, wherever it comes.
    first = [tokens[2].item() for tokens in sample_rollouts(several, prompts, **options)[0].tokens]
    several.end_token_ids = torch.tensor(sorted({*several.end_token_ids.tolist(), first[0]}))
    assert len(sample_rollouts(several, prompts, **options)[0].tokens[0]) <= 3
