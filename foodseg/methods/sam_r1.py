"""SAM-R1's reward: pay for the mask that SAM2 makes of an answer, by how well it fits.

From SAM-R1's text, of which we have notes but no code: an answer is a box and several labelled
points, 1 on the object and 0 off it; the reward is 4 for an IoU of SAM2's mask above 0.8, 3 between
0.7 and 0.8, 2 between 0.5 and 0.7, else 0; beside it the two format rewards. Its figure of failures
shows a reward of positive and negative points, and points forced into the box.

Our reading, where the notes are silent:

- Whose IoU: its questions have one target each, ours several foods. We take the union of SAM2's
  masks for all objects of an answer against the union of the true masks, at the original image's
  size, the very two masks of the evaluation. A superfluous box costs what it covers wrongly.
- An IoU on a tier's edge falls into the tier below: 0.8 gives 3 points, 0.5 none.
- The single thresholds of its ablation pay the most that the tiers pay, 4 points, or nothing.
- One point that is not labelled is one of label 1, so that a base that writes such points earns
  both format rewards. One note calls a wrong form a penalty; here it earns nothing.
- Format is paid item by item, all or nothing: an item needs a whole box and points of which one is
  positive. GRPO's and GRTO's format reward pays for the box and the point apart.
- `labelled_prompt` asks for the form. The kitchen's base knows one prompt, which stays: there the
  labelled points that it samples unasked are paid.
- Points are forced into the box by a reward as well. What the rewards for points pay: 2 at most,
  half of what the mask pays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foodseg.data.references import Reference, intersection_union, sample_ious
from foodseg.data.samples import Sample
from foodseg.models.prompts import ITEMS, PLACE, replace_parts
from foodseg.rl.answers import PredictedReference, read_reference
from foodseg.rl.evidence import Evidence, to_original

# (IoU to exceed, points), best first.
TIERS = ((0.8, 4.0), (0.7, 3.0), (0.5, 2.0))


def labelled_prompt(template: str) -> str:
    """The template with labelled points in the answer's form and its example."""
    example = (
        '{{"bbox_2d": [10, 100, 200, 210], "points": [[30, 110, 1], [180, 190, 0]]}}, '
        '{{"bbox_2d": [225, 296, 706, 786], "points": [[302, 410, 1], [690, 310, 0]]}}'
    )
    place = "points [x, y, label], of which label 1 lies on the food and label 0 beside it"
    return replace_parts(template, (PLACE, place), (ITEMS, example))


def mask_tiers(evidence: Evidence) -> float:
    """0, 2, 3 or 4 points by the IoU of the answer's masks, united, with the truth."""
    return _tier(mask_iou(evidence))


def mask_threshold(evidence: Evidence, *, threshold: float) -> float:
    """4 points for an IoU above the one threshold, else 0."""
    return 4.0 if mask_iou(evidence) > threshold else 0.0


def box_tiers(evidence: Evidence) -> float:
    """The same tiers for the boxes: what they cover, united, against what the true ones cover.

    In pixels of the original image, as the masks are compared.
    """
    found = to_original(evidence.answer, evidence.sample, evidence.side)
    covered = [_filled(boxes, evidence.sample) for boxes in (found, evidence.sample.references)]
    return _tier(_iou(evidence, *covered))


def mask_iou(evidence: Evidence) -> float:
    """IoU in original pixels, 0 to 1, of SAM2's masks and the true ones, each united."""
    return _iou(evidence, evidence.masks().any(axis=0), evidence.sample.union_mask())


def labelled_format(evidence: Evidence) -> float:
    """0 to 2: twice the share of the answer's items with a box and points, labelled or not."""
    items = evidence.answer.items
    if not isinstance(items, list) or not items:
        return 0.0
    whole = [read_reference(item, labelled=True) for item in items]
    return 2 * sum(one is not None for one in whole) / len(items)


def points_right(evidence: Evidence) -> float:
    """0 to 2: the sum of two shares, of positive points on the food and of negative ones off it.

    A share of no points is 0, so negative ones are paid for. The food is the union of the true
    masks: one that is asked for is no other's outside.
    """
    truth = evidence.sample.union_mask()
    found = to_original(evidence.answer, evidence.sample, evidence.side)
    points = [point for one in found for point in ((*one.point, 1), *one.more)]
    shares = []
    for wanted in (1, 0):
        right = [truth[y, x] == bool(label) for x, y, label in points if label == wanted]
        shares.append(float(np.mean(right)) if right else 0.0)
    return sum(shares)


def points_inside(evidence: Evidence) -> float:
    """2 if there is a point and each lies in its own box, whatever its label; else 0."""
    objects = evidence.answer.objects
    return 2.0 * (bool(objects) and all(_inside(one) for one in objects))


def _inside(one: PredictedReference) -> bool:
    left, top, right, bottom = one.box
    points = (one.point, *(point[:2] for point in one.more))
    return all(left <= x <= right and top <= y <= bottom for x, y in points)


def _iou(evidence: Evidence, predicted: np.ndarray, truth: np.ndarray) -> float:
    """Of two masks; where nothing is asked for 1 for an answer that says so, else 0."""
    if evidence.sample.no_target:
        return float(evidence.answer.nothing)
    intersection, union = intersection_union(predicted, truth)
    return float(sample_ious([intersection], [union])[0])


def _filled(references: Sequence[Reference], sample: Sample) -> np.ndarray:
    """(height, width) bool: the pixels in any of the boxes, both corners inside."""
    mask = np.zeros((sample.height, sample.width), dtype=bool)
    for left, top, right, bottom in (reference.box for reference in references):
        mask[top : bottom + 1, left : right + 1] = True
    return mask


def _tier(iou: float) -> float:
    return next((points for threshold, points in TIERS if iou > threshold), 0.0)
