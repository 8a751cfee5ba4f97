"""The reward against VisionReasoner's own outputs and broken text; SAM-R1's tiers by hand."""

import json
import math
import random
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from foodseg.data.references import Reference, encode_mask
from foodseg.data.samples import Sample
from foodseg.methods.sam_r1 import mask_iou, mask_threshold, mask_tiers
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import (
    Evidence,
    accuracy,
    accuracy_box_sum,
    accuracy_without,
    term_name,
    usable_format,
)
from foodseg.rl.rewards import Score, score_completion
from foodseg.rl.thresholds import RewardThresholds

VECTORS = Path(__file__).parent / "vectors"
PEER_CASES = json.loads((VECTORS / "vision_reasoner_rewards.json").read_text())["cases"]
TRUTH = (Reference(box=(100, 100, 199, 199), point=(150, 150)),)
PAPER = RewardThresholds()
GOOD = '{"bbox_2d": [100, 100, 199, 199], "point_2d": [150, 150]}'


def complete(answer: str, thinking: str = "It is there.") -> str:
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


def score(completion: str) -> Score:
    return score_completion(completion, TRUTH, PAPER)


def expected(case: dict, accuracy: float) -> dict[str, float]:
    """The parent's terms, changed where we differ from it on purpose."""
    terms = {k: case["output"][k] for k in ("thinking", "segmentation_format", "non_repeat")}
    terms["accuracy"] = accuracy
    completion = case["input"]["completion"]
    if completion.endswith("</answer>\n"):
        terms["thinking"] = 1.0  # a line break after </answer> must not cost the format reward
    if "NaN" in completion or "Infinity" in completion:
        # not JSON (RFC 8259); the parent pays for the form of a box that nothing can be cut with
        terms["segmentation_format"] = terms["accuracy"] = 0.0
    return terms


@pytest.mark.parametrize("point_l2, suffix", [(30.0, ""), (50.0, "_pt50")])
@pytest.mark.parametrize("case", PEER_CASES, ids=lambda case: case["name"])
def test_terms_are_those_of_vision_reasoner(case, point_l2, suffix):
    references = [
        Reference(tuple(item["bbox_2d"]), tuple(item["point_2d"]))
        for item in case["input"]["ground_truth"]
    ]
    thresholds = RewardThresholds(point_l2=point_l2)
    got = score_completion(case["input"]["completion"], references, thresholds)
    terms = {
        "thinking": got.thinking_format,
        "segmentation_format": got.segmentation_format,
        "non_repeat": got.non_repeat,
        "accuracy": got.accuracy,
    }
    want = expected(case, case["output"]["accuracy" + suffix])
    assert terms == pytest.approx(want, abs=1e-12)
    assert got.total == pytest.approx(sum(want.values()), abs=1e-12)
    assert got.accuracy == pytest.approx(got.iou + got.box_l1 + got.point_l2, abs=1e-12)


def test_the_parent_scores_what_we_differ_in_otherwise():
    trailing = [c for c in PEER_CASES if c["input"]["completion"].endswith("</answer>\n")]
    not_json = [c for c in PEER_CASES if "NaN" in str(c["input"]) or "Infinity" in str(c["input"])]
    assert all(case["output"]["thinking"] == 0 for case in trailing)
    assert [c["name"] for c in not_json] == [
        "edge/nan_literal_in_bbox",
        "edge/infinity_literal_in_bbox",
        "edge/nan_point",
    ]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400])
@pytest.mark.parametrize("place", ["bbox_2d", "point_2d", "other"])
def test_no_reward_for_numbers_that_are_not_finite(number, place):
    item = {"bbox_2d": [100, 100, 199, 199], "point_2d": [150, 150], "other": [1]}
    item[place][0] = "@"
    got = score(complete(json.dumps([item]).replace('"@"', number)))
    assert (got.segmentation_format, got.accuracy) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 100_000,
        "[" * 5_000 + "]" * 5_000,
        f'[{GOOD[:-1]}, "x": {"[" * 5_000}{"]" * 5_000}}}]',
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        f"[{GOOD.replace('150]', '1' * 10_000 + ']')}]",
        f"[{GOOD.replace('150]', '150.' + '0' * 10_000 + ']')}]",
        f"[{GOOD.replace('150]', '1' * 10_000 + '.5]')}]",
    ],
    ids=["open", "lists", "lists_in_object", "objects", "integer", "decimals", "float"],
)
def test_deep_json_and_long_numbers_score_zero(answer):
    got = score(complete(answer))
    assert (got.segmentation_format, got.accuracy) == (0, 0)
    assert (got.thinking_format, got.non_repeat) == (1, 1)


def test_scores_and_thresholds_by_hand():
    assert score(complete(f"[{GOOD}]")).total == 7
    label = '"' + "[" * 1000 + '"'
    assert score(complete(f'[{GOOD[:-1]}, "label": {label}}}]')).total == 7
    assert score(complete(f"[{GOOD}]") + "\r\n\n").total == 7
    assert score(complete(f"[{GOOD}]") + " \n.").total == 6
    # In the parent 64-bit areas wrap around: 2**32 pixels squared is 0, and the IoU infinite.
    box = [0, 0, 2**32 - 1, 2**32 - 1]
    got = score(complete(json.dumps([{"bbox_2d": box, "point_2d": [150, 150]}])))
    assert (got.iou, got.box_l1, got.point_l2) == (0, 0, 1)
    # 130 x (2/130) is not 2 when summed one by one, as the parent does.
    many = score(complete("[" + ", ".join([GOOD] * 130) + "]"))
    assert many.segmentation_format == 2.0
    assert PAPER.scaled(840) == PAPER
    assert PAPER.scaled(168) == RewardThresholds(iou=0.5, box_l1=2.0, point_l2=10.0)


