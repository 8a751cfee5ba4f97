"""Memory is planned: how many groups go through one forward and backward, from counted bytes.

A plan is the cheapest work that fits, then the fewest forwards. Work is counted in layer passes
over tokens: a forward and a backward through frozen weights cost about the same, a checkpointed
layer runs its forward twice, and a group split into several rows computes its prompt in each. So
layers are checkpointed, and groups split, only where memory demands it. Every plan gives the same
gradient: losses of micro-batches add up under the whole batch's normaliser.

What autograd keeps is not guessed: `ModelSizes.kept_bytes` is a formula in the model's sizes that
the tests hold against the tensors autograd really saves, for the true Qwen2.5-VL-3B and for the
kitchen's model (on fake devices, so without the memory).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch

from foodseg.common.machine_memory import peak_resident_bytes
from foodseg.models.fast.attention import padded_length
from foodseg.models.fast.head import CHUNK_BYTES
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import Rollout

# The rest of a GPU is left to workspaces of matrix products and to fragmentation.
USABLE_SHARE = 0.95
# After an out-of-memory error, allow only this share of the failed estimate.
SHARE_AFTER_FAILURE = 2 / 3


@dataclass(frozen=True)
class ModelSizes:
    """What decides a model's memory: its sizes, and the bytes of one number.

    hidden .. vocabulary: as in the configuration; rank: LoRA's; weight_bytes: of all frozen
    weights; adapter_bytes: of the adapter's; itemsize: bytes of a weight and of an activation.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    vocabulary: int
    rank: int
    weight_bytes: int
    adapter_bytes: int
    itemsize: int

    @classmethod
    def of(cls, mllm: Mllm) -> ModelSizes:
        """Those of a model with its adapter (which may be on the meta device)."""
        config = mllm.model.config.text_config
        adapter = mllm.lora_parameters()
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            vocabulary=config.vocab_size,
            rank=min(adapter[0].shape),
            weight_bytes=sum(p.nbytes for p in mllm.model.parameters() if not p.requires_grad),
            adapter_bytes=sum(p.nbytes for p in adapter),
            itemsize=mllm.model.lm_head.weight.itemsize,
        )

    @property
    def held_bytes(self) -> int:
        """Held throughout: the weights, and the adapter with its gradients and AdamW's moments."""
        return self.weight_bytes + 4 * self.adapter_bytes

    @property
    def key_width(self) -> int:
        return self.key_heads * self.hidden // self.heads

    def cache_bytes(self, tokens: int) -> int:
        """The key-value cache of so many tokens."""
        return 2 * self.layers * self.key_width * self.itemsize * tokens

    def kept_bytes(self) -> int:
        """What one decoder layer keeps of one token for the backward, within `training_layers`."""
        # Two norms keep their input, and its inverse root mean square in float32.
        norms = 2 * (self.hidden * self.itemsize + 4)
        # Query, key, value, output; log-sum-exp of every head in float32.
        attention = (2 * self.hidden + 2 * self.key_width) * self.itemsize + 4 * self.heads
        mlp = 2 * self.intermediate * self.itemsize  # the gate and what it multiplies
        # One input serves q, k, v and one gate, up; all seven have LoRA's inner numbers.
        adapter = (2 * self.hidden + 7 * self.rank) * self.itemsize
        return norms + attention + mlp + adapter

    def forward_bytes(self, tokens: int, scored: int, checkpointed: int) -> int:
        """The most that a forward and backward over a row takes on top of what is held.

        tokens: of the row's groups; scored: those of its completions; checkpointed: decoder layers
        that keep only their input.
        """
        tokens = padded_length(tokens)
        kept = (self.layers - checkpointed) * self.kept_bytes()
        kept += checkpointed * self.hidden * self.itemsize
        ends = 2 * self.hidden * self.itemsize + 4 * self.hidden  # embeddings, output, last norm
        # At its widest a layer's backward holds three tensors of the MLP and two others.
        backward = (3 * self.intermediate + 2 * self.hidden) * self.itemsize
        if checkpointed == self.layers:  # else the layers kept are gone before one is recomputed
            backward += self.kept_bytes()
        logits = self._logits_bytes(scored)
        scores = 2 * scored * self.hidden * self.itemsize
        return tokens * (kept + ends) + scores + max(tokens * backward, logits)

    def _logits_bytes(self, scored: int) -> int:
        """The head's: three copies of a chunk of logits."""
        return 3 * min(CHUNK_BYTES, 4 * scored * self.vocabulary)


