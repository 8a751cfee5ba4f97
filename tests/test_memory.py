"""The memory plan: its formula against a count of what autograd keeps, its choices, its effects."""

import contextlib
from dataclasses import replace

import pytest
import torch
from conftest import kitchen_policy, toy_rollouts
from counted_memory import (
    meta_mllm,
    on_fake_cuda,
    peak_bytes,
    row_loss,
    saved_bytes,
    saved_storages,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig

from foodseg.models.fast.attention import padded_length
from foodseg.models.random_mllm import qwen2_5_vl_3b
from foodseg.models.shared_prefix import score_groups
from foodseg.presets import KITCHEN, PAPER
from foodseg.training.forwards import checkpointed_layers
from foodseg.training.memory import (
    GroupTokens,
    ModelSizes,
    available_bytes,
    pieces,
    plan_memory,
    plan_table,
)


def paper_mllm(layers):
    return meta_mllm(qwen2_5_vl_3b(), PAPER.lora_rank, torch.bfloat16, layers)


def kitchen_meta(layers):
    config = AutoConfig.from_pretrained(KITCHEN.mllm)
    return meta_mllm(config, KITCHEN.lora_rank, torch.float32, layers)


MODELS = pytest.mark.parametrize(
    "make, prompt, completion",
    [(paper_mllm, 1100, 150), (kitchen_meta, 100, 60)],
    ids=["Qwen2.5-VL-3B", "kitchen"],
)


@MODELS
def test_a_layer_keeps_what_the_formula_says(make, prompt, completion):
    row = [prompt], [[completion] * 8]
    models = [make(layers) for layers in (2, 4)]
    with contextlib.ExitStack() as stack:
        if make is paper_mllm:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            models = [on_fake_cuda(mllm) for mllm in models]
        two, four = (saved_bytes(mllm, *row) for mllm in models)
    counted = (four - two) / 2 / padded_length(prompt + 8 * completion)
    assert ModelSizes.of(models[0]).kept_bytes() == pytest.approx(counted, rel=0.02)


@MODELS
@pytest.mark.parametrize("groups, checkpointed", [(1, 0), (2, 0), (2, 1), (1, 4)])
def test_the_peak_is_what_the_formula_says(make, prompt, completion, groups, checkpointed):
    mllm = make(4)
    counted = peak_bytes(mllm, [prompt] * groups, [[completion] * 8] * groups, checkpointed)
    sizes, scored = ModelSizes.of(mllm), groups * 8 * completion
    tokens = padded_length(groups * prompt + scored)
    # The meta device has the CPU's norm, which keeps its input in float32.
    counted -= (4 - checkpointed) * tokens * 2 * sizes.hidden * (4 - sizes.itemsize)
    planned = sizes.forward_bytes(tokens, scored, checkpointed)
    # It may count too much, by little, and hardly too little.
    assert 0.98 * counted <= planned <= 1.15 * counted


def test_the_3b_model_is_the_size_it_is_known_to_be():
    # 3.75 B parameters of 2 bytes; 36,864 bytes of cache a token.
    sizes = ModelSizes.of(paper_mllm(None))
    assert sizes.weight_bytes == pytest.approx(7.5e9, rel=0.01)
    assert sizes.cache_bytes(1) == 36_864
    assert sizes.rank == 64


SIZES = ModelSizes(
    layers=10, hidden=64, intermediate=128, heads=4, key_heads=2, vocabulary=100, rank=4,
    weight_bytes=10**6, adapter_bytes=10**4, itemsize=2,
)  # fmt: skip
GROUPS = [GroupTokens(1000, (100,) * 8)] * 8


def needed(groups, checkpointed):
    return SIZES.forward_bytes(1800 * groups, 800 * groups, checkpointed)


ALL_IN_ONE = "all groups in a forward, no layers checkpointed"


@pytest.mark.parametrize(
    "free, choice, said",
    [
        (needed(8, 0), (8, 1, 0), ALL_IN_ONE),
        # Seven fit, but two forwards it is, and four of eight groups take less than seven.
        (needed(8, 0) - 1, (4, 1, 0), ""),
        (needed(4, 0) - 1, (3, 1, 0), ""),
        (needed(1, 0), (1, 1, 0), ""),
        (needed(1, 0) - 1, (1, 1, 1), ""),
        (needed(1, 3), (1, 1, 3), "Memory plan: 1 of 8 groups in a forward, 3 of 10 layers che"),
        (needed(1, 3) - 1, (1, 1, 4), ""),
        (1000, (1, 8, 10), "smallest there is"),
        (None, (1, 1, 0), ""),  # a CPU
    ],
)
def test_groups_go_together_then_layers_are_checkpointed_then_groups_split(free, choice, said):
    plan = plan_memory(SIZES, GROUPS, free)
    groups, parts, checkpointed = choice
    assert plan.choice == choice
    assert not said or said in plan.sentence(8, 10)
    if parts == 1:
        assert plan.forward_bytes == needed(groups, checkpointed) <= (free or 1e9)
    else:  # more than there is
        assert plan.forward_bytes == SIZES.forward_bytes(1100, 100, 10) > free


def test_a_group_is_split_where_its_prompt_costs_less_than_recomputed_layers():
    short = [GroupTokens(10, (100,) * 8)] * 2
    free = SIZES.forward_bytes(810, 800, 0) - 1
    assert plan_memory(SIZES, short, free).choice == (1, 2, 0)


def test_each_completion_is_in_one_forward():
    sizes = [8, 8, 5]
    for split in [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (1, 8)]:
        plan = replace(plan_memory(SIZES, GROUPS, None), groups=split[0], parts=split[1])
        ranges = plan.row_ranges(sizes)
        assert [row for part in ranges for row in part] == list(range(21))
        touched = [[index for index, _ in pieces(sizes, part)] for part in ranges]
        assert max(map(len, touched)) == split[0]
    assert list(pieces(sizes, range(6, 17))) == [
        (0, slice(6, 8)),
        (1, slice(0, 8)),
        (2, slice(0, 1)),
    ]


def test_what_a_gpu_can_still_take(monkeypatch):
    """On a GPU of 24 GB, of which 2 are another process's and 8 this one's (10 reserved)."""
    for name, value in {
        "mem_get_info": (12e9, 24e9),
        "memory_reserved": 10e9,
        "memory_allocated": 8e9,
        "get_per_process_memory_fraction": 1.0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    gpu = torch.device("cuda", 0)
    assert available_bytes(torch.device("cpu"), 0) is None
    assert available_bytes(gpu, int(1e9)) == pytest.approx(0.95 * 22e9 - 9e9)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.5)
    assert available_bytes(gpu, 0) == pytest.approx(0.95 * 12e9 - 8e9)


def test_the_table_of_the_3b_model_fits_each_gpu():
    groups = [GroupTokens(1100, (150,) * 8)] * 8
    rows = plan_table(ModelSizes.of(paper_mllm(None)), groups)
    assert [row["GPU (GB)"] for row in rows] == [24, 48, 80]
    for row in rows:
        assert row["peak, counted (GB)"] <= 0.95 * row["GPU (GB)"] + 0.05
    in_one = [row["groups in a forward"] for row in rows]
    assert in_one == sorted(in_one) and in_one[0] >= 1
    assert rows[1]["layers checkpointed"] == rows[2]["layers checkpointed"] == 0


@pytest.mark.parametrize("count", [1, 4])
def test_checkpointing_changes_no_bit_of_the_gradient(count):
    mllm = kitchen_policy(torch.float32)
    rollouts = toy_rollouts(mllm, 3, 12, seed=2)
    layers = mllm.language_model.layers
    ran = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda *_, index=i: ran.append(index))
        for i, layer in enumerate(layers)
    ]

    def gradients(context):
        ran.clear()
        with context:
            loss = score_groups(mllm, rollouts).log_probs.sum()
            return torch.autograd.grad(loss, mllm.lora_parameters())

    plain = gradients(contextlib.nullcontext())
    assert ran == [0, 1, 2, 3]
    again = gradients(checkpointed_layers(mllm.language_model, count))
    assert ran == [0, 1, 2, 3, *reversed(range(count))]  # as many are run again, no more
    for ours, theirs in zip(again, plain, strict=True):
        assert theirs.abs().max() > 0
        assert torch.equal(ours, theirs)
    # The rollout's cache is refused by a layer left in this mode.
    assert not any(layer.training or layer.gradient_checkpointing for layer in layers)
    for hook in hooks:
        hook.remove()


def test_the_lean_layers_of_a_gradient_step_keep_less_than_half():
    mllm, row = paper_mllm(2), ([1100], [[150] * 8])
    with saved_storages(mllm) as storages:
        loss = row_loss(mllm, *row)
    assert loss.requires_grad
    assert saved_bytes(mllm, *row) < 0.45 * sum(storages.values())
