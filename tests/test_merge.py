"""A merged folder: transformers alone answers with the same tokens, and its card is whole."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from test_model_card import make_run  # noqa: F401
from transformers import AutoProcessor, GenerationConfig, Qwen2_5_VLForConditionalGeneration

from foodseg import merge as merging
from foodseg import recipes
from foodseg.common.errors import DataError
from foodseg.merge import main, merge
from foodseg.models.prompts import build_messages
from foodseg.models.rollouts import sample_rollouts
from foodseg.models.segmenter import MASK_HEAD
from foodseg.presets import KITCHEN, get_preset
from foodseg.system import load_adapter, load_policy
from foodseg.training.trainer import run_config

PRESET = replace(get_preset("smoke"), max_new_tokens=24)


@pytest.fixture()
def run(make_run):  # noqa: F811
    return make_run(run_config(KITCHEN, recipes.DAPO, 0, []))


def test_transformers_alone_answers_with_the_same_tokens(run, tmp_path):
    assert merge(run, tmp_path / "merged", PRESET) > 8
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8))
    question = "Which food is rich in iron?"

    mllm = load_policy(PRESET)
    load_adapter(mllm, run / "adapter", PRESET)
    prompts = mllm.embed_prompts([question], mllm.embed_images([photo]))
    [rollout] = sample_rollouts(mllm, prompts, group_size=1, max_new_tokens=24, temperature=0.0)

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "merged")
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    template = (tmp_path / "merged" / "prompt_template.txt").read_text()
    text = processor.apply_chat_template(
        build_messages(question, template), add_generation_prompt=True
    )
    square = photo.resize((PRESET.image_side,) * 2, Image.Resampling.BICUBIC)
    inputs = processor(text=[text], images=[square], return_tensors="pt")
    config = GenerationConfig(
        do_sample=False, max_new_tokens=24, suppress_tokens=mllm.banned_token_ids,
        eos_token_id=mllm.eos_token_id, pad_token_id=mllm.eos_token_id,
    )  # fmt: skip
    generated = model.generate(**inputs, generation_config=config)
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == rollout.tokens[0].tolist()
    assert not any(tmp_path.glob("*.partial"))


def test_the_card_loads_and_names_the_base(run, tmp_path):
    merge(run, tmp_path / "merged", PRESET)
    card = ModelCard.load(tmp_path / "merged" / "README.md")
    assert card.data.base_model_relation == "finetune"
    assert card.data.library_name == "transformers"
    assert "PeftModel" not in card.text and "lora" not in card.data.tags
    assert "AutoProcessor.from_pretrained" in card.text and "## Licence" in card.text


def test_a_model_that_answers_otherwise_is_not_written(run, tmp_path, monkeypatch):
    told = iter([[[1, 2]], [[1, 3]]])
    monkeypatch.setattr(merging, "greedy_tokens", lambda mllm, preset: next(told))
    with pytest.raises(DataError, match="1 of 1 questions with other tokens.*--dtype float32"):
        merge(run, tmp_path / "merged", PRESET)
    assert list(tmp_path.glob("merged*")) == []


def test_bfloat16_weights_are_written_as_such(run, tmp_path, monkeypatch):
    # Any processor may have a token that rounding decides, and then nothing is written.
    monkeypatch.setattr(merging, "greedy_tokens", lambda mllm, preset: [[1, 2]])
    assert merge(run, tmp_path / "merged", PRESET, "bfloat16") == 2
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert model.dtype == torch.bfloat16


def test_what_cannot_be_merged_is_said_in_one_sentence(run, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 1
    assert "result.json: it is missing; name the folder" in capsys.readouterr().err
    own = json.loads((run / "result.json").read_text())
    own["preset"]["name"] = "mine"
    (run / "result.json").write_text(json.dumps(own))
    assert main([str(run), str(tmp_path / "out")]) == 1
    assert "PRESET='mine' is unknown" in capsys.readouterr().err
    smoke = ["--preset", "smoke"]
    (tmp_path / "there").mkdir()
    assert main([str(run), str(tmp_path / "there"), *smoke]) == 1
    assert "it is there already" in capsys.readouterr().err
    shutil.copyfile(run / "result.json", run / "adapter" / MASK_HEAD)
    assert main([str(run), str(tmp_path / "out"), *smoke]) == 1
    assert "its mask head reads hidden states" in capsys.readouterr().err
