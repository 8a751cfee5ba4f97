"""oneDNN's product against torch's, and when it is not taken."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near

from foodseg.models.fast import products
from foodseg.models.fast.products import linear


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(1, 8), (37, 8), (2, 3, 8), (0, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_torchs_linear(dtype, shape, transposed):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(8, 5, generator=generator).to(dtype).T
    weight = weight if transposed else weight.contiguous()
    bias = torch.randn(5, generator=generator).to(dtype)
    for b in (None, bias):
        exact = x.double() @ weight.double().T + (0 if b is None else b.double())
        ours = linear(x, weight, b)
        assert ours.shape == exact.shape
        if x.numel():  # sums of eight products, each rounded; in bfloat16 only the sum is
            scale = (x.double().abs() @ weight.double().abs().T).max()
            assert_near(ours, exact.to(dtype), 1 if dtype == torch.bfloat16 else 8, scale)


def test_a_call_that_needs_a_gradient_gets_one():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, -1))


def test_without_onednn_it_is_torchs(monkeypatch):
    monkeypatch.setattr(products, "ONEDNN", False)
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))
