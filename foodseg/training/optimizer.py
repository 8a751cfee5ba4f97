"""One optimizer step, the same for every trainer: AdamW, a clipped gradient, a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from foodseg.common.errors import DataError

MAX_GRADIENT_NORM = 1.0
# So many gradients in a row that are no finite numbers end a run: it would learn nothing any more.
MOST_SKIPPED = 5


class Optimizer:
    """AdamW on `parameters`; `skipped` gradients since it was made were not finite, and not used.

    factor: what the learning rate is multiplied by at an optimizer step, numbered from 0.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        factor: Callable[[int], float] = lambda step: 1.0,
    ) -> None:
        self.parameters = list(parameters)
        self.adamw = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, factor)
        self.skipped = self.skipped_in_a_row = 0

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.schedule.get_last_lr()[0]

    @property
    def missing_bytes(self) -> int:
        """Of the gradients and AdamW's two moments, those still to be allocated."""
        tensors = 2 * (not self.adamw.state) + (self.parameters[0].grad is None)
        return tensors * sum(parameter.nbytes for parameter in self.parameters)

    def zero_gradients(self) -> None:
        """Forget the last step's gradients."""
        self.adamw.zero_grad()

    def step(self) -> float | None:
        """Clip the gradient to norm 1 and take a step; returns its norm before clipping.

        None, and no step, for a gradient that is NaN or infinite: it would ruin every weight.
        Raises DataError for the fifth of those in a row.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        if not norm.isfinite():
            self._skip()
            return None
        self.skipped_in_a_row = 0
        self.adamw.step()
        self.schedule.step()
        return norm.item()

    def _skip(self) -> None:
        self.zero_gradients()
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == MOST_SKIPPED:
            raise DataError(
                f"gradient: {MOST_SKIPPED} in a row are NaN or infinite, so nothing can be learnt; "
                'lower the learning rate, or take dtype "float32".'
            )

    def state_dict(self) -> dict:
        """AdamW's moments and the schedule's place."""
        return {"adamw": self.adamw.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.adamw.load_state_dict(state["adamw"])
        self.schedule.load_state_dict(state["schedule"])


def warm_up(steps: int) -> Callable[[int], float]:
    """A learning rate that rises linearly over the first `steps` optimizer steps, then stays."""
    return lambda step: min(1.0, (step + 1) / max(steps, 1))
