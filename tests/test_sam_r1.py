"""SAM-R1: labelled points from the text to SAM2, and what each of its terms pays, by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from foodseg.data.photos import read_photo
from foodseg.data.references import Reference, decode_mask
from foodseg.evaluation.evaluate import evaluate
from foodseg.evaluation.predictions import load_predictions
from foodseg.methods import sam_r1
from foodseg.methods.sam_r1 import (
    box_tiers,
    labelled_format,
    points_inside,
    points_right,
)
from foodseg.models import prompts
from foodseg.presets import SMOKE
from foodseg.recipes import GRPO, SAM_R1
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import gather_evidence, to_original
from foodseg.rl.groups import score_group
from foodseg.rl.habits import failure_kind
from foodseg.system import load_segmenter

SIDE = SMOKE.image_side


def answer(*items: dict) -> str:
    return f"<think>So.</think>\n<answer>{json.dumps(items)}</answer>"


def evidence_of(sample, *items, labelled=True):
    [evidence] = gather_evidence(sample, [answer(*items)], SIDE, labelled=labelled)
    return evidence


def one_food(samples):
    return next(sample for sample in samples if len(sample.references) == 1)


def model_pixel(sample, wanted: np.ndarray) -> list[int]:
    """A place in the model image that falls on a pixel of the photo that is wanted."""
    across, down = sample.width / SIDE, sample.height / SIDE
    for y, x in np.ndindex(SIDE, SIDE):
        if wanted[int(y * down + 0.5), int(x * across + 0.5)]:
            return [x, y]
    raise AssertionError


def test_points_go_to_original_pixels_with_their_labels(samples):
    sample = replace(samples[0], width=336, height=504)  # twice and three times the model image
    text = answer({"bbox_2d": [10, 20, 50, 60], "points": [[9, 9, 0], [30, 40, 1], [900, -5, 0]]})
    (found,) = to_original(parse_answer(text, labelled=True), sample, SIDE)
    assert SIDE == 168
    assert found == Reference((20, 60, 100, 180), (60, 120), ((18, 27, 0), (334, 0, 0)))


@pytest.mark.parametrize(
    "items, format_points, inside, failure",
    [
        (({"bbox_2d": [10, 10, 50, 50], "points": [[20, 20, 1], [60, 20, 0]]},), 2, 0, ""),
        (({"bbox_2d": [10, 10, 50, 50], "points": [[20, 20, 1], [50, 10, 0]]},), 2, 1, ""),
        (({"bbox_2d": [10, 10, 50, 50], "point_2d": [20, 20]},), 2, 1, ""),
        (({"bbox_2d": [10, 10, 50, 50], "points": [[20, 20, 0]]},), 0, 0, "incomplete item"),
        (
            (
                {"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]},
                {"bbox_2d": [1, 2, 3, 4], "point_2d": [9, 9]},
            ),
            2,
            0,
            "",
        ),
        (
            ({"bbox_2d": [10, 10, 50, 50], "point_2d": [20, 20]}, {"bbox_2d": [1, 2, 3, 4]}),
            1,
            0,
            "incomplete item",
        ),
        ((), 0, 0, "other"),
    ],
)
def test_form_and_points_in_the_box_by_hand(samples, items, format_points, inside, failure):
    evidence = evidence_of(samples[0], *items)
    assert labelled_format(evidence) == format_points
    assert points_inside(evidence) == 2 * inside
    assert failure_kind(evidence.answer) == failure


def test_points_are_right_on_the_food_with_label_1_and_off_it_with_label_0(samples):
    sample = one_food(samples)
    truth = decode_mask(sample.masks[0])
    on, off = model_pixel(sample, truth), model_pixel(sample, ~truth)
    box = [0, 0, 100, 100]
    for points, share in (
        ([[*on, 1], [*off, 0]], 1),
        ([[*on, 1], [*on, 0]], 0.5),
        ([[*off, 1], [*on, 0]], 0),
        ([[*on, 1], [*off, 0], [*off, 1], [*off, 0]], 0.75),
        ([[*on, 1], [*off, 0], [*on, 0], [*on, 0], [*on, 0]], 0.625),
        ([[*on, 1], [*on, 1]], 0.5),  # no point of label 0 is paid for
    ):
        assert points_right(evidence_of(sample, {"bbox_2d": box, "points": points})) == 2 * share
    assert points_right(evidence_of(sample, {"bbox_2d": box, "point_2d": on})) == 1
    assert points_right(evidence_of(sample)) == 0


def test_of_several_foods_each_is_the_food(samples):
    sample = next(sample for sample in samples if len(sample.masks) > 1)
    first, second = map(decode_mask, sample.masks[:2])
    point = model_pixel(sample, second & ~first)
    item = {"bbox_2d": [0, 0, 100, 100], "points": [[*point, 1]]}
    assert points_right(evidence_of(sample, item)) == 1


def test_tiers_of_boxes_by_hand(samples):
    sample = one_food(samples)
    (true,) = gather_evidence(sample, [""], SIDE)[0].references
    left, top, right, bottom = true.box
    whole = {"bbox_2d": [left, top, right, bottom], "point_2d": list(true.point)}
    width = right - left + 1
    part = {**whole, "bbox_2d": [left, top, left + round(0.75 * width) - 1, bottom]}
    part_iou = round(0.75 * width) / width
    assert 0.7 < part_iou <= 0.8
    assert box_tiers(evidence_of(sample, whole)) == 4
    assert box_tiers(evidence_of(sample, part)) == 3
    assert box_tiers(evidence_of(sample, part, whole)) == 4  # what both cover counts once
    far = {**whole, "bbox_2d": [0, 0, SIDE - 1, SIDE - 1]}
    assert box_tiers(evidence_of(sample, whole, far)) == 0
    assert box_tiers(evidence_of(sample)) == 0


def test_labels_reach_sam2_in_reward_and_evaluation_alike(samples, monkeypatch, kitchen_mllm):
    sample, segmenter = one_food(samples), load_segmenter(SMOKE)
    (true,) = gather_evidence(sample, [""], SIDE)[0].references
    beside = [[*true.point, 1], [true.box[0], true.box[1], 0], [true.box[2], true.box[3], 0]]
    text = answer({"bbox_2d": list(true.box), "points": beside})

    def roll_out(mllm, preset, asked, **_):
        return [type("R", (), {"texts": (text,)}) for _ in asked]

    monkeypatch.setattr("foodseg.evaluation.evaluate.roll_out", roll_out)
    strict = evaluate(SMOKE, "strict", [sample], kitchen_mllm, segmenter)
    result = evaluate(SMOKE, "labelled", [sample], kitchen_mllm, segmenter, labelled=True)
    assert (strict["parse_rate"], result["parse_rate"]) == (0, 1)
    (prediction,) = load_predictions(SMOKE.predictions_folder("labelled"))
    assert [label for *_, label in prediction.references[0].more] == [0, 0]

    def segment(sample, references):
        photo = read_photo(SMOKE.dataset / sample.image).image
        return segmenter.predict(segmenter.embed_image(photo), references)

    rollout = type("R", (), {"texts": (text,)})
    group = score_group(
        sample, rollout, SIDE, SAM_R1.reward, segment, labelled=SAM_R1.labelled_points
    )
    (masks,) = (one.masks() for one in group.evidence)
    assert (masks.any(0) == decode_mask(prediction.mask)).all()
    assert 0.55 < prediction.intersection / prediction.union < 0.65  # no tier's edge is near
    assert group.points[0]["mask_tiers"] == 2
    assert not GRPO.labelled_points


def test_the_prompt_shows_labelled_points():
    template = sam_r1.labelled_prompt(prompts.PAPER)
    shown = template.format(question="Which?")
    body = shown[shown.index("<answer>[") :]
    objects = parse_answer(body, labelled=True).objects
    assert [[label for *_, label in one.more] for one in objects] == [[0], [0]]
    assert "point_2d" not in template and "label 0" in template
    assert sam_r1.labelled_prompt(prompts.KITCHEN) == prompts.KITCHEN
