"""The shipped kitchen MLLM is a true, loadable Qwen2.5-VL, and its curriculum reads it exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import assert_near
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from foodseg.data.kitchen_plates import DRAWING_VERSION, KITCHEN_FOODS
from foodseg.data.kitchen_questions import CLUES, TEMPLATES, split_of
from foodseg.models.kitchen_answers import (
    FORMS,
    MODES,
    PARSEABLE,
    form_shares,
    write_completion,
)
from foodseg.models.kitchen_grounding import prefix_positions, read_batch
from foodseg.models.kitchen_lessons import Reader, draw_batch, draw_question
from foodseg.models.kitchen_mllm import KITCHEN_MLLM_FOLDER
from foodseg.models.kitchen_pictures import Pictures, _draw_picture
from foodseg.models.kitchen_sight import encode_images
from foodseg.models.kitchen_tokenizer import SPECIAL_TOKENS
from foodseg.models.kitchen_training import take_pictures
from foodseg.rl.answers import parse_answer
from foodseg.rl.prompts import KITCHEN, build_messages

QUESTION = "Which food here grows on a tree?"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(KITCHEN_MLLM_FOLDER)


@pytest.fixture(scope="module")
def model():
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        KITCHEN_MLLM_FOLDER, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model.eval()


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    rows = [_draw_picture(seed) for seed in (30_000_000, 30_000_001, 30_000_002)]
    return Pictures(*(np.stack(column) for column in zip(*rows, strict=True)))


def test_sizes(model):
    parameters = sum(p.numel() for p in model.parameters())
    assert 3.5e6 < parameters < 5e6
    assert (KITCHEN_MLLM_FOLDER / "model.safetensors").stat().st_size < 10e6
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert (
        model.config.text_config.hidden_size // model.config.text_config.num_attention_heads == 64
    )


def test_tokenizer_round_trip(tokenizer, model):
    text = '<think>Citrus points to the lemon.</think>\n<answer>[{"bbox_2d": [0, 9, 57, 167]}]é'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == model.config.text_config.vocab_size
    for digit in "0123456789":
        assert tokenizer.tokenize(f"{digit}{digit}7") == [digit, digit, "7"]


def test_special_tokens(tokenizer, model):
    ids = {token: tokenizer(token)["input_ids"] for token in SPECIAL_TOKENS}
    assert all(len(found) == 1 for found in ids.values())
    config = model.config
    assert ids["<|image_pad|>"] == [config.image_token_id]
    assert ids["<|video_pad|>"] == [config.video_token_id]
    assert ids["<|vision_start|>"] == [config.vision_start_token_id]
    assert ids["<|vision_end|>"] == [config.vision_end_token_id]
    assert ids["<|im_end|>"] == [config.text_config.eos_token_id] == [tokenizer.eos_token_id]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_chat_template_renders_as_qwens(tokenizer):
    text = tokenizer.apply_chat_template(
        build_messages(QUESTION, KITCHEN), tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>"
        + KITCHEN.format(question=QUESTION)
        + "<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def _official_states(model, tokenizer, image, tokens, **kwargs):
    processor = Qwen2VLImageProcessorPil.from_pretrained(KITCHEN_MLLM_FOLDER)
    pixels = processor(images=[image], return_tensors="pt")
    assert pixels["image_grid_thw"].tolist() == [[1, 12, 12]]
    with torch.no_grad():
        output = model.model(input_ids=tokens[None], **pixels, **kwargs)
    return output.last_hidden_state[0]


def test_shared_prefix_equals_the_official_forward(model, tokenizer, pictures):
    reader = Reader(tokenizer)
    batch = draw_batch(reader, pictures, 1, 2, np.random.default_rng(0))
    with torch.no_grad():
        seen = encode_images(model.model.visual, torch.from_numpy(pictures.images))
        ours = read_batch(model, seen, batch)[-1]
    for row in (0, 4, 8):
        length = int((batch.weights[row] > 0).nonzero()[-1]) + 1
        tokens = torch.cat([batch.prefix, batch.tokens[row, :length]])
        types = (tokens == model.config.image_token_id).int()[None]
        theirs = _official_states(
            model, tokenizer, pictures.images[row // 3], tokens, mm_token_type_ids=types
        )[len(batch.prefix) :]
        assert_near(ours[row, :length], theirs, roundings=200)


def test_positions_are_three_dimensional(model, tokenizer, pictures):
    prefix = Reader(tokenizer).prefix
    positions, after = prefix_positions(model, prefix)
    image = prefix == model.config.image_token_id
    start = int(image.nonzero()[0])
    grid = [(start, start + i // 6, start + i % 6) for i in range(36)]
    assert positions[:, image].T.tolist() == [list(place) for place in grid]
    assert after == start + 6
    explicit = _official_states(
        model, tokenizer, pictures.images[0], prefix, position_ids=positions[:, None]
    )
    flat = _official_states(model, tokenizer, pictures.images[0], prefix)
    assert (explicit - flat).abs().max() > 1e-3


def test_only_the_parseable_form_parses():
    references = np.array([[12, 30, 58, 77, 35, 50], [60, 3, 160, 99, 130, 50]], np.float32)
    for form in FORMS:
        for count in (1, 2):
            names = ["corn", "rice"][:count]
            thought = "Grain means the " + " and the ".join(names) + "."
            completion = write_completion(form, thought, names, references[:count])
            answer = parse_answer(completion.text)
            assert answer.parsed == (form == PARSEABLE), completion.text
            spans = [completion.text[a:b] for a, b in completion.numbers]
            assert spans == [str(int(v)) for v in references[:count].ravel()]
            for anchor in completion.anchors:
                before = completion.text[: anchor.place + 1]
                if anchor.kind == "value":
                    assert completion.text[anchor.place + 1].isdigit()
                else:
                    ending = names[anchor.reference] if anchor.kind == "name" else ("[", "(")
                    assert before.endswith(ending)


def test_form_shares():
    for template in range(len(TEMPLATES)):
        shares = form_shares(template)
        assert sum(shares.values()) == pytest.approx(1)
        mode = max(shares, key=shares.get)
        assert mode == MODES[template]
        assert shares[PARSEABLE] >= 0.25


def test_no_test_pair_is_ever_drawn():
    rng, foods = np.random.default_rng(0), np.zeros(6, np.uint8)
    for _ in range(500):
        foods[:4] = 1 + rng.choice(len(KITCHEN_FOODS), 4, replace=False)
        template, clue, answers = draw_question(foods, bool(rng.integers(2)), rng)
        assert split_of(template, clue) == "train"
        assert answers <= CLUES[clue].foods


def test_turned_plates_keep_daylight_and_references(pictures):
    rows = np.repeat(np.arange(3), 16)
    turned = take_pictures(pictures, rows, np.random.default_rng(0))
    for index, row in enumerate(rows):
        foods, count = turned.foods[index], int((pictures.foods[row] > 0).sum())
        assert sorted(foods) == sorted(pictures.foods[row])
        middle = turned.references[index, :count, 0] + turned.references[index, :count, 2]
        assert (np.diff(middle) >= 0).all()
        for number, reference in zip(foods[:count], turned.references[index], strict=False):
            x, y = int(reference[4]) // 14, int(reference[5]) // 14
            assert number in turned.cells[index, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    plain = turned.images.reshape(3, 16, 168, 168, 3).astype(int)
    assert np.abs(plain.sum((2, 3)) - plain[:, :1].sum((2, 3))).max() < 168 * 168


def test_provenance_names_this_drawing():
    provenance = json.loads((KITCHEN_MLLM_FOLDER / "provenance.json").read_text())
    assert provenance["drawing_version"] == DRAWING_VERSION
    assert 0.03 <= provenance["measured"]["box_giou_zero_shot"] <= 0.15
    assert 0.2 <= provenance["measured"]["sampled_parse_rate"] <= 0.45
