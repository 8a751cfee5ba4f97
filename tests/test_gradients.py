"""Operations with a backward of their own against plain torch, autograd and differences."""

import pytest
import torch
from conftest import assert_near
from torch.autograd import gradcheck
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from foodseg.models.fast.gradients import (
    AdaptedProjections,
    Frozen,
    GatedProjection,
    RMSNorm,
    Rotary,
)


def random(*shape, dtype=torch.float64, requires_grad=True):
    return torch.randn(*shape, dtype=dtype).requires_grad_(requires_grad)


def frozen(outputs, inputs, dtype, bias):
    weight = random(outputs, inputs, dtype=dtype, requires_grad=False)
    return Frozen(weight, random(outputs, dtype=dtype, requires_grad=False) if bias else None, 0.7)


def plain_projection(x, one, down, up):
    return functional.linear(x, one.weight, one.bias) + one.scaling * x @ down.T @ up.T


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Sums of at most 40 products, each rounded; float32 also takes the processor's own product.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_projections_of_one_input_equal_plain_ones_with_unlike_ranks(dtype):
    x = random(2, 20, 6, dtype=dtype)
    projections = [frozen(5, 6, dtype, bias=True), frozen(3, 6, dtype, bias=True)]
    adapters = [random(*s, dtype=dtype) for s in ((2, 6), (5, 2), (4, 6), (3, 4))]
    ours = AdaptedProjections.apply(x, projections, *adapters)
    theirs = [
        plain_projection(x, *parts)
        for parts in zip(projections, adapters[::2], adapters[1::2], strict=True)
    ]
    directions = [torch.randn_like(output) for output in theirs]
    gradients = [torch.autograd.grad(y, (x, *adapters), directions) for y in (ours, theirs)]
    for one, other in zip((*ours, *gradients[0]), (*theirs, *gradients[1]), strict=True):
        assert_near(one, other, roundings=50)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gated_projection_equals_the_plain_one(dtype):
    gate, other = random(1, 20, 6, dtype=dtype), random(1, 20, 6, dtype=dtype)
    one, down, up = frozen(5, 6, dtype, bias=False), random(2, 6, dtype=dtype), random(5, 2)
    up = up.to(dtype).detach().requires_grad_()
    ours = GatedProjection.apply(gate, other, one, down, up)
    theirs = plain_projection(functional.silu(gate) * other, one, down, up)
    inputs, direction = (gate, other, down, up), torch.randn_like(theirs)
    gradients = [torch.autograd.grad(y, inputs, direction) for y in (ours, theirs)]
    assert_near(ours, theirs, roundings=50)
    for our, their in zip(*gradients, strict=True):
        assert_near(our, their, roundings=50)


def test_the_norm_is_torchs_with_the_gradient_of_differences():
    x, weight = random(3, 7), random(7, requires_grad=False)
    expected = functional.rms_norm(x, weight.shape, weight, 1e-2)
    assert_near(RMSNorm.apply(x, weight, 1e-2), expected, roundings=10)
    assert gradcheck(lambda x: RMSNorm.apply(x, weight, 1e-2), x)


def test_the_turn_is_transformers_with_the_gradient_of_differences():
    query, key = random(2, 5, 3, 8), random(2, 5, 1, 8)
    angles = torch.randn(2, 5, 4, dtype=torch.float64).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    expected = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), cos, sin)
    for x, turned in zip((query, key), expected, strict=True):
        ours = Rotary.apply(x, cos[..., None, :], sin[..., None, :])
        assert_near(ours.transpose(1, 2), turned, roundings=10)
    assert gradcheck(lambda x: Rotary.apply(x, cos[..., None, :], sin[..., None, :]), query)
