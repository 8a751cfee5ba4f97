"""The map of the field: each published method as one entry. Compare methods by reading this file.

A recipe names what differs between methods; what they share (model, data, rollout size, learning
rate, number of updates) is the preset's.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from foodseg.rl.advantages import holistic
from foodseg.rl.evidence import PAPER_REWARD, Term, term_name
from foodseg.rl.objectives import Objective

if TYPE_CHECKING:
    from foodseg.rl.tool import ToolTraining


@dataclass(frozen=True)
class Recipe:
    """One method.

    dynamic_sampling: drop groups whose rewards are all equal and sample others in their place;
    max_rounds: how often to sample for one step before giving up with an error.
    reward: the terms whose points add up to R, functions of an `Evidence`, or such functions with
    arguments given by `functools.partial`; ranked: add Dr. Seg's points by rank to them.
    prompt_suffix: follows the preset's prompt template; literal braces are doubled.
    advantages: from the groups to one advantage a completion, or one a token (`rl.advantages`).
    tool: how the mask decoder is trained on the same rollouts; None leaves it as it is.

    Raises ValueError if two terms have the same name.
    """

    name: str
    title: str
    objective: Objective
    dynamic_sampling: bool = False
    max_rounds: int = 10
    reward: tuple[Term, ...] = PAPER_REWARD
    ranked: bool = False
    prompt_suffix: str = ""
    advantages: Callable = holistic
    tool: ToolTraining | None = None

    def __post_init__(self) -> None:
        names = [term_name(term) for term in self.reward]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"reward of {self.name!r}: two terms are called {twice[0]}; rename one function."
            )


def as_json(value: Any) -> Any:
    """A recipe, or a part of one, as JSON values: other values for every recipe that differs.

    A function is its module, name and source; a partial is that and its arguments. Raises
    ValueError for what its source does not tell: a function that captures variables, an object.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [as_json(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, partial):
        keywords = {name: as_json(one) for name, one in sorted(value.keywords.items())}
        return as_json(value.func) | {"arguments": as_json(value.args), "keywords": keywords}
    if inspect.isfunction(value) and not value.__closure__:
        source = hashlib.sha256(inspect.getsource(value).encode()).hexdigest()[:16]
        return {"function": f"{value.__module__}.{value.__qualname__}", "source": source}
    raise ValueError(
        f"recipe: {value!r} can't be written down in a run's configuration; give numbers, text, "
        "and functions of a file or a notebook's cell, their settings by functools.partial."
    )


# The paper's J_GRPO: sequence mean, symmetric clip. The KL weight is left open there; 5e-3 is the
# best of Seg-Zero's sweep on ReasonSeg-test (1e-3 52.7, 5e-3 53.8, 1e-2 53.3, 5e-2 50.8).
GRPO = Recipe(
    name="grpo",
    title="GRPO",
    objective=Objective(clip_low=0.2, clip_high=0.2, kl_weight=5e-3, normalisation="sequence"),
)

# The paper's J_DAPO with DAPO's own clip range (arXiv:2503.14476): Clip-Higher, token mean, no KL.
DAPO = Recipe(
    name="dapo",
    title="DAPO",
    objective=Objective(clip_low=0.2, clip_high=0.28, kl_weight=0.0, normalisation="token"),
    dynamic_sampling=True,
)

# The range that the paper prints. A ratio is positive, so 1 - 2.0 never clips and 1 + 2.8 rarely.
DAPO_AS_PRINTED = replace(
    DAPO,
    name="dapo-as-printed",
    title="DAPO as printed (2.0 / 2.8)",
    objective=replace(DAPO.objective, clip_low=2.0, clip_high=2.8),
)
