"""The two caches against dense softmax, and the static step against the ordinary one."""

from types import SimpleNamespace

import pytest
import torch
from conftest import assert_near, load_kitchen, toy_prompts

from foodseg.models import rollouts
from foodseg.models.fast import decoding
from foodseg.models.fast.decoding import SlicedCache, StaticCache
from foodseg.models.rollouts import decode_captured, decode_shrinking, start

LENGTHS, GROUP, STEPS = (5, 2, 7), 3, 6
HEADS, KEY_HEADS, SIZE, SCALE = 4, 2, 8, 0.3


def emulated_flash(
    query, key, value, query_offsets, key_offsets, key_lengths, most_queries, most_keys, scale
):
    """What PyTorch documents of variable-length flash attention (torch.nn.attention.varlen)."""
    output, lse = torch.empty_like(query), query.new_empty(query.shape[:2]).T
    repeats = query.shape[1] // key.shape[1]
    for i, length in enumerate(key_lengths.tolist()):
        rows = slice(query_offsets[i], query_offsets[i + 1])
        keys = slice(key_offsets[i], key_offsets[i] + length)
        assert rows.stop - rows.start <= most_queries and length <= most_keys
        assert key_offsets[i] + length <= len(key)
        k, v = (x[keys].repeat_interleave(repeats, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[rows], k) * scale
        lse[:, rows] = scores.logsumexp(-1)
        output[rows] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    return output, lse


@pytest.fixture()
def on_cpu(monkeypatch):
    """What needs CUDA, by its documented meaning."""
    monkeypatch.setattr(decoding, "_flash_cuda", emulated_flash)
    monkeypatch.setattr(rollouts, "capture", lambda step: step)


def prompt_cache():
    """Random keys and values of right-padded prompts; the padding is large, to be noticed."""
    shape = (2, 2, len(LENGTHS), KEY_HEADS, max(LENGTHS), SIZE)
    both = torch.randn(shape, dtype=torch.float64)  # layers; keys and values
    for row, length in enumerate(LENGTHS):
        both[:, :, row, :, length:] = 50.0
    return SimpleNamespace(layers=[SimpleNamespace(keys=k, values=v) for k, v in both])


class Reference:
    """Each row's keys and values in a list of its own, and softmax over them."""

    def __init__(self, prompts):
        self.rows = [
            [(x.keys[i, :, :n], x.values[i, :, :n]) for x in prompts.layers]
            for i, n in enumerate(LENGTHS)
            for _ in range(GROUP)
        ]

    def keep(self, rows):
        self.rows = [list(self.rows[i]) for i in rows.tolist()]

    def attend(self, layer, query, key, value):
        output = torch.empty_like(query.transpose(1, 2))
        for i, row in enumerate(self.rows):
            k, v = row[layer] = tuple(
                torch.cat(pair, 1) for pair in zip(row[layer], (key[i], value[i]), strict=True)
            )
            k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 0) for x in (k, v))
            weights = (query[i] @ k.transpose(1, 2) * SCALE).softmax(-1)
            output[i] = (weights @ v).transpose(0, 1)
        return output


def attend_both(cache, reference):
    rows = len(reference.rows)
    for layer in range(2):
        query = torch.randn(rows, HEADS, 1, SIZE, dtype=torch.float64)
        key, value = torch.randn(2, rows, KEY_HEADS, 1, SIZE, dtype=torch.float64)
        ours = cache.attend(layer, query, key, value, SCALE)
        assert_near(ours, reference.attend(layer, query, key, value), roundings=50)


def test_sliced_cache_is_dense_attention_while_rows_leave():
    torch.manual_seed(0)
    prompts = prompt_cache()
    cache, reference = SlicedCache(prompts, LENGTHS, GROUP, STEPS), Reference(prompts)
    # The last rows fill holes; the second prompt loses all its rows; in the end one row is left.
    leaving = {1: [0, 1, 8, 3, 7], 3: [0, 2, 4], 4: [2]}
    for step in range(STEPS):
        if step in leaving:
            rows = torch.tensor(leaving[step])
            cache.keep(rows)
            reference.keep(rows)
        attend_both(cache, reference)
        cache.advance(torch.zeros(len(reference.rows), dtype=torch.bool))
    assert cache.step.item() == STEPS and len(cache.prompts[0][0]) == 1


def test_static_cache_is_dense_attention_and_moves_nothing(on_cpu):
    torch.manual_seed(0)
    prompts = prompt_cache()
    cache, reference = StaticCache(prompts, LENGTHS, GROUP, STEPS), Reference(prompts)
    tensors = [x for pair in cache.own + cache.prompts for x in pair]
    addresses = [x.data_ptr() for x in (*tensors, cache.step, cache.own_lengths)]
    ended = torch.zeros(len(reference.rows), dtype=torch.bool)
    for _ in range(STEPS):
        attend_both(cache, reference)
        cache.advance(ended)
    assert addresses == [x.data_ptr() for x in (*tensors, cache.step, cache.own_lengths)]
    ended[4] = True
    cache.advance(ended)
    assert cache.own_lengths.tolist() == [STEPS + 2] * 4 + [1] + [STEPS + 2] * 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_static_step_equals_the_ordinary_one(on_cpu, temperature):
    mllm = load_kitchen(torch.float64)
    # A full stop ends rows early, and not all at once.
    mllm.eos_token_id = mllm.tokenizer.convert_tokens_to_ids(".")
    mllm.end_token_ids = torch.tensor([mllm.eos_token_id])
    prompts = toy_prompts(mllm)
    assert len({p.length for p in prompts}) > 1
    uniforms = torch.rand(
        3 * 4, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    with torch.no_grad():
        ordinary = start(mllm, prompts, uniforms, temperature, SlicedCache)
        decode_shrinking(ordinary)
        static = start(mllm, prompts, uniforms, temperature, StaticCache)
        decode_captured(static)
    assert len(ordinary.rows) < 12  # some rows have left the batch
    assert torch.equal(ordinary.tokens, static.tokens)
    at_end = ordinary.tokens == mllm.eos_token_id
    before_end = at_end.cumsum(1) - at_end.int() == 0
    # The model's norms, and these log-probs, are rounded to float32.
    assert_near(ordinary.log_probs[before_end], static.log_probs[before_end], roundings=50)


@pytest.mark.parametrize("kind", [SlicedCache, StaticCache])
def test_what_is_not_stored_yet_is_no_number_at_random(kind):
    """A kernel may multiply what lies past a row's length by 0, which keeps a NaN."""
    layer = SimpleNamespace(keys=torch.ones(3, KEY_HEADS, 7, SIZE))
    layer.values = layer.keys
    torch.use_deterministic_algorithms(True)  # fills what is not initialised with NaN
    try:
        cache = kind(SimpleNamespace(layers=[layer]), LENGTHS, GROUP, STEPS)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(storage.any() for pair in cache.own for storage in pair)
