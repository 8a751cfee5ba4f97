"""The chunked head against plain log-softmax and autograd."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near

from foodseg.models.fast import head as head_module
from foodseg.models.fast.head import log_probabilities, token_log_probabilities


def problem(dtype, rows=23, vocabulary=50, width=12):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator, dtype=dtype, requires_grad=True)
    head = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    tokens = torch.randint(0, vocabulary - 3, (rows,), generator=generator)
    return hidden, head, tokens, torch.tensor([vocabulary - 1, vocabulary - 3])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows_a_chunk", [1, 5, 23, 100])
def test_log_probs_entropies_and_gradient_equal_autograds(monkeypatch, temperature, rows_a_chunk):
    hidden, head, tokens, banned = problem(torch.float64)
    monkeypatch.setattr(head_module, "CHUNK_BYTES", rows_a_chunk * 4 * len(head))
    ours, entropies = token_log_probabilities(hidden, head, tokens, banned, temperature)

    logits = hidden @ head.T / temperature
    allowed = torch.ones(len(head), dtype=torch.bool)
    allowed[banned] = False
    reference = logits[:, allowed].log_softmax(1)
    column = allowed.cumsum(0)[tokens] - 1
    theirs = reference.gather(1, column[:, None])[:, 0]
    assert_near(ours, theirs, roundings=50)
    assert_near(entropies, -(reference.exp() * reference).sum(1), roundings=50)
    weights = torch.randn(len(tokens), generator=torch.Generator().manual_seed(1)).double()
    (gradient,) = torch.autograd.grad((ours * weights).sum(), hidden)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), hidden)
    assert_near(gradient, expected, roundings=50)


def test_entropies_and_the_head_get_no_gradient():
    hidden, head, tokens, banned = problem(torch.float32)
    log_probs, entropies = token_log_probabilities(hidden, head, tokens, banned)
    assert log_probs.requires_grad and not entropies.requires_grad


def test_without_a_gradient_nothing_is_kept():
    hidden, head, tokens, banned = problem(torch.float32)
    with torch.no_grad():
        log_probs, _ = token_log_probabilities(hidden, head, tokens, banned)
    assert log_probs.grad_fn is None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        token_log_probabilities(hidden, head, tokens, banned)
    # One vector a token, as large as its hidden state: no logits.
    assert [x.shape for x in kept] == [hidden.shape]


def test_banned_tokens_have_probability_zero():
    hidden, head, _, banned = problem(torch.float32)
    distribution = log_probabilities(hidden, head, banned).exp()
    assert (distribution[:, banned] == 0).all()
    torch.testing.assert_close(distribution.sum(1), torch.ones(len(hidden)))


def test_bfloat16_stays_within_its_rounding():
    hidden, head, tokens, banned = problem(torch.bfloat16)
    ours, _ = token_log_probabilities(hidden, head, tokens, banned)
    exact, _ = token_log_probabilities(hidden.double(), head.double(), tokens, banned)
    assert ours.dtype == torch.float32
    (gradient,) = torch.autograd.grad(ours.sum(), hidden)
    (expected,) = torch.autograd.grad(exact.sum(), hidden)
    assert gradient.dtype == torch.bfloat16
    # The weights and states are given in bfloat16; what is left is to round the logits.
    bound = 2 * torch.finfo(torch.bfloat16).eps
    assert (ours - exact).abs().max() < bound * exact.abs().max()
    assert (gradient - expected).abs().max() < bound * expected.abs().max()
