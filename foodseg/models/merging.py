"""A float32 model on a CPU with its adapter folded into its weights, for as long as it decodes.

A decode step is many small products, and the adapter has two more for each. The folded weights are
new tensors, packed for oneDNN; the base weights are never written, so that nothing drifts. In
bfloat16 a folded update would be rounded away, so there the adapter stays apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


@contextlib.contextmanager
def merged_projections(language_model: nn.Module) -> Iterator[None]:
    """Within this context the decoder layers' projections are one product each, no gradient."""
    weight = next(language_model.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        yield
        return
    modules = _projections(language_model)
    for module in modules:
        module.forward = _product(*_folded(module))
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _projections(language_model: nn.Module) -> list[nn.Module]:
    """Adapted projections, and linear layers that are no part of one."""
    modules = dict(language_model.named_modules())
    adapted = {name for name, module in modules.items() if isinstance(module, LoraLayer)}
    plain = [
        module
        for name, module in modules.items()
        if isinstance(module, nn.Linear)
        and not any(name.startswith(f"{parent}.") for parent in adapted)
    ]
    return [modules[name] for name in sorted(adapted)] + plain


@torch.no_grad()
def _folded(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    if not isinstance(module, LoraLayer):
        return module.weight, module.bias
    base = module.get_base_layer()
    adapters = [] if module.disable_adapters else module.active_adapters
    return base.weight + sum(map(module.get_delta_weight, adapters)), base.bias


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    if not torch.backends.mkldnn.is_available():
        return lambda x: nn.functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
