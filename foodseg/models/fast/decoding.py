"""Keys and values of many rows that decode together, G rows a prompt, one token a step.

A prompt's keys and values are stored once, however many rows continue it. Each row's own go into
storage that is allocated once and written in place. A new token attends both parts, and the two
softmaxes are merged by their log-sum-exps (as in foodseg.models.fast.attention).

The two caches differ in how they know what is in use. On a CPU, `SlicedCache` slices its storage,
and rows that have ended leave the batch. On CUDA, `StaticCache` keeps every shape and address and
tells the kernel lengths that lie on the device, so that a step can be captured as a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from foodseg.models.fast.attention import merge


class SlicedCache:
    """A cache for a CPU. step: (1,) int64, the own tokens that are stored, equal for all rows."""

    def __init__(
        self, prompts: DynamicCache, lengths: Sequence[int], group_size: int, max_new_tokens: int
    ):
        """From a cache of B right-padded prompts of these lengths; the rows follow their order."""
        # A pair for each layer: the prompts' (B, key heads, P, D), the rows' (R, key heads, N, D),
        # zeros at first: a kernel that reads past a length weighs what it finds by 0.
        self.prompts = [(layer.keys, layer.values) for layer in prompts.layers]
        self.own = [
            tuple(
                x.new_zeros(len(x) * group_size, x.shape[1], max_new_tokens, x.shape[3])
                for x in pair
            )
            for pair in self.prompts
        ]
        padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
        mask = self.prompts[0][0].new_zeros(padding.shape).masked_fill(padding, float("-inf"))
        self.mask = mask[:, None, None]
        self.step = torch.zeros(1, dtype=torch.long)
        self.used = 0  # `step` as a number, to slice by
        self._arrange(torch.arange(len(lengths)).repeat_interleave(group_size))

    def _arrange(self, prompts: Tensor) -> None:
        """Lay the rows out as prompts x width: `grid` is each cell's row, `cells` each row's cell.

        Where a prompt has fewer rows than another, row 0 fills its last cells; nobody reads those.
        """
        self.prompt_of_row = prompts
        counts = prompts.bincount()
        self.width = int(counts.max())
        order = prompts.argsort(stable=True)
        place = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        self.cells = torch.empty_like(order)
        self.cells[order] = prompts[order] * self.width + place
        self.grid = torch.zeros(len(counts) * self.width, dtype=torch.long)
        self.grid[self.cells] = torch.arange(len(order))

    def keep(self, rows: Tensor) -> None:
        """Row i becomes what row rows[i] (n,) was; the other rows are forgotten."""
        left, prompts = self.prompt_of_row[rows].unique(return_inverse=True)
        # Prompts whose rows have all ended go too.
        if len(left) < len(self.mask):
            self.mask = self.mask[left]
            self.prompts = [(keys[left], values[left]) for keys, values in self.prompts]
        # Few rows move, and what lies beyond `used` is not written yet.
        moved = (rows != torch.arange(len(rows))).nonzero()[:, 0]
        for storage in (x for pair in self.own for x in pair):
            storage[moved, :, : self.used] = storage[rows[moved], :, : self.used]
        self._arrange(prompts)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store key and value (R, key heads, 1, D); output (R, 1, heads, D) for query alike."""
        rows, heads, _, size = query.shape
        keys, values = (x[:rows, :, : self.used + 1] for x in self.own[layer])
        keys[:, :, self.used] = key[:, :, 0]
        values[:, :, self.used] = value[:, :, 0]
        # Query heads that share a key head are queries of one head: (R, key heads, shared, D).
        query = query.view(rows, key.shape[1], -1, size)
        own = _flash_cpu(query, keys, values, scale)
        return merge(*own, *self._attend_prompts(layer, query, scale)).view(rows, 1, heads, size)

    def _attend_prompts(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        # All rows of a prompt are queries of one head, which reads the prompt's keys once.
        shared = query.shape[2]
        grid = (
            query.index_select(0, self.grid)
            .unflatten(0, (-1, self.width))
            .transpose(1, 2)
            .flatten(2, 3)
        )
        output, lse = _flash_cpu(grid, *self.prompts[layer], scale, self.mask)
        output, lse = (x.unflatten(2, (self.width, shared)) for x in (output, lse))
        cells = (x.transpose(1, 2).flatten(0, 1) for x in (output, lse))
        return tuple(x.index_select(0, self.cells) for x in cells)

    def advance(self, ended: Tensor) -> None:
        """One more own token is stored in every row."""
        self.used += 1
        self.step += 1


class StaticCache:
    """A cache whose shapes and addresses never change; bfloat16 or float16 on CUDA.

    step: (1,) int64 on the device, the own tokens that are stored, equal for all rows.
    """

    def __init__(
        self, prompts: DynamicCache, lengths: Sequence[int], group_size: int, max_new_tokens: int
    ):
        """From a cache of B right-padded prompts of these lengths; the rows follow their order."""
        device = prompts.layers[0].keys.device
        count, heads, width, size = prompts.layers[0].keys.shape
        rows = count * group_size
        # A pair for each layer: the prompts' (B P, key heads, D), the rows' (R, N, key heads, D),
        # zeros at first, as above.
        self.prompts = [
            tuple(x.transpose(1, 2).flatten(0, 1) for x in (layer.keys, layer.values))
            for layer in prompts.layers
        ]
        self.own = [
            tuple(x.new_zeros(rows, max_new_tokens, heads, size) for x in pair)
            for pair in self.prompts
        ]
        self.sizes = (group_size, width, max_new_tokens)

        def offsets(number: int, each: int) -> Tensor:
            return torch.arange(0, number * each + 1, each, dtype=torch.int32, device=device)

        self.groups, self.prompt_starts = offsets(count, group_size), offsets(count, width)
        self.rows, self.own_starts = offsets(rows, 1), offsets(rows, max_new_tokens)
        self.prompt_lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        self.own_lengths = torch.ones(rows, dtype=torch.int32, device=device)
        self.step = torch.zeros(1, dtype=torch.long, device=device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store key and value (R, key heads, 1, D); output (R, 1, heads, D) for query alike."""
        keys, values = self.own[layer]
        keys.index_copy_(1, self.step, key.transpose(1, 2))
        values.index_copy_(1, self.step, value.transpose(1, 2))
        group, width, room = self.sizes
        query = query[:, :, 0]
        own, own_lse = _flash_cuda(
            query, keys.flatten(0, 1), values.flatten(0, 1),
            self.rows, self.own_starts, self.own_lengths, 1, room, scale,
        )  # fmt: skip
        prompt, prompt_lse = _flash_cuda(
            query, *self.prompts[layer],
            self.groups, self.prompt_starts, self.prompt_lengths, group, width, scale,
        )  # fmt: skip
        return merge(own, own_lse.T, prompt, prompt_lse.T)[:, None]

    def advance(self, ended: Tensor) -> None:
        """One more own token is stored in every row; finished rows keep length 1.

        ended: (R,) bool. Nobody reads what a finished row writes, so its attention may be short.
        """
        self.step += 1
        self.own_lengths.add_(1).masked_fill_(ended, 1)


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph, to be called in its place; it must have run once before.

    The graph's own memory, that of one step's activations, is freed with the returned function.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on calling CUDA while this one records.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


def _flash_cpu(query, key, value, scale: float, mask=None) -> tuple[Tensor, Tensor]:
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return op(query, key, value, attn_mask=mask, scale=scale)


def _flash_cuda(
    query, key, value, query_offsets, key_offsets, key_lengths, most_queries, most_keys, scale
) -> tuple[Tensor, Tensor]:
    """Segment i's queries attend the first key_lengths[i] keys of theirs: (T, heads, D), lse.T."""
    return torch.ops.aten._flash_attention_forward(
        query, key, value, query_offsets, key_offsets, most_queries, most_keys,
        0.0, False, False, scale=scale, seqused_k=key_lengths,
    )[:2]  # fmt: skip
