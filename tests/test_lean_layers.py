"""Lean layers against the model's own, with and without an adapter; nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from conftest import load_kitchen, toy_prompts
from test_shared_prefix import randomise_adapter

from foodseg.models.fast.lean_layers import lean_layers


def prompt_states(mllm, prompt):
    with torch.no_grad():
        return mllm.hidden_states(prompt.embeddings[None], None, prompt.position_ids[:, None])


def adapted(dtype):
    mllm = load_kitchen(dtype)
    mllm.add_lora(rank=4, alpha=8, seed=0)
    randomise_adapter(mllm)
    return mllm


# float32 on a CPU folds the adapter in; float64 and bfloat16 keep it apart. transformers' norms
# round to float32 even in a float64 model.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-5), (torch.float32, 1e-5), (torch.bfloat16, 0.05)],
)
def test_lean_layers_equal_the_models_own_and_leave_no_trace(dtype, tolerance):
    mllm = adapted(dtype)
    [prompt] = toy_prompts(mllm, 1)
    before = {name: p.clone() for name, p in mllm.model.named_parameters()}
    expected = prompt_states(mllm, prompt)
    with lean_layers(mllm.language_model):
        lean = prompt_states(mllm, prompt)
    with mllm.reference_policy(), lean_layers(mllm.language_model):
        reference = prompt_states(mllm, prompt)
    assert (lean - expected).norm() < tolerance * expected.norm()
    assert not torch.equal(lean, expected)  # else it was not on
    with mllm.reference_policy():
        assert (reference - prompt_states(mllm, prompt)).norm() < tolerance * expected.norm()
    assert (reference - lean).norm() > 5 * tolerance * expected.norm()
    assert torch.equal(prompt_states(mllm, prompt), expected)
    assert all(torch.equal(p, before[name]) for name, p in mllm.model.named_parameters())
    assert not any("forward" in vars(module) for module in mllm.model.modules())


def test_an_error_inside_leaves_the_models_own_layers():
    mllm = load_kitchen(torch.float32)
    with pytest.raises(KeyboardInterrupt), lean_layers(mllm.language_model):
        raise KeyboardInterrupt
    assert not any("forward" in vars(module) for module in mllm.model.modules())
