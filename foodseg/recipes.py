"""The map of the field: each published method as one entry. Compare methods by reading this file.

A recipe names what differs between methods; what they share (model, data, rollout size, learning
rate, number of updates) is the preset's.
"""

from __future__ import annotations

from dataclasses import dataclass

from foodseg.rl.objectives import Objective


@dataclass(frozen=True)
class Recipe:
    """One method. All entries here use the paper's reward, R = R_fmt + R_acc + R_rep.

    dynamic_sampling: drop groups whose rewards are all equal and sample others in their place;
    max_rounds: how often to sample for one step before giving up with an error.
    """

    name: str
    title: str
    objective: Objective
    dynamic_sampling: bool = False
    max_rounds: int = 10


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
DAPO_AS_PRINTED = Recipe(
    name="dapo-as-printed",
    title="DAPO as printed (2.0 / 2.8)",
    objective=Objective(clip_low=2.0, clip_high=2.8, kl_weight=0.0, normalisation="token"),
    dynamic_sampling=True,
)
