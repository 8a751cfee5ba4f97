"""Attention over shared-prefix rows, in two exact parts; registered with `transformers` here.

A row is flat: the prompts of its groups, then all their completions. Nothing is padded but the
row's end, and no T x T mask exists. Every segment (a prompt, or a completion) attends itself
causally, and every group's completions attend all of its prompt: two flash-attention calls a
layer. Where a token has both parts, their softmaxes are merged by the log-sum-exps:

    out = out_prompt + sigmoid(lse_own - lse_prompt) (out_own - out_prompt)
    lse = logaddexp(lse_own, lse_prompt)

Given the merged `out` and `lse`, the flash backward of either part is exactly that part's share of
the gradient (as in ring attention, arXiv:2310.01889). A prompt's keys and values are never copied
for its completions, and gradients flow through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# A row's length is a multiple of this: oneDNN (on a CPU) prepares a kernel for every new shape of
# a product and keeps some MB for it, and without a multiple nearly every row would be a new shape.
LENGTH_MULTIPLE = 32
# The name in transformers' configuration. A row layout takes the two parts, a decoding cache its
# own attention; a call with neither otherwise falls back to sdpa.
SHARED_PREFIX = "foodseg_shared_prefix"


def padded_length(tokens: int) -> int:
    """The length of a row of so many tokens."""
    return tokens + -tokens % LENGTH_MULTIPLE


@dataclass(frozen=True, eq=False)
class Segments:
    """Consecutive pieces of a row: their lengths, and offsets (N + 1,) int32 on the device."""

    lengths: tuple[int, ...]
    offsets: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        return cls(tuple(lengths), offsets.to(device, torch.int32))

    @property
    def total(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Where a row's groups are: all prompts first, then all completions, groups in order.

    prompts: one segment for each group; answers: one for each group, its completions together;
    causal: one for each prompt, then one for each completion, then the padding if there is any.
    """

    prompts: Segments
    answers: Segments
    causal: Segments

    @classmethod
    def of(
        cls, prompts: Sequence[int], completions: Sequence[Sequence[int]], device: torch.device
    ) -> RowLayout:
        """From each group's prompt length and its completions' lengths, in tokens."""
        lengths = [*prompts, *(n for group in completions for n in group)]
        padding = padded_length(sum(lengths)) - sum(lengths)
        return cls(
            Segments.of(prompts, device),
            Segments.of([sum(group) for group in completions], device),
            Segments.of([*lengths, padding] if padding else lengths, device),
        )

    @property
    def answered(self) -> slice:
        """Where the completions' tokens are."""
        return slice(self.prompts.total, self.prompts.total + self.answers.total)


class SharedPrefixAttention(torch.autograd.Function):
    """Output (T, heads, D) for query (T, heads, D), key and value (T, key heads, D) of a row.

    Key heads divide heads. On a CPU any float dtype; on CUDA bfloat16 or float16.
    """

    @staticmethod
    def forward(ctx, query, key, value, layout: RowLayout, scale: float):
        start, answered, whole = layout.prompts.total, layout.answered, layout.causal
        output, lse = _flash(query, key, value, whole, whole, True, scale)
        prompt, prompt_lse = _flash(
            query[answered], key[:start], value[:start],
            layout.answers, layout.prompts, False, scale,
        )  # fmt: skip
        own, own_lse = output[answered], lse[:, answered]
        # In place: the backward needs the merged values, and only those.
        own.copy_(merge(own, own_lse.T, prompt, prompt_lse.T))
        own_lse.copy_(torch.logaddexp(own_lse, prompt_lse))
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, output, lse = ctx.saved_tensors
        layout, start, whole = ctx.layout, ctx.layout.prompts.total, ctx.layout.causal
        answered = layout.answered
        gradient = gradient.contiguous()
        # Given the merged output and lse, each call returns its own part's share.
        dq, dk, dv = _flash_backward(
            gradient, query, key, value, output, lse, whole, whole, True, ctx.scale
        )
        prompt = _flash_backward(
            gradient[answered], query[answered], key[:start], value[:start],
            output[answered], lse[:, answered].contiguous(),
            layout.answers, layout.prompts, False, ctx.scale,
        )  # fmt: skip
        dq[answered] += prompt[0]
        dk[:start] += prompt[1]
        dv[:start] += prompt[2]
        return dq, dk, dv, None, None


def merge(own: Tensor, own_lse: Tensor, prompt: Tensor, prompt_lse: Tensor) -> Tensor:
    """Attention over two sets of keys (..., D) from each set's own and its log-sum-exp (...)."""
    share = (own_lse - prompt_lse).sigmoid().to(own.dtype)
    return torch.lerp(prompt, own, share[..., None])


def _flash(query, key, value, queries: Segments, keys: Segments, causal: bool, scale: float):
    """Each segment of queries attends its segment of keys: (T, heads, D) and lse (heads, T)."""
    if query.is_cuda:
        return torch.ops.aten._flash_attention_forward(
            query, key, value, queries.offsets, keys.offsets,
            max(queries.lengths), max(keys.lengths), 0.0, causal, False, scale=scale,
        )[:2]  # fmt: skip
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    outputs, lses = [], []
    for q, k, v in zip(*_split(queries, query), *_split(keys, key, value), strict=True):
        output, lse = op(q, k, v, 0.0, causal, scale=scale)
        outputs.append(output[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outputs), torch.cat(lses, 1)


def _flash_backward(
    gradient, query, key, value, output, lse, queries: Segments, keys: Segments, causal, scale
) -> list[Tensor]:
    """Gradients of query, key and value; output and lse are the merged ones of all keys."""
    if query.is_cuda:
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
        unused = torch.empty(0, device=query.device)
        return torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, output, lse, queries.offsets, keys.offsets,
            max(queries.lengths), max(keys.lengths), 0.0, causal, no_dropout, unused, scale=scale,
        )  # fmt: skip
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    parts = []
    for g, q, k, v, o, s in zip(
        *_split(queries, gradient, query), *_split(keys, key, value),
        *_split(queries, output, lse.T[..., None]), strict=True,
    ):  # fmt: skip
        grads = op(g, q, k, v, o, s[..., 0], 0.0, causal, scale=scale)
        parts.append([x[0].transpose(0, 1) for x in grads])
    return [torch.cat(x) for x in zip(*parts, strict=True)]


def _split(segments: Segments, *tensors: Tensor):
    """Each (T, heads, D) tensor cut into its segments, as views (1, heads, length, D)."""
    return [[x.transpose(0, 1)[None] for x in tensor.split(segments.lengths)] for tensor in tensors]


def attend(
    module, query, key, value, attention_mask, scaling, row_layout=None, decoding=None, **kwargs
):
    """transformers' attention interface: (B, heads, T, D) in, (B, T, heads, D) out."""
    if decoding is not None:
        return decoding.attend(module.layer_idx, query, key, value, scaling), None
    if row_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    flat = (x[0].transpose(0, 1) for x in (query, key, value))
    return SharedPrefixAttention.apply(*flat, row_layout, scaling)[None], None


AttentionInterface.register(SHARED_PREFIX, attend)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
