"""Answers that want points and no truth, through every reward term of every recipe.

A policy under training finds whatever pays. So no text may raise, cost time, or earn for accuracy
what a second, plainer reading of the published criteria does not find in it.
"""

import json
import math
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from test_recipes import ALL

from foodseg.data.references import encode_mask, mask_to_reference
from foodseg.data.samples import Sample
from foodseg.methods.dr_seg import RankQueue
from foodseg.methods.sam_r1 import TIERS, box_tiers, mask_tiers
from foodseg.rl.evidence import Evidence, award, gather_evidence
from foodseg.rl.rewards import MAX_OBJECTS

SIDE = 168
TERMS = tuple({str(term): term for recipe in ALL for term in recipe.reward}.values())
SECONDS = 0.05


def drawn(box) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return mask


BOXES = ((20, 30, 69, 79), (90, 100, 149, 139))
SAMPLE = Sample(
    *("test-1-0", "1", "test", "1.png", SIDE, SIDE, "Which foods are sweet?", "Both."),
    foods=("apple", "fig"),
    references=tuple(mask_to_reference(drawn(box)) for box in BOXES),
    reference_foods=("apple", "fig"),
    masks=tuple(encode_mask(drawn(box)) for box in BOXES),
)


def fill_boxes(sample, references) -> np.ndarray:
    """In SAM2's place: a box's mask is what it covers."""
    masks = [drawn(reference.box) for reference in references]
    return np.stack(masks) if masks else np.zeros((0, SIDE, SIDE), dtype=bool)


# -- Texts ----------------------------------------------------------------------------------------

ITEMS = [{"bbox_2d": list(r.box), "point_2d": list(r.point)} for r in SAMPLE.references]
TRUE = f"<think>The apple and the fig.</think>\n<answer>{json.dumps(ITEMS)}</answer>"
PIECES = [
    *"[]{}\",:.\\ \n\0eE+-0", "<think>", "</think>", "<answer>", "</answer>", "<look>", "</look>",
    "bbox_2d", "point_2d", "points", '"bbox_2d": [20, 30, 69, 79]', '"point_2d": [44, 54]',
    '"points": [[44, 54, 1]]', json.dumps(ITEMS), json.dumps(ITEMS[0]), "NaN", "-Infinity", "1e400",
    "1" * 5000, "null", "true", "'", "fig.", "食物", "\ud800", "\u2028", "\u00a0",
    "your visual focus", "<|im_end|>", "```json", "<answer>[[],[],[],[]]</answer>",
]  # fmt: skip
NUMBERS = [
    *(0, 1, -5, 44, 54, 167, 168, 199.5, 1e300, -1e308, 10**300, 2**63, -0.0, 5e-324),
    *(True, None, "44", [1], {}, "", [[]], "NaN", 10**4000),
]  # fmt: skip
KEYS = ["bbox_2d", "point_2d", "points", "bbox", "label", "", "BBOX_2D", "bbox_2d\u0000"]


def any_value(dice: random.Random, depth: int = 0):
    kind = dice.randrange(6 if depth < 3 else 3)
    if kind < 2:
        return dice.choice(NUMBERS)
    if kind == 2:
        return dice.choice(ITEMS[dice.randrange(2)][dice.choice(["bbox_2d", "point_2d"])])
    if kind == 3:
        return {dice.choice(KEYS): any_value(dice, depth + 1) for _ in range(dice.randrange(3))}
    return [any_value(dice, depth + 1) for _ in range(dice.randrange(6))]


def any_item(dice: random.Random):
    """A true item of which something is changed, or anything."""
    if dice.random() < 0.3:
        return any_value(dice)
    item = json.loads(json.dumps(dice.choice(ITEMS)))
    key = dice.choice(list(item))
    change = dice.randrange(5)
    if change == 0:
        item[key][dice.randrange(len(item[key]))] = any_value(dice, 2)
    elif change == 1:
        item[key] = any_value(dice)
    elif change == 2:
        del item[key]
    elif change == 3:
        item["points"] = [[44, 54, dice.choice([0, 1, 2, True, "1"])]] * dice.randrange(25)
    return item


def mutated(dice: random.Random, text: str) -> str:
    """The text with up to five spans cut out, doubled, or replaced by a piece."""
    for _ in range(dice.randrange(1, 6)):
        first = dice.randrange(len(text) + 1)
        last = min(len(text), first + dice.randrange(12))
        span = dice.choice(["", text[first:last] * 2, dice.choice(PIECES)])
        text = text[:first] + span + text[last:]
    return text


