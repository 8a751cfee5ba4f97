"""Qwen2.5-VL-3B-Instruct in its true sizes with random weights: for benchmarks and dry runs.

Speed and memory depend on sizes, not on what the weights have learnt, so neither needs a download.
The configuration is the published config.json of Qwen/Qwen2.5-VL-3B-Instruct (arXiv:2502.13923),
in transformers 5's form. The tokenizer is one that is at hand, such as the kitchen's: its ids are
the first of the 151,936, and a completion may hold any of them.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessorPil,
)

from foodseg.models import prompts
from foodseg.models.mllm import IMAGE_TOKEN, Mllm

# Published sizes (model card, arXiv:2502.13923): 3.09 B in the language model, 0.67 B in the vision
# tower, 3.75 B in all.
TEXT_3B = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "max_window_layers": 70,
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        "mrope_section": [16, 24, 24],
    },
}
VISION_3B = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "out_hidden_size": 2048,
    "hidden_act": "silu",
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "initializer_range": 0.02,
}


def qwen2_5_vl_3b() -> Qwen2_5_VLConfig:
    """The configuration of Qwen2.5-VL-3B-Instruct, special token ids included."""
    return Qwen2_5_VLConfig(
        text_config=copy.deepcopy(TEXT_3B),
        vision_config=copy.deepcopy(VISION_3B),
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
        tie_word_embeddings=True,
    )


def shrink(config: Qwen2_5_VLConfig) -> Qwen2_5_VLConfig:
    """A configuration with every part of this one at toy sizes: two layers, 2,000 tokens."""
    config = copy.deepcopy(config)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.vocab_size = 64, 96, 2000
    text.num_hidden_layers, text.layer_types = 2, text.layer_types[:2]
    text.num_attention_heads, text.num_key_value_heads = 4, 2
    text.rope_parameters["mrope_section"] = [2, 3, 3]
    vision.depth, vision.fullatt_block_indexes = 2, [1]
    vision.hidden_size, vision.num_heads, vision.intermediate_size = 32, 2, 48
    vision.out_hidden_size = text.hidden_size
    return config


def random_mllm(
    config: Qwen2_5_VLConfig,
    tokenizer_source: str | Path,
    image_side: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    template: str = prompts.PAPER,
) -> Mllm:
    """An Mllm of this configuration with random weights, made on `device` in `dtype`.

    No copy in another dtype or on another device is made: 7.5 GB for 3B in bfloat16. Weights are
    normal with a standard deviation of 0.02, so logits are finite and nearly uniform. The special
    token ids become those of the tokenizer in `tokenizer_source` (folder or hub id). The same
    seed gives the same weights on the same kind of device. `config` is left as it is. Raises
    ValueError if the tokenizer has more tokens than the configuration.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_source)
    config = _with_token_ids(config, tokenizer, str(tokenizer_source))
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    vision = config.vision_config
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )
    return Mllm(model, tokenizer, processor, image_side, template)


def _with_token_ids(
    config: Qwen2_5_VLConfig, tokenizer: Qwen2TokenizerFast, source: str
) -> Qwen2_5_VLConfig:
    """A copy of the configuration with the tokenizer's special ids."""
    if len(tokenizer) > config.text_config.vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens and text_config.vocab_size is "
            f"{config.text_config.vocab_size}; raise vocab_size."
        )
    config, ids = copy.deepcopy(config), tokenizer.convert_tokens_to_ids
    config.image_token_id = ids(IMAGE_TOKEN)
    config.video_token_id = ids("<|video_pad|>")
    config.vision_start_token_id = ids("<|vision_start|>")
    config.vision_end_token_id = ids("<|vision_end|>")
    config.text_config.bos_token_id = None
    config.text_config.eos_token_id = tokenizer.eos_token_id
    config.text_config.pad_token_id = tokenizer.pad_token_id
    return config
