"""References are read whatever their form, as written, in linear time, and never with an error."""

import time

import pytest

from foodseg.evaluation.any_form import read_any_form
from foodseg.rl.answers import PredictedReference, parse_answer

KIWI = PredictedReference((10.0, 20.0, 60.0, 70.0), (33.0, 41.0))
CORN = PredictedReference((80.0, 5.0, 120.0, 44.5), (99.0, 20.0))
KIWI_ITEM = '{"bbox_2d": [10, 20, 60, 70], "point_2d": [33, 41]}'
CORN_ITEM = '{"bbox_2d": [80, 5, 120, 44.5], "point_2d": [99, 20]}'
LABELLED = '{"bbox_2d": [10, 20, 60, 70], "points": [[5, 6, 0], [33, 41, 1], [50, 60, 1]]}'
BOTH = f"{KIWI_ITEM}, {CORN_ITEM}"
PROSE = "The kiwi lies at (10, 20, 60, 70), around (33, 41)."
THOUGHT = "<think>I see the kiwi. It means the kiwi.</think>\n"

FORMS = {
    "the paper's": (f"{THOUGHT}<answer>[{BOTH}]</answer>", (KIWI, CORN)),
    "in a fence": (f"It means the kiwi.\n```json\n[{BOTH}]\n```", (KIWI, CORN)),
    "without tags": (f"It means the kiwi. [{BOTH}]", (KIWI, CORN)),
    "a fence in the answer": (f"{THOUGHT}<answer>```json\n[{BOTH}]\n```</answer>", (KIWI, CORN)),
    "bare objects": (f"{THOUGHT}<answer>{BOTH}</answer>", (KIWI, CORN)),
    "an object alone": (KIWI_ITEM, (KIWI,)),
    "a list never closed": (f"{THOUGHT}<answer>[{BOTH}</answer>", (KIWI, CORN)),
    "an answer never closed": (f"{THOUGHT}<answer>[{BOTH}", (KIWI, CORN)),
    "an object never closed": (f"{THOUGHT}<answer>[{BOTH[:-1]}", (KIWI,)),
    "another key": (f"<answer>[{KIWI_ITEM.replace('bbox_2d', 'bbox')}]</answer>", (KIWI,)),
    "labelled points": (f"{THOUGHT}<answer>[{LABELLED}, {CORN_ITEM}]</answer>", (KIWI, CORN)),
    "inside another object": (f'{{"objects": [{BOTH}]}}', (KIWI, CORN)),
    "prose": (PROSE, (KIWI,)),
    "prose of two": (
        f"{PROSE} The corn lies at (80, 5, 120, 44.5), around (99, 20).",
        (KIWI, CORN),
    ),
    "prose with a point outside": (PROSE[:-1] + ", not (5, 6). " + PROSE, (KIWI, KIWI)),
    "square brackets": ("kiwi: [10, 20, 60, 70] and [33, 41]", (KIWI,)),
    "prose in the answer": (f"{THOUGHT}<answer>{PROSE}</answer>", (KIWI,)),
    "an example in the thought": (f"<think>{CORN_ITEM}</think><answer>{KIWI_ITEM}", (KIWI,)),
    "nothing in the answer": (f"{PROSE}<answer>I don't know.</answer>", (KIWI,)),
    "one item without a point": (f'<answer>[{KIWI_ITEM}, {{"bbox_2d": [1, 2, 3, 4]}}]', (KIWI,)),
    "all points outside": (f"<answer>[{LABELLED.replace(', 1]', ', 0]')}]</answer>", ()),
    "three numbers": ("The kiwi lies at (10, 20, 60), around (33, 41).", ()),
    "a point first": ("The kiwi lies at (33, 41), within (10, 20, 60, 70).", ()),
    "two boxes, one point": (f"Not (1, 2, 3, 4). {PROSE}", (KIWI,)),
    "no number": ("The kiwi.", ()),
    "not finite": ("The kiwi lies at (10, 20, 60, 1e999), around (33, 41).", ()),
    "nothing": ("", ()),
}


@pytest.mark.parametrize(("completion", "objects"), FORMS.values(), ids=FORMS)
def test_each_form_gives_its_references(completion, objects):
    answer = read_any_form(completion)
    assert answer.objects == objects
    strict = parse_answer(completion)
    assert (answer.completion, answer.thinking) == (completion, strict.thinking)
    assert not strict.parsed or answer.objects == strict.objects


def test_a_point_is_not_shared_by_two_boxes():
    text = "(10, 20, 60, 70), (80, 5, 120, 44.5), (99, 20), (33, 41)"
    assert read_any_form(text).objects == (CORN,)


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        "}",
        "[",
        "(",
        "(1,",
        "1, 2, ",
        "{[",
        "<answer>",
        "\\",
        '"',
        '{"bbox_2d": [',
        "[[1, 2, 1]",
    ]
    + ['{"points": 3}', '{"points": [[], [1], 2, [null, {}, 1]]}', "(1, 2, 3, 4)", "1" * 5000],
)
def test_long_texts_take_linear_time_and_raise_nothing(piece):
    text = piece * (100_000 // len(piece) + 1)
    start = time.process_time()
    read_any_form(text)
    assert time.process_time() - start < 1  # in quadratic time, minutes
