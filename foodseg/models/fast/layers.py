"""The decoder's layers with the same outputs, fewer kernels and fewer saved tensors.

Within either context attention, MLPs, norms and adapted projections of the decoder have other
`forward`s; no weight of the model is written, and afterwards every module has its own again.

`lean_layers`, for sampling: a decode step is hundreds of small operations, so their number is its
time. In float32 on a CPU projections of one input are one product: the adapters are folded into a
copy of the weights, which oneDNN packs. Elsewhere an adapted projection is three, where PEFT takes
eight: in bfloat16 a folded adapter would be rounded away, so it stays apart, but in the weight's
dtype and with its scaling folded in.

`training_layers`, for a gradient step: autograd keeps what each operation asks for, which in
PEFT's and transformers' layers is 2.6 times what the backward needs (Qwen2.5-VL-3B in bfloat16,
counted). `foodseg.models.fast.gradients` says what is kept here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLAttention,
    Qwen2_5_VLRMSNorm,
    Qwen2MLP,
)

from foodseg.models.fast.attention import attend
from foodseg.models.fast.gradients import (
    AdaptedProjections,
    Frozen,
    GatedProjection,
    RMSNorm,
    Rotary,
    rotate,
)
from foodseg.models.fast.matrix_products import linear, pack

# Some projections of one input: from it to their outputs.
Projections = Callable[[Tensor], Sequence[Tensor]]
Makes = Callable[[Sequence[nn.Module]], Projections]


@contextlib.contextmanager
def lean_layers(language_model: nn.Module) -> Iterator[None]:
    """Within this context the decoder stack samples by these layers: no gradient, fixed weights.

    The adapter, as it is on entry, is part of them, or not if it is switched off.
    """
    weight = language_model.embed_tokens.weight
    foldable = weight.device.type == "cpu" and weight.dtype == torch.float32
    project = _folded if foldable else _apart
    with torch.no_grad():
        gated = functools.partial(_lean_gated, project)
        forwards = _forwards(language_model, _lean_norm, project, gated)
    with _replaced(forwards):
        yield


@contextlib.contextmanager
def training_layers(language_model: nn.Module) -> Iterator[None]:
    """Within this context the decoder stack, forward and backward, uses these layers.

    The adapter may be switched off and on within it.
    """
    with _replaced(_forwards(language_model, _norm, _adapted, _adapted_gated)):
        yield


@contextlib.contextmanager
def _replaced(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        # The class's own `forward` shows again.
        for module in forwards:
            del module.forward


def _forwards(language_model: nn.Module, norm, project: Makes, gated) -> dict[nn.Module, Callable]:
    """Every module's new forward.

    norm: from a norm to its function; project: from some modules that project one input to one
    function; gated: from the MLP's last projection to a function of the gate and what it
    multiplies.
    """
    forwards = {}
    for module in language_model.modules():
        if isinstance(module, Qwen2_5_VLRMSNorm):
            forwards[module] = norm(module)
        elif isinstance(module, Qwen2_5_VLAttention):
            forwards[module] = _attention(module, project)
        elif isinstance(module, Qwen2MLP):
            inputs = project([module.gate_proj, module.up_proj])
            forwards[module] = _mlp(inputs, gated(module.down_proj))
    return forwards


def _attention(module: Qwen2_5_VLAttention, project: Makes) -> Callable:
    inputs = project([module.q_proj, module.k_proj, module.v_proj])
    output = project([module.o_proj])

    def forward(hidden_states, position_embeddings, past_key_values=None, **keywords):
        cos, sin = (x[..., None, :] for x in position_embeddings)
        query, key, value = (x.unflatten(-1, (-1, module.head_dim)) for x in inputs(hidden_states))
        turn = Rotary.apply if query.requires_grad else rotate
        query, key = turn(query, cos, sin), turn(key, cos, sin)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, module.layer_idx)
        mixed, _ = attend(module, query, key, value, scaling=module.scaling, **keywords)
        return output(mixed.flatten(2))[0], None

    return forward


def _mlp(inputs: Projections, gated: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    return lambda x: gated(*inputs(x))


def _adapter(module: LoraLayer) -> tuple[Tensor, Tensor, float]:
    """Down (r, in), up (out, r), scaling."""
    [name] = module.active_adapters
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]


# Sampling


def _lean_norm(module: Qwen2_5_VLRMSNorm) -> Callable[[Tensor], Tensor]:
    weight, epsilon = module.weight, module.variance_epsilon
    return lambda x: functional.rms_norm(x, weight.shape, weight, epsilon)


def _folded(modules: Sequence[nn.Module]) -> Projections:
    """One product, of the weights with their adapters in them."""
    weights, biases = zip(*map(_folded_weight, modules), strict=True)
    sizes, weight = [len(weight) for weight in weights], torch.cat(weights)
    bias = None if biases[0] is None else torch.cat(biases)
    packed = pack(weight)
    return lambda x: linear(x, packed, bias).split(sizes, -1)


def _folded_weight(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    if not isinstance(module, LoraLayer):
        return module.weight, module.bias
    base = module.get_base_layer()
    if module.disable_adapters:
        return base.weight, base.bias
    down, up, scaling = _adapter(module)
    return torch.addmm(base.weight, up * scaling, down), base.bias


def _apart(modules: Sequence[nn.Module]) -> Projections:
    each = [_apart_one(module) for module in modules]
    return lambda x: [one(x) for one in each]


def _apart_one(module: nn.Module) -> Callable[[Tensor], Tensor]:
    if not isinstance(module, LoraLayer):
        return module
    base = module.get_base_layer()
    if module.disable_adapters:
        return base
    down, up, scaling = _adapter(module)
    down, up = down.to(base.weight.dtype), (up * scaling).to(base.weight.dtype)

    def forward(x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        output = functional.linear(rows, base.weight, base.bias)
        return output.addmm_(rows @ down.T, up.T).unflatten(0, x.shape[:-1])

    return forward


def _lean_gated(project: Makes, module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    output = project([module])
    return lambda gate, other: output(functional.silu(gate).mul_(other))[0]


# A gradient step


def _norm(module: Qwen2_5_VLRMSNorm) -> Callable[[Tensor], Tensor]:
    weight, epsilon = module.weight, module.variance_epsilon
    if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
        # With a gradient or without: the same bits.
        return lambda x: RMSNorm.apply(x, weight, epsilon)
    # A GPU has one kernel for it, and bfloat16 needs float32 within.
    return _lean_norm(module)


def _adapted(modules: Sequence[LoraLayer]) -> Projections:
    frozen = [_frozen(module) for module in modules]

    def forward(x: Tensor) -> Sequence[Tensor]:
        # Asked in each call: the reference policy is scored within the same context.
        if modules[0].disable_adapters:
            return [linear(x, one.weight, one.bias) for one in frozen]
        adapters = [matrix for module in modules for matrix in _adapter(module)[:2]]
        return AdaptedProjections.apply(x, frozen, *adapters)

    return forward


def _adapted_gated(module: LoraLayer) -> Callable[[Tensor, Tensor], Tensor]:
    frozen = _frozen(module)

    def forward(gate: Tensor, other: Tensor) -> Tensor:
        if module.disable_adapters:
            return linear(functional.silu(gate).mul_(other), frozen.weight)
        return GatedProjection.apply(gate, other, frozen, *_adapter(module)[:2])

    return forward


def _frozen(module: LoraLayer) -> Frozen:
    base = module.get_base_layer()
    return Frozen(base.weight, base.bias, _adapter(module)[2])
