"""The kitchen MLLM: a Qwen2.5-VL of about 4 M parameters, its image processor, and its folder.

The architecture is `transformers`' own Qwen2.5-VL (arXiv:2502.13923); only the sizes are small.
The model image is 168x168: 12x12 patches of 14 pixels, merged 2x2 into 36 visual tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from foodseg.kitchen.pretraining.tokenizer import (
    CHAT_TEMPLATE,
    END_OF_TURN,
    IMAGE_TOKEN,
    PADDING,
    SPECIAL_TOKENS,
)
from foodseg.presets import KITCHEN

SIDE = KITCHEN.image_side
PATCH = 14
MERGE = 2
GRID = SIDE // PATCH
VISUAL_TOKENS = (GRID // MERGE) ** 2

TEXT_SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 640,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    # 32 frequencies of a head of 64, shared out as Qwen does (1 : 1.5 : 1.5)
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
}
VISION_SIZES = {
    "depth": 4,
    "hidden_size": 128,
    "num_heads": 4,
    "intermediate_size": 384,
    "out_hidden_size": TEXT_SIZES["hidden_size"],
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
    # windows of 3x3 visual tokens tile the 6x6 grid evenly
    "window_size": 84,
    "fullatt_block_indexes": [1, 3],
}
PROCESSOR_SIZES = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
# Names are read by dot products with visual tokens from the first step on: 0.02 is too faint.
EMBEDDING_STD = 0.1


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Configuration whose vocabulary and special ids are the tokenizer's."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = dict(
        TEXT_SIZES,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ids[END_OF_TURN],
        pad_token_id=ids[PADDING],
    )
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=dict(VISION_SIZES),
        image_token_id=ids[IMAGE_TOKEN],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Random float32 model from `seed`, in evaluation mode."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, EMBEDDING_STD)
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    return model.eval()


def build_image_processor() -> Qwen2VLImageProcessor:
    """Qwen2-VL's image processor, held to 168x168 pixels."""
    size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    return Qwen2VLImageProcessor(size=size, **PROCESSOR_SIZES)


def save_kitchen_mllm(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, folder: Path
) -> None:
    """Write configuration, float16 weights, tokenizer and processor to `folder`.

    `model` is cast to float16 in place; load the folder again to go on with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    Qwen2_5_VLProcessor(
        image_processor=build_image_processor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**PROCESSOR_SIZES),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
