"""The CUDA paths without a GPU: true sizes, two layers, tensors that have a device but no data."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from counted_memory import meta_mllm, on_fake_cuda
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from foodseg.models import rollouts, shared_prefix
from foodseg.models.fast import vision
from foodseg.models.fast.attention import RowLayout, SharedPrefixAttention
from foodseg.models.fast.decoding import StaticCache
from foodseg.models.fast.layers import lean_layers, training_layers
from foodseg.models.mllm import Prompt
from foodseg.models.random_mllm import qwen2_5_vl_3b

PROMPT, LENGTH, PROMPTS, GROUP = 1100, 150, 2, 4
ROWS = PROMPTS * GROUP


class Operations(TorchDispatchMode):
    """Counts operations by name, and matrix products by dtype."""

    def __init__(self):
        super().__init__()
        self.names, self.products = Counter(), Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        self.names[name] += 1
        if name in ("mm", "addmm", "addmm_"):
            tensors = [one for one in arguments if isinstance(one, torch.Tensor)]
            self.products[tensors[-1].dtype] += 1
        return function(*arguments, **(keywords or {}))


def outside(function):
    """The function with real tensors: it computes indices on the CPU."""

    def call(*arguments):
        with unset_fake_temporarily():
            return function(*arguments)

    return call


@pytest.fixture(scope="module")
def fake_mllm():
    """The 3B with two layers of each tower and an adapter, on a GPU that isn't there."""
    config = qwen2_5_vl_3b()
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
    mllm = meta_mllm(config, 64, torch.bfloat16, layers=2)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return on_fake_cuda(mllm), mode


def fake_prompts() -> list[Prompt]:
    ids = torch.zeros(PROMPT, dtype=torch.long, device="cuda")
    embeddings = torch.empty(PROMPT, 2048, dtype=torch.bfloat16, device="cuda")
    return [Prompt(ids, embeddings, ids.expand(3, -1))] * PROMPTS


def test_a_packed_row_is_scored_in_bfloat16(fake_mllm, monkeypatch):
    mllm, mode = fake_mllm
    monkeypatch.setattr(Prompt, "next_position", 400)
    monkeypatch.setattr(shared_prefix, "_predictors", outside(shared_prefix._predictors))
    ones = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    with mode, Operations() as operations:
        monkeypatch.setattr(shared_prefix, "completion_mask", lambda _: ones.to("cuda"))
        tokens = (torch.zeros(LENGTH, dtype=torch.long, device="cuda"),) * GROUP
        rollout = rollouts.Rollout(fake_prompts()[0], tokens, (), (), ())
        with training_layers(mllm.language_model):
            scores = shared_prefix.score_groups(mllm, [rollout] * PROMPTS)
    assert scores.log_probs.device.type == "cuda" and scores.log_probs.dtype == torch.float32
    assert scores.log_probs.shape == scores.entropies.shape == (ROWS, LENGTH)
    assert scores.log_probs.requires_grad and not scores.entropies.requires_grad
    # Two parts a layer, and never a mask of the row's length squared.
    assert operations.names["_flash_attention_forward"] == 4
    # PEFT's adapter is float32; its products in that dtype would take as long as all the others.
    assert set(operations.products) == {torch.bfloat16}


def test_the_attentions_backward_fits_the_kernels(fake_mllm):
    _, mode = fake_mllm
    context = SimpleNamespace()
    context.save_for_backward = lambda *saved: setattr(context, "saved_tensors", saved)
    with mode, torch.no_grad():
        layout = RowLayout.of([1100, 900], [[150] * 8, [150] * 4], torch.device("cuda"))
        query = torch.empty(layout.causal.total, 16, 128, dtype=torch.bfloat16, device="cuda")
        key, value = query[:, :2].clone(), query[:, 2:4].clone()
        output = SharedPrefixAttention.forward(context, query, key, value, layout, 128**-0.5)
        gradients = SharedPrefixAttention.backward(context, torch.empty_like(output))
    for ours, given in zip((output, *gradients[:3]), (query, query, key, value), strict=True):
        assert (ours.shape, ours.dtype, ours.device) == (given.shape, given.dtype, given.device)


def test_a_decode_step_can_be_captured(fake_mllm):
    mllm, mode = fake_mllm
    with mode, torch.no_grad(), lean_layers(mllm.language_model):
        prefix, hidden = rollouts._prefill(mllm, fake_prompts())
        cache = StaticCache(prefix, [PROMPT] * PROMPTS, GROUP, LENGTH)
        uniforms = torch.rand(ROWS, LENGTH, dtype=torch.float64).to("cuda")
        starts = torch.full((ROWS,), 400, device="cuda")
        hidden = hidden.repeat_interleave(GROUP, 0)
        decoder = rollouts.Decoder(mllm, cache, hidden, starts, uniforms, 1.0)
        with Operations() as operations:
            decoder.step()
    assert operations.names["_flash_attention_forward"] == 4
    # Reading from the device, or copying to it, is forbidden while a graph is captured.
    assert not operations.names["_local_scalar_dense"] and not operations.names["nonzero"]
    assert set(operations.products) == {torch.bfloat16}


def test_the_vision_tower_takes_bfloat16(fake_mllm, monkeypatch):
    mllm, mode = fake_mllm
    real = outside(vision._layout.__wrapped__)

    def layout(*arguments):
        made = real(*arguments[:-1], torch.device("cpu"))
        tensors = {k: v.to("cuda") for k, v in vars(made).items() if isinstance(v, torch.Tensor)}
        return replace(made, **tensors)

    monkeypatch.setattr(vision, "_layout", layout)
    with mode, torch.no_grad():
        patches = torch.empty(2 * 3600, 1176, device="cuda")
        features = vision.encode_patches(mllm.model.model.visual, patches, [(60, 60)] * 2)
    assert [tuple(feature.shape) for feature in features] == [(900, 2048)] * 2
    assert {(f.dtype, f.device.type) for f in features} == {(torch.bfloat16, "cuda")}
