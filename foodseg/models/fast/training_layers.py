"""The decoder's layers for a gradient step: the same values, with less kept and fewer operations.

Autograd keeps what each operation asks for, which in PEFT's and transformers' layers is 2.6 times
what the backward needs (Qwen2.5-VL-3B in bfloat16, counted). Within `training_layers`

- a norm is one operation, which keeps its input as it is rather than in float32;
- an adapted projection keeps its input, which others share, and LoRA's few inner numbers. The
  adapter is float32, but computes in the weight's dtype, as when it samples;
- the MLP keeps its gate and what that multiplies; their product is computed again.

No weight is written. The adapter may be switched on and off within the context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm, Qwen2MLP

from foodseg.models.fast.products import linear


@contextlib.contextmanager
def training_layers(language_model: nn.Module) -> Iterator[None]:
    """Within this context the decoder stack, with its adapter, runs forwards and backwards so."""
    modules = [module for module in language_model.modules() if isinstance(module, tuple(FORWARDS))]
    for module in modules:
        module.forward = FORWARDS[next(kind for kind in FORWARDS if isinstance(module, kind))](
            module
        )
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _norm(module: Qwen2_5_VLRMSNorm) -> Callable[[Tensor], Tensor]:
    weight, epsilon = module.weight, module.variance_epsilon
    return lambda x: functional.rms_norm(x, weight.shape, weight, epsilon)


def _projection(module: LoraLayer) -> Callable[[Tensor], Tensor]:
    base = module.get_base_layer()

    def forward(x: Tensor) -> Tensor:
        if module.disable_adapters:
            return linear(x, base.weight, base.bias)
        return _AdaptedProjection.apply(x, base.weight, base.bias, *_adapter(module))

    return forward


def _mlp(module: Qwen2MLP) -> Callable[[Tensor], Tensor]:
    down = module.down_proj
    base = down.get_base_layer()

    def forward(x: Tensor) -> Tensor:
        gate, up = module.gate_proj(x), module.up_proj(x)
        if down.disable_adapters:
            return linear(functional.silu(gate) * up, base.weight)
        return _GatedProjection.apply(gate, up, base.weight, *_adapter(down))

    return forward


FORWARDS = {Qwen2_5_VLRMSNorm: _norm, LoraLayer: _projection, Qwen2MLP: _mlp}


def _adapter(module: LoraLayer) -> tuple[Tensor, Tensor, float]:
    """Down (r, in), up (out, r), scaling."""
    [name] = module.active_adapters
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]


def _project(x: Tensor, weight: Tensor, bias, down: Tensor, up: Tensor, scaling: float):
    """x W^T + bias + scaling x down^T up^T of rows (N, in), and the inner x down^T (N, r)."""
    inner = x @ down.to(x.dtype).T
    output = linear(x, weight, bias)
    return output.addmm_(inner, up.to(x.dtype).T, alpha=scaling), inner


def _project_backward(gradient, x, inner, weight, down, up, scaling, needs_x: bool):
    """Gradients of x, down and up, from that of the output (N, out)."""
    inner_gradient = (gradient @ up.to(gradient.dtype)).mul_(scaling)
    dx = None
    if needs_x:
        dx = linear(gradient, weight.T).addmm_(inner_gradient, down.to(gradient.dtype))
    d_up = (gradient.T @ inner).mul_(scaling).to(up.dtype)
    return dx, (inner_gradient.T @ x).to(down.dtype), d_up


class _AdaptedProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scaling):
        output, inner = _project(x.flatten(0, -2), weight, bias, down, up, scaling)
        ctx.save_for_backward(x, inner, weight, down, up)
        ctx.scaling = scaling
        return output.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        x, inner, weight, down, up = ctx.saved_tensors
        dx, d_down, d_up = _project_backward(
            gradient.flatten(0, -2), x.flatten(0, -2), inner, weight, down, up, ctx.scaling,
            ctx.needs_input_grad[0],
        )  # fmt: skip
        dx = dx if dx is None else dx.view(x.shape)
        return dx, None, None, d_down, d_up, None


class _GatedProjection(torch.autograd.Function):
    """The adapted projection of silu(gate) * up_states."""

    @staticmethod
    def forward(ctx, gate, other, weight, down, up, scaling):
        x = (functional.silu(gate) * other).flatten(0, -2)
        output, inner = _project(x, weight, None, down, up, scaling)
        ctx.save_for_backward(gate, other, inner, weight, down, up)
        ctx.scaling = scaling
        return output.unflatten(0, gate.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):
        gate, other, inner, weight, down, up = ctx.saved_tensors
        active = functional.silu(gate)
        dx, d_down, d_up = _project_backward(
            gradient.flatten(0, -2), (active * other).flatten(0, -2), inner, weight, down, up,
            ctx.scaling, True,
        )  # fmt: skip
        dx = dx.view(gate.shape)
        d_gate = torch.ops.aten.silu_backward(dx * other, gate)
        return d_gate, active.mul_(dx), None, d_down, d_up, None
