"""The kitchen MLLM's own tokenizer: Qwen2's byte-level BPE, trained on the kitchen's sentences.

Normaliser, pre-tokenizer (every digit is its own token), decoder, special tokens and the chat
template's rendering are those of Qwen2.5-VL (arXiv:2502.13923); only the merges are the kitchen's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"
IMAGE_TOKEN = "<|image_pad|>"

SYSTEM_LINE = "You are a helpful assistant."

# Renders as Qwen2.5-VL's template does for text, image and video parts (without `add_vision_id`).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\n" + SYSTEM_LINE + "<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Qwen2Tokenizer:
    """Qwen2 tokenizer of at most `vocabulary` tokens (256 bytes, merges, 7 special tokens).

    The texts' order doesn't matter; the same texts give the same tokenizer.
    """
    blank = Qwen2Tokenizer()
    trained = Tokenizer(models.BPE())
    trained.normalizer = blank.backend_tokenizer.normalizer
    trained.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    # Special tokens take the last ids, as in Qwen2.
    ids = model["vocab"] | {t: len(model["vocab"]) + n for n, t in enumerate(SPECIAL_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=ids,
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        extra_special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
