"""When the parts of the accuracy reward pay."""

from __future__ import annotations

from dataclasses import dataclass

PAPER_SIDE = 840  # the paper's model image is 840 x 840 pixels


@dataclass(frozen=True)
class RewardThresholds:
    """A term pays where IoU > `iou`, mean |delta| < `box_l1`, distance < `point_l2` (strictly).

    The defaults are the paper's, in pixels of an 840 x 840 model image.
    """

    iou: float = 0.5
    box_l1: float = 10.0
    point_l2: float = 50.0

    def scaled(self, side: float) -> RewardThresholds:
        """The same thresholds for a model image of `side` x `side` pixels."""
        return RewardThresholds(
            self.iou, self.box_l1 * side / PAPER_SIDE, self.point_l2 * side / PAPER_SIDE
        )
