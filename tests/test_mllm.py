"""The model wrapper: adapters that are saved and loaded, the true configuration."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import load_kitchen, randomise_adapter, toy_prompts
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from foodseg.common import hub
from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm
from foodseg.models.mllm import Mllm
from foodseg.models.random_mllm import qwen2_5_vl_3b, random_mllm, shrink
from foodseg.models.rollouts import sample_rollouts
from foodseg.presets import KITCHEN, SMOKE


@pytest.fixture()
def adapter(kitchen_mllm, tmp_path):
    """The folder of a saved adapter of random weights."""
    kitchen_mllm.add_lora(4, 8, seed=0)
    randomise_adapter(kitchen_mllm)
    kitchen_mllm.save_adapter(tmp_path, "kitchen")
    return tmp_path


def test_an_adapter_names_its_base_and_no_path_of_this_machine(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "kitchen_mllm"
    assert SMOKE.mllm not in (adapter / "adapter_config.json").read_text()
    assert sorted(file.name for file in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "prompt_template.txt",
        "trained_for.json",
    ]


def emptied(folder):
    (folder / "prompt_template.txt").write_text("")


def reworded(folder):
    file = folder / "prompt_template.txt"
    file.write_text(file.read_text().replace("Think", "Guess"))


MISFITS = {
    "other side": (None, "trained for preset kitchen, on photos of 168 pixels .* have 112; choose"),
    "emptied": (emptied, r"prompt_template\.txt: it is not the wording .* copy it again"),
    "reworded": (reworded, r"prompt_template\.txt: it is not the wording"),
    "no side": (lambda folder: (folder / "trained_for.json").unlink(), r"trained_for\.json: it is"),
    "broken": (lambda folder: (folder / "trained_for.json").write_text("{"), "json: it is no JSON"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_an_adapter_says_itself_what_it_was_trained_for(adapter, misfit):
    """At every door: outside its run no other file tells. Nothing of the model is changed."""
    change, words = MISFITS[misfit]
    mllm = load_kitchen(torch.float32)
    if change:
        change(adapter)
    else:
        mllm.image_side = 112
    template = mllm.template
    with pytest.raises(DataError, match=words) as error:
        mllm.load_adapter(adapter)
    assert str(adapter) in str(error.value) and "\n" not in str(error.value)
    assert mllm.peft is None and mllm.template == template


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


# With random weights


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_true_configuration_has_the_published_parameters_and_an_adapter_on_every_projection():
    config = qwen2_5_vl_3b()
    mllm = random_mllm(config, KITCHEN.mllm, 840, "meta", torch.bfloat16)
    model, tokenizer = mllm.model, mllm.tokenizer
    assert count(model) == 3_754_622_976  # 3.75 B on the model's page
    assert count(model.model.language_model) == 3_085_938_688  # 3.09 B, as Qwen2.5-3B
    assert count(model.model.visual) == 668_684_288  # 0.67 B
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    # The frequencies of M-RoPE would lose their sense in bfloat16.
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    # The special tokens are the tokenizer's; the given configuration is left alone.
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id == mllm.eos_token_id
    assert (config.image_token_id, config.text_config.eos_token_id) == (151_655, 151_645)
    with torch.device("meta"):
        mllm.add_lora(rank=64, alpha=128, seed=0)
    trained = {n: p for n, p in mllm.model.named_parameters() if p.requires_grad}
    modules = {name.split(".lora_")[0] for name in trained}
    assert len(modules) == 36 * 7 and len(trained) == 2 * 36 * 7
    assert all("language_model" in name for name in modules)
    widths = 2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 11_008)
    assert sum(p.numel() for p in trained.values()) == 36 * 64 * widths == 119_734_272


def test_weights_follow_the_seed_and_a_vocabulary_too_small_is_refused():
    def weights(seed):
        mllm = random_mllm(shrink(qwen2_5_vl_3b()), KITCHEN.mllm, 112, seed=seed)
        return torch.cat([p.flatten() for p in mllm.model.parameters()])

    config = shrink(qwen2_5_vl_3b())
    config.text_config.vocab_size = 100
    with pytest.raises(ValueError, match="text_config.vocab_size is 100; raise vocab_size"):
        random_mllm(config, KITCHEN.mllm, 112)
    before = torch.get_rng_state()
    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("side, near", [(100, 112), (170, 168), (5, 28)])
def test_a_side_that_is_no_whole_number_of_visual_tokens_is_refused(kitchen_mllm, side, near):
    parts = kitchen_mllm.model, kitchen_mllm.tokenizer, kitchen_mllm.image_processor
    with pytest.raises(DataError, match=f"image_side: {side} is no multiple of 28; .* take {near}"):
        Mllm(*parts, side, "{question}")


def load_from(source, **options) -> Mllm:
    sizes = {"image_side": SMOKE.image_side, "template": SMOKE.prompt_template}
    return Mllm.load(source, **sizes, **options)


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_vl", "llava", None])
def test_another_kind_of_model_is_refused_before_its_weights_are_read(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))
    words = f"its model_type is '{kind}', and this kit runs Qwen2.5-VL .qwen2_5_vl. only"
    with pytest.raises(DataError, match=words if kind else "no config.json with a model_type"):
        load_from(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = shutil.copytree(SMOKE.mllm, tmp_path / "mixed")
    config = json.loads((folder / "config.json").read_text())
    config["image_token_id"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        DataError, match=r"image_pad\|> is token \d+ of its tokenizer and \d+ of its"
    ):
        load_from(folder)


def test_a_model_of_the_hub_is_fetched_with_a_bar_of_ours_and_its_name_kept(monkeypatch):
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"], options["tqdm_class"]))
        return SMOKE.mllm

    monkeypatch.setattr(hub, "snapshot_download", download)
    mllm = load_from("some/one", revision="abc")
    # The hub's own bars are hidden where there is no terminal.
    assert asked == [("some/one", "abc", tqdm)] and mllm.name == "some/one"


@pytest.mark.parametrize("code", [401, 403, None])
def test_a_hub_that_gives_no_model_is_told_in_one_sentence(monkeypatch, code):
    def download(*_, **__):
        if code is None:
            raise LocalEntryNotFoundError("the hub can't be reached")
        answer = SimpleNamespace(status_code=code, reason_phrase="No", headers={}, request=None)
        raise GatedRepoError("closed", response=answer)

    monkeypatch.setattr(hub, "snapshot_download", download)
    words = r"some/one: it is no folder, and the hub did not give it \("
    words += (
        f"it answered {code} .*huggingface.co/some/one, then `hf auth" if code else "the hub can"
    )
    with pytest.raises(DataError, match=words):
        load_from("some/one")
