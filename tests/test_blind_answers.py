"""Answers that never look: the search finds what always lies in one place, and points add up."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_hostile_answers import SAMPLE, SIDE, drawn

from foodseg import recipes
from foodseg.data.references import encode_mask, mask_to_reference
from foodseg.presets import KITCHEN
from foodseg.report.blind_answers import (
    UNUSABLE,
    blind_answer,
    earn,
    fill,
    find_boxes,
    main,
    page,
    write_answer,
)
from foodseg.rl.answers import parse_answer

PLACE = (42, 84, 125, 167)  # a square on the grid of a picture of 168 pixels


def always_there(name: str):
    mask = drawn(PLACE)
    found = {"references": (mask_to_reference(mask),), "masks": (encode_mask(mask),)}
    return replace(SAMPLE, sample_id=name, foods=("fig",), reference_foods=("fig",), **found)


@pytest.mark.parametrize(
    "recipe", [recipes.DAPO, recipes.SAM_R1, recipes.DR_SEG], ids=lambda recipe: recipe.name
)
def test_food_that_always_lies_in_one_place_is_found(recipe):
    samples = [always_there(str(number)) for number in range(2)]
    boxes = find_boxes(KITCHEN, recipe, samples)
    text = blind_answer(boxes, recipe.labelled_points)
    assert parse_answer(text, recipe.labelled_points).parsed
    most = {"dapo": 7, "sam-r1": 7, "dr-seg": 8}[recipe.name]
    assert earn(KITCHEN, recipe, samples, [text] * 2, fill) == most
    if recipe is not recipes.DR_SEG:  # whose ranks of a first step pay for less
        assert boxes == (PLACE,)


def test_what_an_unusable_answer_earns():
    """By hand: the form's 1 + 2 and non-repeat's 1, of which ours pays 1 + 0 + 1."""
    text = write_answer(str(UNUSABLE).replace("'", '"'))
    assert not parse_answer(text, labelled=True).parsed
    earned = [
        earn(KITCHEN, recipe, [SAMPLE], [text], fill)
        for recipe in (recipes.DAPO, recipes.DAPO_USABLE_FORM)
    ]
    assert earned == [4, 2]


def test_masks_are_what_boxes_cover():
    masks = fill(SAMPLE, SAMPLE.references)
    assert masks.shape == (2, SIDE, SIDE)
    assert (masks.any(0) == SAMPLE.union_mask()).all()


def test_the_page_names_the_rewards_under_which_blind_answers_win():
    frame = pd.DataFrame(
        {
            "its own policy": [5.0, np.nan],
            "GRPO's policy": [4.0, 4.0],
            "blind": [4.5, 4.0],
            "blind boxes": [1, 2],
        },
        index=pd.Index(["One", "Other"], name="reward of"),
    )
    *_, table, sentence, _ = page(KITCHEN, frame)
    assert "| Other | – | 4.00 | 4.00 | 2 |" in table
    assert sentence.endswith("under: Other.")


@pytest.mark.parametrize(
    ("preset", "words"),
    [("lunch", "PRESET='lunch' is unknown"), ("smoke", "make build/smoke/01_build_foodreasonseg")],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(empty_home, capsys, preset, words):
    assert main(["--preset", preset]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("blind_answers: ") and words in said
