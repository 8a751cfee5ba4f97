"""Products with frozen matrices: by oneDNN in float32 on a CPU.

There torch takes MKL, which on AMD's processors runs at half the speed of oneDNN (measured: 106
against 212 GFLOP/s on one core of a Zen 5). Everywhere else this is torch's own product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ONEDNN = torch.backends.mkldnn.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias: (..., out) for x (..., in), weight (out, in), which may be a transposed view.

    Differentiable as torch's, which is what a call that needs a gradient takes.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or not ONEDNN
    if plain or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
