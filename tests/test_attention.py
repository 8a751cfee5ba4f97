"""The two merged flash parts against one softmax over a dense mask."""

import pytest
import torch
from conftest import assert_near
from torch.nn.functional import scaled_dot_product_attention

from foodseg.models.fast.attention import LENGTH_MULTIPLE, RowLayout, SharedPrefixAttention

CPU = torch.device("cpu")
ROWS = {
    "one group": ([9], [[4, 7, 1]]),
    "groups of unlike size": ([9, 5, 30], [[4, 7, 1], [12], [3, 3, 3, 40]]),
    "prompts and completions of one token": ([1, 1], [[1], [1, 1]]),
}
# Of the largest element; in bfloat16 products, probabilities and sums are each rounded once.
ROUNDINGS = {torch.float64: 50, torch.float32: 50, torch.bfloat16: 4}


def dense_mask(prompts, completions):
    """(T, T) bool from the definition: a token's own past, and a completion's whole prompt.

    What fills the row up attends its own past alone.
    """
    lengths = [((group, "prompt"), length) for group, length in enumerate(prompts)]
    for group, own in enumerate(completions):
        lengths += [((group, index), length) for index, length in enumerate(own)]
    parts = [part for part, length in lengths for _ in range(length)]
    parts += [(None, 0)] * (-len(parts) % LENGTH_MULTIPLE)
    return torch.tensor(
        [
            [key <= query and seen in (part, (part[0], "prompt")) for key, seen in enumerate(parts)]
            for query, part in enumerate(parts)
        ]
    )


def dense_attention(query, key, value, mask, scale):
    heads = [x.transpose(0, 1)[None] for x in (query, key, value)]
    output = scaled_dot_product_attention(*heads, attn_mask=mask, scale=scale, enable_gqa=True)
    return output[0].transpose(0, 1)


def random_row(tokens, dtype):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tokens, heads, 16, generator=generator, dtype=dtype, requires_grad=True)
        for heads in (4, 2, 2)
    ]


@pytest.mark.parametrize("dtype", ROUNDINGS)
@pytest.mark.parametrize("row", ROWS)
def test_output_and_gradients_equal_one_softmax_over_a_dense_mask(row, dtype):
    layout = RowLayout.of(*ROWS[row], CPU)
    inputs = random_row(layout.causal.total, dtype)
    ours = SharedPrefixAttention.apply(*inputs, layout, 0.25)
    theirs = dense_attention(*inputs, dense_mask(*ROWS[row]), 0.25)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    gradients = [torch.autograd.grad(x, inputs, direction) for x in (ours, theirs)]
    assert_near(ours, theirs, ROUNDINGS[dtype])
    for our, their in zip(*gradients, strict=True):
        assert their.abs().max() > 0.1
        assert_near(our, their, ROUNDINGS[dtype])


def test_no_completion_sees_another_one_or_another_group():
    prompts, completions = ROWS["groups of unlike size"]
    layout = RowLayout.of(prompts, completions, CPU)
    query, key, value = random_row(layout.causal.total, torch.float64)
    output = SharedPrefixAttention.apply(query, key, value, layout, 0.25)
    # The value gradient of one token's output is non-zero exactly on the tokens that it sees.
    for token in (0, 8, 9, 43, 44, 48, 55, 56, 104):
        (gradient,) = torch.autograd.grad(output[token].sum(), value, retain_graph=True)
        seen = gradient.abs().sum((1, 2)) > 0
        assert torch.equal(seen, dense_mask(prompts, completions)[token])


def test_large_scores_neither_overflow_nor_lose_the_prompt():
    layout = RowLayout.of([6], [[5, 5]], CPU)
    query, key, value = random_row(layout.causal.total, torch.float32)
    inputs = [(query * 40).detach().requires_grad_(), (key * 40).detach(), value]
    ours = SharedPrefixAttention.apply(*inputs, layout, 0.25)
    theirs = dense_attention(*inputs, dense_mask([6], [[5, 5]]), 0.25)
    # A softmax turns an error of its scores, here up to 10^4, into as large a one of its weights.
    scores = 0.25 * inputs[0].norm(dim=-1).max() * inputs[1].norm(dim=-1).max()
    assert 1e4 < scores < 1e5
    assert_near(ours, theirs, roundings=2, scale=scores * value.abs().max())
    ours.sum().backward()
    assert inputs[0].grad.isfinite().all()
