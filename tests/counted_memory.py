"""Counts the bytes that a forward and backward really keep, without a byte of them.

Forwards run on a fake device, a CUDA one too, so through the operations that CUDA has. Backwards
run on the meta device: autograd's engine asks even a fake CUDA device for its driver.
"""

import contextlib
import weakref
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foodseg.models.fast.attention import RowLayout
from foodseg.models.fast.layers import training_layers
from foodseg.models.mllm import Mllm
from foodseg.models.random_mllm import random_mllm
from foodseg.presets import KITCHEN
from foodseg.training.forwards import checkpointed_layers

META = torch.device("meta")


def meta_mllm(config, rank: int, dtype: torch.dtype, layers: int | None = None) -> Mllm:
    """A model of this configuration (with fewer decoder layers) and its adapter, without memory."""
    if layers:
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    mllm = random_mllm(config, KITCHEN.mllm, KITCHEN.image_side, "meta", dtype)
    with META:
        mllm.add_lora(rank, 2 * rank, seed=0)
    return mllm


class LiveBytes(TorchDispatchMode):
    """Within this context `now` and `peak` count the storages made in it that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        given = filter(torch.is_tensor, tree_leaves((args, kwargs)))
        old = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in filter(torch.is_tensor, tree_leaves(output)):
            storage = tensor.untyped_storage()
            if storage._cdata not in old | self.known.keys():
                self._add(storage)
        return output

    def _add(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_) -> None:
            del self.known[key]
            self.now -= size

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def on_fake_cuda(mllm: Mllm) -> Mllm:
    """The model of the meta device moved to a fake CUDA device; call it in a FakeTensorMode."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    mllm.model._apply(lambda tensor: torch.empty_like(tensor, device="cuda"))
    torch.__future__.set_overwrite_module_params_on_conversion(before)
    mllm.banned_token_ids = mllm.banned_token_ids  # put on the model's device
    mllm.end_token_ids = torch.empty_like(mllm.end_token_ids, device="cuda")
    return mllm


def row_loss(mllm: Mllm, prompts: list[int], completions: list[list[int]]) -> torch.Tensor:
    """The sum of a shared-prefix row's log-probs, as `score_groups` computes them."""
    device = mllm.device
    layout = RowLayout.of(prompts, completions, device)
    tokens, scored = layout.causal.total, layout.answers.total
    embeddings = torch.empty(
        1, tokens, mllm.model.config.text_config.hidden_size, dtype=mllm.model.dtype, device=device
    )
    positions = torch.empty(3, 1, tokens, dtype=torch.long, device=device)
    hidden = mllm.hidden_states(embeddings, None, positions, row_layout=layout)
    before, targets = (torch.empty(scored, dtype=torch.long, device=device) for _ in range(2))
    return mllm.token_log_probabilities(hidden[0, before], targets)[0].sum()


def saved_bytes(mllm: Mllm, prompts: list[int], completions: list[list[int]]) -> int:
    """Of the tensors that autograd keeps for the backward, weights aside."""
    with training_layers(mllm.language_model), saved_storages(mllm) as storages:
        loss = row_loss(mllm, prompts, completions)
    assert loss.requires_grad
    return sum(storages.values())


@contextlib.contextmanager
def saved_storages(mllm: Mllm) -> Iterator[dict[int, int]]:
    weights = {p.untyped_storage()._cdata for p in mllm.model.parameters()}
    storages, alive = {}, []  # kept alive, so that no two have the same address

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            alive.append(tensor)
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


def peak_bytes(mllm: Mllm, prompts: list[int], completions: list[list[int]], checkpointed: int):
    """The most that a forward and backward takes beyond weights, adapter and its gradients."""
    gradients = [torch.empty_like(p) for p in mllm.lora_parameters()]
    for parameter, gradient in zip(mllm.lora_parameters(), gradients, strict=True):
        parameter.grad = gradient
    live = LiveBytes()
    model = mllm.language_model
    with training_layers(model), checkpointed_layers(model, checkpointed), live:
        row_loss(mllm, prompts, completions).backward()
    return live.peak
