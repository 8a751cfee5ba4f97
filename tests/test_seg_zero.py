"""Seg-Zero's reward against Seg-Zero's outputs."""

from __future__ import annotations

import json
import math
import random
import re
import time
from pathlib import Path

import pytest

from foodseg.rl.seg_zero import score_seg_zero

VECTORS = Path(__file__).parent / "vectors"
CASES = json.loads((VECTORS / "seg_zero_rewards.json").read_text())["cases"]
PAIR = r"\((\d+),(\d+)\)"


def ground_truth(text: str):
    """Seg-Zero's `<box>(x,y),(x,y)</box><points>(x,y),(x,y)</points>`; None for what is missing."""
    box = re.search(f"<box>{PAIR},{PAIR}</box>", text)
    points = re.search(f"<points>{PAIR},{PAIR}</points>", text)
    box = box and tuple(map(int, box.groups()))
    points = points and tuple(map(int, points.groups()))
    return box, points and (points[:2], points[2:])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_terms_are_those_of_seg_zero(case):
    completion, want = case["input"]["completion"], dict(case["output"])
    if completion.endswith("</answer>\n"):
        # a line break after </answer> must not cost the format reward
        want["thinking"], want["total"] = 1.0, want["total"] + 1
    got = score_seg_zero(completion, *ground_truth(case["input"]["ground_truth"]))
    assert got.total == want.pop("total")
    want["thinking_format"] = want.pop("thinking")
    assert vars(got) == want


GOOD = '{"bbox": [100, 100, 199, 199], "points_1": [130, 130], "points_2": [170, 170]}'
TRUTH = (100, 100, 199, 199), ((130, 130), (170, 170))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1" * 10_000])
def test_no_reward_for_numbers_that_are_not_finite(number):
    assert score_seg_zero(GOOD, *TRUTH).total == 4
    assert score_seg_zero(GOOD.replace("199", number), *TRUTH).total == 0
    assert score_seg_zero(GOOD.replace("170", number), *TRUTH).total == 0


def test_random_text_gives_a_finite_score_in_bounded_time():
    pieces = [*'{}[]",: .', GOOD, GOOD[:-1], '"bbox"', "[1, 2, 3, 4]", "1e300", "null", '"x"', "{}"]
    generator = random.Random(0)
    for _ in range(2000):
        text = "".join(generator.choices(pieces, k=generator.randrange(1, 20)))
        assert math.isfinite(score_seg_zero(text, *TRUTH).total)
    start = time.process_time()
    for text in ("{" * 100_000, "{}" * 50_000, "{" + "[" * 100_000 + "}"):
        assert score_seg_zero(text, *TRUTH).total == 0
    assert time.process_time() - start < 1
