"""SAM-R1's reward: pay for the mask that SAM2 makes of an answer, by how well it fits.

From SAM-R1's text, of which we have notes but no code: 4 points for an IoU above 0.8, 3 between
0.7 and 0.8, 2 between 0.5 and 0.7, else 0; beside it the two format rewards.

Our reading, where the notes are silent:

- Whose IoU: its questions have one target each, ours several foods. We take the union of SAM2's
  masks for all objects of an answer against the union of the true masks, at the original image's
  size, the very two masks of the evaluation. A superfluous box costs what it covers wrongly.
- An IoU on a tier's edge falls into the tier below: 0.8 gives 3 points, 0.5 none.
- The single thresholds of its ablation pay the most that the tiers pay, 4 points, or nothing.
"""

from __future__ import annotations

from foodseg.data.references import intersection_union, sample_ious
from foodseg.rl.evidence import Evidence

# (IoU to exceed, points), best first.
TIERS = ((0.8, 4.0), (0.7, 3.0), (0.5, 2.0))


def mask_tiers(evidence: Evidence) -> float:
    """0, 2, 3 or 4 points by the IoU of the answer's masks, united, with the truth."""
    iou = mask_iou(evidence)
    return next((points for threshold, points in TIERS if iou > threshold), 0.0)


def mask_threshold(evidence: Evidence, *, threshold: float) -> float:
    """4 points for an IoU above the one threshold, else 0."""
    return 4.0 if mask_iou(evidence) > threshold else 0.0


def mask_iou(evidence: Evidence) -> float:
    """IoU in original pixels, 0 to 1, of SAM2's masks and the true ones, each united."""
    predicted = evidence.masks().any(axis=0)
    intersection, union = intersection_union(predicted, evidence.sample.union_mask())
    return float(sample_ious([intersection], [union])[0])
