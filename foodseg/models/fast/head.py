"""Log-probabilities of given tokens under a frozen head, in chunks, with no logits kept.

A token's log-probability is one number, so its gradient with respect to the hidden state h (D,)
is one vector: (W[token] - sum_v p_v W[v]) / temperature. It is computed along with the forward,
chunk by chunk, and the backward only scales it: logits of shape (N, vocabulary) never exist as a
whole, nothing is computed twice, and the head gets no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foodseg.models.fast.matrix_products import linear

# Logits of one chunk, in bytes; at Qwen2.5-VL's vocabulary of 151,936, some 220 positions.
CHUNK_BYTES = 128 * 2**20


def log_probabilities(
    hidden: Tensor, head: Tensor, banned: Tensor, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities (N, vocabulary) after hidden states (N, D), at least float32.

    head: (vocabulary, D). banned: (K,) int64, the tokens whose probability is set to 0.
    """
    scaled = logits(hidden, head) / temperature
    return scaled.index_fill_(-1, banned, float("-inf")).log_softmax(-1)


def logits(hidden: Tensor, head: Tensor) -> Tensor:
    """(N, vocabulary), at least float32.

    Rounded to bfloat16 a logit of 16 would move in steps of an eighth, and a ratio with it past a
    clip; a GPU's product adds up in float32 anyway and can leave it so.
    """
    if hidden.is_cuda and hidden.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(hidden, head.T, out_dtype=torch.float32)
    product = linear(hidden, head)
    return product if product.dtype == torch.float64 else product.float()


def token_log_probabilities(
    hidden: Tensor, head: Tensor, tokens: Tensor, banned: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,) of `tokens` (N,), with a gradient, and entropies (N,), without.

    As `log_probabilities` followed by a choice of columns, in memory for one chunk of rows.
    """
    return _TokenLogProbabilities.apply(hidden, head, tokens, banned, temperature)


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, tokens, banned, temperature):
        rows = max(1, CHUNK_BYTES // (4 * len(head)))
        chunks = [
            _score_chunk(h, head, chosen, banned, temperature, ctx.needs_input_grad[0])
            for h, chosen in zip(hidden.split(rows), tokens.split(rows), strict=True)
        ]
        log_probs, entropies, jacobian = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(jacobian)
        ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    def backward(ctx, gradient, _):
        (jacobian,) = ctx.saved_tensors
        return (gradient[:, None] * jacobian).to(jacobian.dtype), None, None, None, None


def _score_chunk(hidden, head, tokens, banned, temperature: float, slopes: bool):
    """Log-probs (N,), entropies (N,), and d log-prob / d hidden (N, D), or (0, D) if not asked."""
    distribution = log_probabilities(hidden, head, banned, temperature)
    log_probs = distribution.gather(1, tokens[:, None])[:, 0]
    probabilities = distribution.exp()
    # Where a probability is 0 its log is finite, so that their product is 0; `entr`, which computes
    # the log again, costs as much as all the rest here.
    entropies = -torch.linalg.vecdot(probabilities, distribution.clamp_(min=-1e4))
    if not slopes:
        return log_probs, entropies, hidden[:0]
    by_logit = probabilities.neg_().div_(temperature)
    by_logit.scatter_add_(1, tokens[:, None], by_logit.new_full((len(hidden), 1), 1 / temperature))
    return log_probs, entropies, linear(by_logit.to(head.dtype), head.T)
