"""Several processes, one a GPU, train one adapter: each samples and scores a part of every step.

Started by `accelerate launch` or by `accelerate.notebook_launcher`. A round's questions are dealt
out whole, so a group never spans two processes; which random numbers a completion gets does not
depend on how many processes there are. What all must agree on is gathered: the rewards, by which
dynamic sampling keeps groups; Dr. Seg's metrics; the loss's normaliser; the log. Gradients of the
adapter are summed once a gradient step, so every process takes the same step.

This is DDP's arithmetic without its wrapper. That expects one forward and backward a step in every
process; ours has as many as memory asks for, and none where a process has no group to learn from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process's rank and the world size; alone by default, where nothing is exchanged."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def find(cls, device: str) -> Processes:
        """This process among those that accelerate (or torchrun) has started."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        state = PartialState(cpu=device == "cpu")
        return cls(state.process_index, state.num_processes)

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def part(self, length: int) -> range:
        """This process's share of `length` items: as even as can be, in order."""
        return range(
            self.rank * length // self.world_size, (self.rank + 1) * length // self.world_size
        )

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, in the processes' order."""
        return list(items) if self.world_size == 1 else gather_object(list(items))

    def from_main(self, value: Item) -> Item:
        """The main process's value, in all of them; they wait for it."""
        return value if self.world_size == 1 else broadcast_object_list([value])[0]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up every parameter's gradient over the processes; one without counts as zeros."""
        if self.world_size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
        torch.distributed.all_reduce(flat)
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, gradient in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad.copy_(gradient.view_as(parameter))


ALONE = Processes()
