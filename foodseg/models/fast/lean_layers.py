"""The decoder's layers with fewer and larger operations, for as long as rows are sampled.

A decode step is hundreds of small operations, so their number is its time. Within `lean_layers`

- a norm is one operation;
- in float32 on a CPU an adapted projection is one product: the adapter is folded into a copy of
  the weight, packed for oneDNN;
- elsewhere it is three: in bfloat16 a folded adapter would be rounded away, so it stays apart, but
  in the weight's dtype and with its scaling folded in, where PEFT takes eight.

No weight of the model is written, so nothing can drift.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from foodseg.models.fast.products import ONEDNN


@contextlib.contextmanager
def lean_layers(language_model: nn.Module) -> Iterator[None]:
    """Within this context the decoder stack is for inference: no gradient, weights as they are."""
    with torch.no_grad():
        forwards = {module: lean for module in _parts(language_model) if (lean := _lean(module))}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Norms, adapted projections as a whole, and linear layers."""
    if isinstance(module, LoraLayer | nn.Linear | Qwen2_5_VLRMSNorm):
        yield module
    else:
        for child in module.children():
            yield from _parts(child)


def _lean(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    if isinstance(module, Qwen2_5_VLRMSNorm):
        weight, epsilon = module.weight, module.variance_epsilon
        return lambda x: functional.rms_norm(x, weight.shape, weight, epsilon)
    base = module.get_base_layer() if isinstance(module, LoraLayer) else module
    adapters = _adapters(module) if isinstance(module, LoraLayer) else []
    if base.weight.device.type == "cpu" and base.weight.dtype == torch.float32:
        return _folded(base, adapters)
    return _apart(base, *adapters[0]) if adapters else None


def _adapters(module: LoraLayer) -> list[tuple[Tensor, Tensor]]:
    """Down and up projections (r, in) and (out, r) in the base's dtype, scaled; at most one."""
    names = [] if module.disable_adapters else module.active_adapters
    dtype = module.get_base_layer().weight.dtype
    return [
        (
            module.lora_A[name].weight.to(dtype),
            (module.lora_B[name].weight * module.scaling[name]).to(dtype),
        )
        for name in names
    ]


def _folded(base: nn.Linear, adapters: list[tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
    weight, bias = base.weight, base.bias
    for down, up in adapters:
        weight = torch.addmm(weight, up, down)
    if not ONEDNN:
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _apart(base: nn.Linear, down: Tensor, up: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        output = functional.linear(rows, base.weight, base.bias)
        return output.addmm_(rows @ down.T, up.T).unflatten(0, x.shape[:-1])

    return forward
