"""Products with frozen matrices in float32 on a CPU: by oneDNN on AMD's processors.

There torch takes MKL, which runs on AMD's at 50 to 90% of oneDNN's speed (measured on one core:
106 against 212 GFLOP/s on a Zen 5, 101 against 112 on a Zen 4). Everywhere else this is torch's own
product. The processor's make decides, not a measurement: a make's bits stay the same.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional


def _made_by_amd() -> bool:
    facts = Path("/proc/cpuinfo")  # Linux; elsewhere Python asks the system
    return "AuthenticAMD" in (facts.read_text() if facts.exists() else platform.processor())


ONEDNN = torch.backends.mkldnn.is_available() and _made_by_amd()


def pack(weight: Tensor) -> Tensor:
    """A float32 weight (out, in) of a CPU as `linear` multiplies by it fastest, without a gradient.

    Of use for small x: the product then spends no time on reordering the weight.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight) if ONEDNN else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias: (..., out) for x (..., in), weight (out, in); both may be transposed views.

    Differentiable as torch's, which is what a call that needs a gradient takes.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or not ONEDNN
    if plain or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
