"""Log-probabilities of given tokens under a frozen head, in chunks, with no logits kept.

A token's log-probability is one number, so its gradient with respect to the hidden state h (D,)
is one vector: (W[token] - sum_v p_v W[v]) / temperature. It is computed along with the forward,
chunk by chunk, and the backward only scales it: logits of shape (N, vocabulary) never exist as a
whole, nothing is computed twice, and the head gets no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Logits of one chunk, in bytes; at Qwen2.5-VL's vocabulary of 151,936, some 220 positions.
CHUNK_BYTES = 128 * 2**20


def log_probabilities(
    hidden: Tensor, head: Tensor, banned: Tensor, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities (N, vocabulary) after hidden states (N, D), at least float32.

    head: (vocabulary, D). banned: (K,) int64, the tokens whose probability is set to 0.
    """
    logits = hidden @ head.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits / temperature).index_fill(-1, banned, float("-inf")).log_softmax(-1)


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
        log_probs, entropies, jacobian = [], [], []
        for h, chosen in zip(hidden.split(rows), tokens.split(rows), strict=True):
            distribution = log_probabilities(h, head, banned, temperature)
            log_probs.append(distribution.gather(1, chosen[:, None])[:, 0])
            probabilities = distribution.exp()
            entropies.append(torch.special.entr(probabilities).sum(1))
            if ctx.needs_input_grad[0]:
                slopes = probabilities.neg_().div_(temperature)
                slopes.scatter_add_(
                    1, chosen[:, None], slopes.new_full((len(h), 1), 1 / temperature)
                )
                jacobian.append(slopes.to(head.dtype) @ head)
        if jacobian:
            ctx.save_for_backward(torch.cat(jacobian))
        entropies = torch.cat(entropies)
        ctx.mark_non_differentiable(entropies)
        return torch.cat(log_probs), entropies

    @staticmethod
    def backward(ctx, gradient, _):
        (jacobian,) = ctx.saved_tensors
        return (gradient[:, None] * jacobian).to(jacobian.dtype), None, None, None, None
