"""The decoder's layers with the same outputs, fewer kernels and fewer saved tensors.

Within either context norms, adapted projections and MLPs of the decoder have other `forward`s; no
weight of the model is written, and afterwards every module has its own `forward` again.

`lean_layers`, for sampling: a decode step is hundreds of small operations, so their number is its
time. A norm is one operation. An adapted projection is one product in float32 on a CPU: the
adapter is folded into a copy of the weight, packed for oneDNN. Elsewhere it is three, where PEFT
takes eight: in bfloat16 a folded adapter would be rounded away, so it stays apart, but in the
weight's dtype and with its scaling folded in.

`training_layers`, for a gradient step: autograd keeps what each operation asks for, which in
PEFT's and transformers' layers is 2.6 times what the backward needs (Qwen2.5-VL-3B in bfloat16,
counted). Here a norm keeps its input as it is rather than in float32; an adapted projection keeps
its input, which others share, and LoRA's few inner numbers; the MLP keeps its gate and what that
multiplies, and computes their product again. The float32 adapter computes in the weight's dtype,
as when it samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm, Qwen2MLP

from foodseg.models.fast.matrix_products import ONEDNN, linear

Forward = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def lean_layers(language_model: nn.Module) -> Iterator[None]:
    """Within this context the decoder stack samples by these layers: no gradient, fixed weights.

    The adapter, as it is on entry, is part of them, or not if it is switched off.
    """
    with torch.no_grad():
        forwards = {module: _lean(module) for module in _parts(language_model)}
    with _replaced({module: forward for module, forward in forwards.items() if forward}):
        yield


@contextlib.contextmanager
def training_layers(language_model: nn.Module) -> Iterator[None]:
    """Within this context the decoder stack, forward and backward, uses these layers.

    The adapter may be switched off and on within it.
    """
    makers = {Qwen2_5_VLRMSNorm: _norm, LoraLayer: _projection, Qwen2MLP: _mlp}
    with _replaced(
        {
            module: make(module)
            for module in language_model.modules()
            for kind, make in makers.items()
            if isinstance(module, kind)
        }
    ):
        yield


@contextlib.contextmanager
def _replaced(forwards: dict[nn.Module, Forward]) -> Iterator[None]:
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        # The class's own `forward` shows again.
        for module in forwards:
            del module.forward


def _norm(module: Qwen2_5_VLRMSNorm) -> Forward:
    weight, epsilon = module.weight, module.variance_epsilon
    return lambda x: functional.rms_norm(x, weight.shape, weight, epsilon)


def _adapter(module: LoraLayer) -> tuple[Tensor, Tensor, float]:
    """Down (r, in), up (out, r), scaling."""
    [name] = module.active_adapters
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]


# Sampling


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Norms, adapted projections as a whole, and linear layers."""
    if isinstance(module, LoraLayer | nn.Linear | Qwen2_5_VLRMSNorm):
        yield module
    else:
        for child in module.children():
            yield from _parts(child)


def _lean(module: nn.Module) -> Forward | None:
    if isinstance(module, Qwen2_5_VLRMSNorm):
        return _norm(module)
    base, adapter = module, None
    if isinstance(module, LoraLayer):
        base = module.get_base_layer()
        adapter = None if module.disable_adapters else _scaled_adapter(module, base.weight.dtype)
    if base.weight.device.type == "cpu" and base.weight.dtype == torch.float32:
        return _folded(base, adapter)
    return _apart(base, *adapter) if adapter else None


def _scaled_adapter(module: LoraLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    down, up, scaling = _adapter(module)
    return down.to(dtype), (up * scaling).to(dtype)


def _folded(base: nn.Linear, adapter: tuple[Tensor, Tensor] | None) -> Forward:
    weight, bias = base.weight, base.bias
    if adapter:
        down, up = adapter
        weight = torch.addmm(weight, up, down)
    if not ONEDNN:
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _apart(base: nn.Linear, down: Tensor, up: Tensor) -> Forward:
    def forward(x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        output = functional.linear(rows, base.weight, base.bias)
        return output.addmm_(rows @ down.T, up.T).unflatten(0, x.shape[:-1])

    return forward


# A gradient step


def _projection(module: LoraLayer) -> Forward:
    base = module.get_base_layer()

    def forward(x: Tensor) -> Tensor:
        # Asked in each call: the reference policy is scored within the same context.
        if module.disable_adapters:
            return linear(x, base.weight, base.bias)
        return _AdaptedProjection.apply(x, base.weight, base.bias, *_adapter(module))

    return forward


def _mlp(module: Qwen2MLP) -> Forward:
    down = module.down_proj
    base = down.get_base_layer()

    def forward(x: Tensor) -> Tensor:
        gate, up = module.gate_proj(x), module.up_proj(x)
        if down.disable_adapters:
            return linear(functional.silu(gate) * up, base.weight)
        return _GatedProjection.apply(gate, up, base.weight, *_adapter(down))

    return forward


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
    """x W^T + bias + scaling x down^T up^T for x (..., in)."""

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
    """The adapted projection of silu(gate) * other, which the backward computes again."""

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
