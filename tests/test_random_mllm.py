"""The true configuration in numbers, and a small one through the whole path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from foodseg.models.random_mllm import qwen2_5_vl_3b, random_mllm, shrink
from foodseg.models.rollouts import sample_rollouts
from foodseg.models.shared_prefix import pad_rows, score_groups
from foodseg.presets import KITCHEN


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def true_mllm():
    return random_mllm(qwen2_5_vl_3b(), KITCHEN.mllm, 840, "meta", torch.bfloat16)


def test_the_true_configuration_has_the_published_parameters(true_mllm):
    model = true_mllm.model
    assert count(model) == 3_754_622_976  # 3.75 B on the model's page
    assert count(model.model.language_model) == 3_085_938_688  # 3.09 B, as Qwen2.5-3B
    assert count(model.model.visual) == 668_684_288  # 0.67 B
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    # The frequencies of M-RoPE would lose their sense in bfloat16.
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


def test_the_adapter_sits_on_every_projection_of_the_language_model_and_on_nothing_else():
    mllm = random_mllm(qwen2_5_vl_3b(), KITCHEN.mllm, 840, "meta", torch.bfloat16)
    with torch.device("meta"):
        mllm.add_lora(rank=64, alpha=128, seed=0)
    trained = {n: p for n, p in mllm.model.named_parameters() if p.requires_grad}
    modules = {name.split(".lora_")[0] for name in trained}
    assert len(modules) == 36 * 7 and len(trained) == 2 * 36 * 7
    assert all("language_model" in name for name in modules)
    widths = 2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 11_008)
    assert sum(p.numel() for p in trained.values()) == 36 * 64 * widths == 119_734_272


def test_special_tokens_are_the_tokenizers_and_the_given_configuration_is_left_alone(true_mllm):
    config = qwen2_5_vl_3b()
    ours, tokenizer = true_mllm.model.config, true_mllm.tokenizer
    assert ours.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert ours.text_config.eos_token_id == tokenizer.eos_token_id == true_mllm.eos_token_id
    random_mllm(config, KITCHEN.mllm, 840, "meta", torch.bfloat16)
    assert (config.image_token_id, config.text_config.eos_token_id) == (151_655, 151_645)


def test_a_tokenizer_with_too_many_tokens_is_refused():
    config = shrink(qwen2_5_vl_3b())
    config.text_config.vocab_size = 100
    with pytest.raises(ValueError, match="text_config.vocab_size is 100; raise vocab_size"):
        random_mllm(config, KITCHEN.mllm, 112)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_one_goes_through_photos_prompts_sampling_and_scoring(dtype):
    mllm = random_mllm(shrink(qwen2_5_vl_3b()), KITCHEN.mllm, 112, "cpu", dtype, seed=1)
    mllm.add_lora(rank=4, alpha=8, seed=0)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 80, 90, 3), dtype=np.uint8)
    visual = mllm.embed_images([Image.fromarray(photo) for photo in pixels])
    prompts = mllm.embed_prompts(["Which is rich in iron?", "Which one?"], visual)
    rollouts = sample_rollouts(mllm, prompts, group_size=3, max_new_tokens=9, seed=0)
    scores = score_groups(mllm, rollouts)
    sampled = pad_rows([row for r in rollouts for row in r.log_probs], scores.mask)
    assert scores.log_probs.isfinite().all() and len(scores.log_probs) == 6
    # The model's rounding moves logits by a part of their spread; log-probs are float32.
    spread, largest = scores.log_probs[scores.mask].std(), scores.log_probs.abs().max()
    tolerance = torch.finfo(dtype).eps * spread + torch.finfo(torch.float32).eps * largest
    assert (scores.log_probs - sampled).abs().max() < 16 * tolerance
    # Nearly uniform over 2,000 tokens, whose even share is e^-7.6.
    assert -9 < scores.log_probs[scores.mask].mean() < -6
    scores.log_probs.sum().backward()
    assert all(p.grad.isfinite().all() for p in mllm.lora_parameters())


def test_the_same_seed_gives_the_same_weights():
    def weights(seed):
        mllm = random_mllm(shrink(qwen2_5_vl_3b()), KITCHEN.mllm, 112, seed=seed)
        return torch.cat([p.flatten() for p in mllm.model.parameters()])

    before = torch.get_rng_state()
    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))
    assert torch.equal(torch.get_rng_state(), before)