def judged(items: str, references=TRUTH) -> Evidence:
    return Evidence(None, parse_answer(complete(items)), references, PAPER, 840, None)


def test_the_recipes_other_readings_of_form_and_accuracy_by_hand():
    assert usable_format(judged(f"[{GOOD}]")) == 2 and usable_format(judged(GOOD)) == 0
    # Half of the limit of 10 pixels in each coordinate: a mean of 5, a sum of 20.
    moved = '[{"bbox_2d": [105, 105, 204, 204], "point_2d": [150, 150]}]'
    assert (accuracy(judged(moved)), accuracy_box_sum(judged(moved))) == (3, 2)
    near = moved.replace("105", "101").replace("204", "200")  # a sum of 4
    assert accuracy_box_sum(judged(near)) == 3
    # One right object of the two that are asked for.
    two = (*TRUTH, Reference(box=(500, 500, 599, 599), point=(550, 550)))
    assert accuracy_without(judged(f"[{GOOD}]", two), part="point_l2") == 1


PIECES = [
    *"[]{}\",:.\\ \n\0", "<think>", "</think>", "<answer>", "</answer>", "bbox_2d", "point_2d",
    '"bbox_2d": [1, 2, 3, 4]', '"point_2d": [150, 150]', GOOD, f"[{GOOD}]", "NaN", "-Infinity",
    "1e400", "1" * 5000, "null", "true", "'", "orange.", "食物", "\ud800", "\u2028", "\u00a0", "K",
]  # fmt: skip
NUMBERS = [0, 1, -5, 150, 199.5, 1e300, -1e308, 10**300, 2**63, True, None, "150", [1], {}, ""]


def random_item(generator):
    lengths = generator.choice([(4, 2), (4, 2), (3, 2), (5, 1), (0, 0)])
    box, point = (generator.choices(NUMBERS, k=length) for length in lengths)
    full = {"bbox_2d": box, "point_2d": point, "label": "x"}
    return generator.choice([full, full, full, dict([*full.items()][:1]), 5, None, "bbox_2d"])


def test_random_text_and_json_give_a_finite_score_and_no_exception():
    generator = random.Random(0)
    for _ in range(3000):
        text = "".join(generator.choices(PIECES, k=generator.randrange(1, 30)))
        items = json.dumps([random_item(generator) for _ in range(generator.randrange(4))])
        for completion in (text, complete(text), complete(items)):
            got = score(completion)
            assert math.isfinite(got.total)
            assert 0 <= got.total <= 7


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 15_000,
        "<think>" + "</think>" * 12_000,
        "<think>" + "</think> " * 10_000 + "<answer>",
        "<think></think>" + " " * 100_000 + "x</answer>",
        "<answer>" * 12_000 + "</answer>",
        "<think></think><answer>" + " " * 100_000 + "x</answer>",
        complete('"' + '\\"' * 50_000 + "[" * 300),
        complete('"' * 50_000 + "[" * 300),
        complete("[" + "{" * 100_000),
        complete("[" + ", ".join([GOOD] * 3000) + "]"),
        ".a" * 50_000,
    ],
    ids=range(11),
)
def test_time_is_bounded_on_100_000_characters(text):
    start = time.process_time()
    score(text)
    assert time.process_time() - start < 1


# SAM-R1

SIZE = (10, 20)  # height, width


def strip(first: int, last: int) -> np.ndarray:
    """Columns of 10 pixels each, from the first up to the last."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, first:last] = True
    return mask


def evidence(masks: list[np.ndarray], truth: list[np.ndarray]) -> Evidence:
    sample = Sample(
        *("test-1-0", "1", "test", "1.png", SIZE[1], SIZE[0], "Which?", ""),
        foods=("rice",) * len(truth),
        references=(),
        reference_foods=("rice",) * len(truth),
        masks=tuple(encode_mask(mask) for mask in truth),
    )
    found = np.stack(masks) if masks else np.zeros((0, *SIZE), dtype=bool)
    return Evidence(sample, parse_answer(""), (), RewardThresholds(), 168, lambda: found)


@pytest.mark.parametrize(
    "columns, iou, points",
    [(10, 1.0, 4), (9, 0.9, 4), (8, 0.8, 3), (7, 0.7, 2), (6, 0.6, 2), (5, 0.5, 0), (0, 0.0, 0)],
)
def test_tiers_and_their_edges(columns, iou, points):
    one = evidence([strip(0, columns)], [strip(0, 10)])
    assert mask_iou(one) == iou
    assert mask_tiers(one) == points


def test_masks_are_united_on_both_sides_and_a_superfluous_one_costs():
    truth = [strip(0, 5), strip(10, 15)]
    halves = [strip(0, 3), strip(3, 5), strip(10, 15)]
    assert mask_tiers(evidence(halves, truth)) == 4
    assert mask_tiers(evidence([], truth)) == 0
    assert mask_tiers(evidence(halves[:2], truth)) == 0
    assert mask_iou(evidence([*halves, strip(15, 18)], truth)) == pytest.approx(10 / 13)
    assert mask_tiers(evidence([*halves, strip(15, 18)], truth)) == 3


@pytest.mark.parametrize("threshold, earned", [(0.5, 4.0), (0.7, 4.0), (0.8, 0.0)])
def test_a_single_threshold_pays_the_most_or_nothing(threshold, earned):
    term = partial(mask_threshold, threshold=threshold)
    assert term_name(term) == "mask_threshold"
    assert term(evidence([strip(0, 8)], [strip(0, 10)])) == earned
