"""Operations of a gradient step with a backward of their own: fewer kernels, fewer saved tensors.

A frozen matrix gets no gradient, and what is cheap to compute again is not kept: projections keep
their input, which those of the same input share, and LoRA's few inner numbers; the MLP keeps its
gate and what that multiplies; a norm keeps its input and one number a token. The float32 adapter
computes in the weight's dtype, as when it samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from foodseg.models.fast.matrix_products import linear


@dataclass(frozen=True, eq=False)
class Frozen:
    """What gets no gradient: weight (out, in), bias (out,) or None, the adapter's scaling."""

    weight: Tensor
    bias: Tensor | None
    scaling: float


class AdaptedProjections(torch.autograd.Function):
    """x W^T + bias + scaling x down^T up^T for each of some projections of one x (..., in).

    adapters: down (r, in) and up (out, r) of each projection in turn. Returns a tuple.
    """

    @staticmethod
    def forward(ctx, x, frozen: Sequence[Frozen], *adapters):
        outputs, inner = _project(x.flatten(0, -2), frozen, adapters)
        ctx.save_for_backward(x, inner, *adapters)
        ctx.frozen = frozen
        return tuple(output.unflatten(0, x.shape[:-1]) for output in outputs)

    @staticmethod
    def backward(ctx, *gradients):
        x, inner, *adapters = ctx.saved_tensors
        gradients = [gradient.flatten(0, -2) for gradient in gradients]
        dx, d_adapters = _project_backward(
            gradients, x.flatten(0, -2), inner, ctx.frozen, adapters, ctx.needs_input_grad[0]
        )
        return dx if dx is None else dx.view(x.shape), None, *d_adapters


class GatedProjection(torch.autograd.Function):
    """The adapted projection of silu(gate) * other, a product that the backward computes again."""

    @staticmethod
    def forward(ctx, gate, other, frozen: Frozen, down, up):
        x = functional.silu(gate).mul_(other)
        [output], inner = _project(x.flatten(0, -2), [frozen], [down, up])
        ctx.save_for_backward(gate, other, inner, down, up)
        ctx.frozen = frozen
        return output.unflatten(0, gate.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        gate, other, inner, *adapter = ctx.saved_tensors
        active = functional.silu(gate)
        dx, d_adapter = _project_backward(
            [gradient.flatten(0, -2)], (active * other).flatten(0, -2), inner, [ctx.frozen],
            adapter, True,
        )  # fmt: skip
        dx = dx.view(gate.shape)
        d_gate = torch.ops.aten.silu_backward(dx * other, gate)
        return d_gate, active.mul_(dx), None, *d_adapter


def _project(x: Tensor, frozen: Sequence[Frozen], adapters: Sequence[Tensor]):
    """Outputs (N, out) of rows x (N, in), and x down^T of all adapters, (N, sum of their ranks)."""
    downs, ups = adapters[::2], adapters[1::2]
    inner = linear(x, torch.cat(downs).to(x.dtype))
    parts = inner.split([len(down) for down in downs], 1)
    outputs = [
        linear(x, one.weight, one.bias).addmm_(part, up.to(x.dtype).T, alpha=one.scaling)
        for one, part, up in zip(frozen, parts, ups, strict=True)
    ]
    return outputs, inner


def _project_backward(gradients, x, inner, frozen, adapters, needs_x: bool):
    """Gradients of x (None if not needed) and of the adapters, from those of the outputs."""
    downs, ups = adapters[::2], adapters[1::2]
    parts = inner.split([len(down) for down in downs], 1)
    d_inner = torch.cat(
        [
            linear(gradient, up.to(gradient.dtype).T).mul_(one.scaling)
            for gradient, up, one in zip(gradients, ups, frozen, strict=True)
        ],
        1,
    )
    dx = None
    if needs_x:
        dx, *others = (linear(g, one.weight.T) for g, one in zip(gradients, frozen, strict=True))
        for other in others:
            dx += other
        dx.addmm_(d_inner, torch.cat(downs).to(x.dtype))
    d_downs = linear(d_inner.T, x.T).to(downs[0].dtype).split([len(down) for down in downs])
    # The small matrix first: oneDNN is the faster that way round.
    d_ups = [
        linear(part.T, gradient.T).mul_(one.scaling).T.to(up.dtype)
        for part, gradient, one, up in zip(parts, gradients, frozen, ups, strict=True)
    ]
    return dx, [x for pair in zip(d_downs, d_ups, strict=True) for x in pair]


class RMSNorm(torch.autograd.Function):
    """weight * x / rms(x) over the last axis, in x's dtype; the weight is frozen.

    With r = 1 / rms(x) and g = weight * gradient: dx = r g - x r^3 mean(g x).
    """

    @staticmethod
    def forward(ctx, x, weight, epsilon: float):
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, inverse)
        ctx.weight = weight
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx, gradient):
        x, inverse = ctx.saved_tensors
        gradient = gradient * ctx.weight
        mean = torch.linalg.vecdot(gradient, x)[..., None] / x.shape[-1]
        return gradient.mul_(inverse).addcmul_(x, mean.mul_(inverse.pow(3)), value=-1), None, None


class Rotary(torch.autograd.Function):
    """x (B, T, heads, D) turned by the angles of cos and sin (B, T, 1, D), as `rotate`."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.angles = cos, sin
        return rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient):
        cos, sin = ctx.angles
        return rotate(gradient, cos, -sin), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: halves (a, b) of D become (a cos - b sin, b cos + a sin).

    Both halves of cos (..., D), and of sin, are alike.
    """
    output, sin = x * cos, sin.chunk(2, -1)[0]
    (a, b), (first, second) = x.chunk(2, -1), output.chunk(2, -1)
    first.addcmul_(b, sin, value=-1)
    second.addcmul_(a, sin)
    return output