@dataclass(frozen=True)
class GroupTokens:
    """Tokens of a group: its prompt's, and each completion's."""

    prompt: int
    completions: tuple[int, ...]

    @classmethod
    def of(cls, rollout: Rollout) -> GroupTokens:
        return cls(rollout.prompt.length, tuple(len(tokens) for tokens in rollout.tokens))


@dataclass(frozen=True)
class MemoryPlan:
    """How one batch goes through the model.

    groups: in one forward; parts: rows that each group is split into (1 unless `groups` is 1);
    checkpointed: decoder layers, from the first; forward_bytes: the most that one forward and
    backward takes, counted; free_bytes: what it may take (None: not limited).
    """

    groups: int
    parts: int
    checkpointed: int
    forward_bytes: int
    free_bytes: int | None

    @property
    def choice(self) -> tuple[int, int, int]:
        return self.groups, self.parts, self.checkpointed

    def row_ranges(self, group_sizes: Sequence[int]) -> list[range]:
        """The completions, numbered through all groups, that each forward takes."""
        return _row_ranges(group_sizes, self.groups, self.parts)

    def sentence(self, groups: int, layers: int) -> str:
        """What was picked for so many groups and layers, and why."""
        rows = f"{self.groups} of {groups} groups" if self.groups < groups else "all groups"
        rows = rows if self.parts == 1 else f"1/{self.parts} of a group"
        recomputed = f"{self.checkpointed} of {layers}" if self.checkpointed else "no"
        counted, free = (f"{x / 1e9:.2f} GB" for x in (self.forward_bytes, self.free_bytes))
        why = f"the cheapest that fits into {free}, counted at {counted}"
        if self.forward_bytes > self.free_bytes:
            why = f"the smallest there is, though counted at {counted} with {free} free"
        return f"Memory plan: {rows} in a forward, {recomputed} layers checkpointed; {why}."


def plan_memory(
    sizes: ModelSizes, groups: Sequence[GroupTokens], free_bytes: int | None
) -> MemoryPlan:
    """The cheapest plan that fits into `free_bytes`, or the smallest there is if none does.

    free_bytes: what a forward and backward may take beyond what is held; None on a CPU, where
    one group at a time is fastest (measured) and memory is no question.
    """
    if free_bytes is None:
        return _plan(sizes, _rows(groups, 1, 1), (1, 1, 0), None)
    plans = []
    for in_one, parts in _splits(groups):
        rows = _rows(groups, in_one, parts)
        for checkpointed in range(sizes.layers + 1):
            plan = _plan(sizes, rows, (in_one, parts, checkpointed), free_bytes)
            if plan.forward_bytes <= free_bytes:
                plans.append((_work(sizes, rows, checkpointed), plan))
                break
    # min() keeps the first of equals, the one with the fewest forwards; else the last tried.
    return min(plans, key=lambda pair: pair[0])[1] if plans else plan


