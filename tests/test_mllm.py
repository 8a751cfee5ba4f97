"""The model wrapper's adapters: what is saved, and that a loaded one does something."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import load_kitchen
from safetensors.torch import load_file, save_file
from test_shared_prefix import randomise_adapter

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
