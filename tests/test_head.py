"""The chunked head and oneDNN's product against plain torch and autograd."""

import pytest
import torch
from conftest import assert_near

from foodseg.models.fast import head as head_module
from foodseg.models.fast import matrix_products as products
from foodseg.models.fast.head import log_probabilities, token_log_probabilities
from foodseg.models.fast.matrix_products import linear, pack


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


def test_states_alone_get_a_gradient_banned_tokens_nothing_and_no_logits_are_kept():
    hidden, head, tokens, banned = problem(torch.float32)
    with torch.no_grad():
        log_probs, _ = token_log_probabilities(hidden, head, tokens, banned)
    assert log_probs.grad_fn is None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        log_probs, entropies = token_log_probabilities(hidden, head, tokens, banned)
    assert log_probs.requires_grad and not entropies.requires_grad
    # One vector a token, as large as its hidden state: no logits.
    assert [x.shape for x in kept] == [hidden.shape]
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


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(1, 8), (37, 8), (2, 3, 8), (0, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_product_equals_torchs_linear(dtype, shape, transposed):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(8, 5, generator=generator).to(dtype).T
    weight = weight if transposed else weight.contiguous()
    bias = torch.randn(5, generator=generator).to(dtype)
    for b in (None, bias):
        exact = x.double() @ weight.double().T + (0 if b is None else b.double())
        ours = linear(x, weight, b)
        assert ours.shape == exact.shape
        if x.numel():  # sums of eight products, each rounded; in bfloat16 only the sum is
            scale = (x.double().abs() @ weight.double().abs().T).max()
            assert_near(ours, exact.to(dtype), 1 if dtype == torch.bfloat16 else 8, scale)


@pytest.mark.parametrize("onednn", [True, False])
def test_on_both_makes_of_processor_a_packed_product_is_the_plain_one(monkeypatch, onednn):
    monkeypatch.setattr(products, "ONEDNN", onednn and torch.backends.mkldnn.is_available())
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 8, generator=generator), torch.randn(5, 8, generator=generator)
    expected = torch.nn.functional.linear(x, weight)
    assert_near(
        linear(x, pack(weight)), expected, roundings=8, scale=(x.abs() @ weight.T.abs()).max()
    )
    assert onednn or torch.equal(linear(x, weight), expected)


def test_a_product_has_its_gradient():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, -1))


@pytest.mark.parametrize("maker", ["AuthenticAMD", "GenuineIntel"])
def test_the_processors_make_decides(monkeypatch, tmp_path, maker):
    facts = tmp_path / "cpuinfo"
    facts.write_text(f"processor : 0\nvendor_id : {maker}\n")
    monkeypatch.setattr(products, "Path", lambda _: facts)
    assert products._made_by_amd() == (maker == "AuthenticAMD")
    facts.unlink()  # as on Windows and macOS
    monkeypatch.setattr(products.platform, "processor", lambda: f"AMD64 Family 25, {maker}")
    assert products._made_by_amd() == (maker == "AuthenticAMD")