def plan_table(
    sizes: ModelSizes, groups: Sequence[GroupTokens], gigabytes: Sequence[int] = (24, 48, 80)
) -> list[dict]:
    """The plan for GPUs of so many GB (10^9 bytes): one dict each, its figures counted.

    cache: the rollout's, each prompt once and each completion; it is gone before the update.
    """
    cache = sizes.cache_bytes(sum(group.prompt + sum(group.completions) for group in groups))
    held = sizes.held_bytes
    rows = []
    for size in gigabytes:
        plan = plan_memory(sizes, groups, int(USABLE_SHARE * size * 1e9) - held)
        rows.append(
            {
                "GPU (GB)": size,
                "groups in a forward": plan.groups / plan.parts,
                "layers checkpointed": plan.checkpointed,
                "held (GB)": round(held / 1e9, 1),
                "cache (GB)": round(cache / 1e9, 1),
                "peak, counted (GB)": round((held + plan.forward_bytes) / 1e9, 1),
            }
        )
    return rows


def pieces(group_sizes: Sequence[int], rows: range) -> Iterator[tuple[int, slice]]:
    """The groups that these rows touch, each with the slice of its own completions."""
    first = 0
    for index, size in enumerate(group_sizes):
        start, stop = max(rows.start - first, 0), min(rows.stop - first, size)
        if start < stop:
            yield index, slice(start, stop)
        first += size


def take_rows(rollouts: Sequence[Rollout], rows: range) -> list[Rollout]:
    """Slice these rows out, splitting a group that straddles the edge."""
    parts = pieces([len(rollout.tokens) for rollout in rollouts], rows)
    names = ("tokens", "log_probs", "texts", "ended")
    return [
        replace(rollouts[index], **{name: getattr(rollouts[index], name)[part] for name in names})
        for index, part in parts
    ]


def available_bytes(device: torch.device, missing: int) -> int | None:
    """What this process may still allocate on a GPU, less `missing` bytes; None on a CPU.

    Heeds torch.cuda.set_per_process_memory_fraction and what other processes take.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    limit = min(free + torch.cuda.memory_reserved(device), share * total)
    return int(USABLE_SHARE * limit) - torch.cuda.memory_allocated(device) - missing


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB (10^6 bytes): on a GPU since the last call, on a CPU of the process."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e6
    return peak_resident_bytes() / 1e6


def _row_ranges(group_sizes: Sequence[int], groups: int, parts: int) -> list[range]:
    starts = [0, *itertools.accumulate(group_sizes)]
    bounds = starts[:-1:groups]
    if parts > 1:
        bounds = sorted(
            {a + size * part // parts for a, size in zip(starts, group_sizes, strict=False)
             for part in range(parts)}
        )  # fmt: skip
    return [range(a, b) for a, b in itertools.pairwise([*bounds, starts[-1]])]


def _splits(groups: Sequence[GroupTokens]) -> list[tuple[int, int]]:
    """(groups in one forward, parts of a group), from the fewest forwards to the most."""
    whole = sorted({ceil(len(groups) / forwards) for forwards in range(1, len(groups) + 1)})
    largest = max(len(group.completions) for group in groups)
    return [(n, 1) for n in reversed(whole)] + [(1, n) for n in range(2, largest + 1)]


def _rows(groups: Sequence[GroupTokens], in_one: int, parts: int) -> list[tuple[int, int]]:
    """Tokens of each forward's row, and how many of them are scored."""
    sizes = [len(group.completions) for group in groups]
    rows = []
    for row in _row_ranges(sizes, in_one, parts):
        inside = list(pieces(sizes, row))
        scored = sum(sum(groups[index].completions[part]) for index, part in inside)
        rows.append((sum(groups[index].prompt for index, _ in inside) + scored, scored))
    return rows


def _plan(sizes, rows, choice: tuple[int, int, int], free_bytes: int | None) -> MemoryPlan:
    most = max(sizes.forward_bytes(tokens, scored, choice[2]) for tokens, scored in rows)
    return MemoryPlan(*choice, most, free_bytes)


def _work(sizes: ModelSizes, rows: list[tuple[int, int]], checkpointed: int) -> int:
    """Passes of a layer over a token."""
    return sum(tokens for tokens, _ in rows) * (2 * sizes.layers + checkpointed)