def hostile(dice: random.Random) -> str:
    """One text: scraps, a spoilt true answer, odd JSON in the right form, or something long."""
    kind = dice.randrange(4)
    if kind == 0:
        return "".join(dice.choices(PIECES, k=dice.randrange(1, 30)))
    if kind == 1:
        return mutated(dice, TRUE)
    items = [any_item(dice) for _ in range(dice.randrange(5))]
    body = items if dice.random() < 0.9 else any_value(dice)
    text = f"<think>{dice.choice(PIECES)}</think>\n<answer>{json.dumps(body)}</answer>"
    if kind == 3 and dice.random() < 0.02:
        text = mutated(dice, text * dice.randrange(2, 1 + max(2, 100_000 // len(text))))
    return text[:100_000]


# -- A second reading -----------------------------------------------------------------------------


def answered(text: str) -> list[tuple[list[float], list[float]]]:
    """Box and point of each item of the first answer, by Python's own JSON; none if one is odd."""
    body = text.partition("<answer>")[2]
    try:
        items = json.loads(body.partition("</answer>")[0]) if "</answer>" in body else None
        keyed = isinstance(items, list) and all(
            isinstance(item, dict) and {"bbox_2d", "point_2d"} <= item.keys() for item in items
        )
        pairs = [
            (numbers(item["bbox_2d"], 4), numbers(item["point_2d"], 2))
            for item in (items[:MAX_OBJECTS] if keyed else [])
        ]
    except (ValueError, RecursionError, OverflowError):
        return []
    return [] if any(None in pair for pair in pairs) else pairs


def numbers(values, length: int) -> list[float] | None:
    if not isinstance(values, list) or len(values) != length:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    return [float(value) for value in values]


def most_accuracy(text: str) -> float:
    """What R_acc can be at most: of each true object, the criteria that any item meets."""
    pairs = answered(text)
    met = sum(
        any(criterion(box, point, reference) for box, point in pairs)
        for reference in SAMPLE.references
        for criterion in (overlaps, lies_near, points_near)
    )
    return met / max(len(pairs), len(BOXES))


def overlaps(box, point, true) -> bool:
    """IoU above 0.5, both corners of a box inside it."""
    sides = [min(box[i + 2], true.box[i + 2]) - max(box[i], true.box[i]) + 1 for i in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, true.box)]
    return common > 0.5 * (sum(areas) - common)


def lies_near(box, point, true) -> bool:
    """Mean distance of the coordinates below 10 of 840 pixels."""
    return sum(abs(a - b) for a, b in zip(box, true.box, strict=True)) / 4 < 10 * SIDE / 840


def points_near(box, point, true) -> bool:
    """Distance of the points below 50 of 840 pixels."""
    return math.dist(point, true.point) < 50 * SIDE / 840


def tier_of_boxes(evidence: Evidence) -> float:
    """SAM-R1's points for the IoU of what the parsed boxes cover, cut to the picture."""
    found = np.zeros((SIDE, SIDE), dtype=bool)
    for item in evidence.answer.objects:
        found |= drawn([int(min(max(value, 0), SIDE - 1) + 0.5) for value in item.box])
    true = drawn(BOXES[0]) | drawn(BOXES[1])
    iou = (found & true).sum() / (found | true).sum()
    return 4.0 if iou > 0.8 else 3.0 if iou > 0.7 else 2.0 if iou > 0.5 else 0.0


# -- The campaign ---------------------------------------------------------------------------------


def read_and_paid(text: str, labelled: bool) -> tuple[Evidence, float]:
    """The evidence, and the seconds of reading it and of all its terms."""
    started = time.process_time()
    [evidence] = gather_evidence(SAMPLE, [text], SIDE, fill_boxes, labelled=labelled)
    for term in TERMS:
        [points] = award([term], evidence).values()
        assert 0 <= points <= 12, f"{term}: {points}"
    assert 0 <= RankQueue().award([evidence])[0] <= 3
    return evidence, time.process_time() - started


def test_the_second_reading_pays_what_is_true():
    [evidence] = gather_evidence(SAMPLE, [TRUE], SIDE, fill_boxes)
    assert most_accuracy(TRUE) == evidence.score.accuracy == 3
    assert tier_of_boxes(evidence) == mask_tiers(evidence) == TIERS[0][1]


def try_texts(seed: int, tries: int) -> int:
    """Read and pay so many texts; returns how many earned for accuracy."""
    dice, paid = random.Random(seed), 0
    for _ in range(tries):
        text = hostile(dice)
        try:
            for labelled in (False, True):
                evidence, seconds = read_and_paid(text, labelled)
                if seconds > SECONDS:  # another program's turn, or ours
                    seconds = min(read_and_paid(text, labelled)[1] for _ in range(3))
                assert seconds < SECONDS
                assert evidence.score.accuracy <= most_accuracy(text) + 1e-9
                assert mask_tiers(evidence) == box_tiers(evidence) == tier_of_boxes(evidence)
                paid += evidence.score.accuracy > 0
        except Exception as fault:
            raise AssertionError(f"{fault!r} for {text[:2000]!r}") from fault
    return paid


def test_hostile_answers(campaign):
    tries = campaign("hostile answers, each through every reward term", 2_000, 100_000)
    parts = [tries] if tries < 10_000 else [tries // 2] * 2  # a core each
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        paid = sum(pool.map(try_texts, range(len(parts)), parts))
    assert paid  # some are right, so the bounds above are not all of nothing
