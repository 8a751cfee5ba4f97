"""What a completion's form fails by, and which habits its words show."""

import json
import random
import time

import pytest

from foodseg.kitchen.pretraining.answer_forms import Food, Item, Thought, write_completion
from foodseg.kitchen.pretraining.habits import Manner
from foodseg.rl.answers import parse_answer
from foodseg.rl.habits import FAILURES, HABITS, failure_kind, habits

ITEM = {"bbox_2d": [10, 20, 60, 70], "point_2d": [33, 41]}
ONE, TWO = json.dumps([ITEM]), json.dumps([ITEM, ITEM])
BARE = json.dumps(ITEM)
PROSE = "The kiwi lies at (10, 20, 60, 70), around (33, 41)."
THOUGHT = "<think>It points to the kiwi.</think> "


def answered(body: str) -> str:
    return f"{THOUGHT}<answer>{body}</answer>"


@pytest.mark.parametrize(
    "completion, kind",
    [
        (answered(ONE), ""),
        (answered(TWO) + "\n", ""),
        (THOUGHT + ONE, "no tags"),
        (f"It is the kiwi. {TWO}. That is all.", "no tags"),
        (THOUGHT + json.dumps([ITEM], indent=2), "no tags"),
        (f"{THOUGHT}```json\n{ONE}\n```", "fence"),
        (answered(f"```json\n{ONE}\n```"), "fence inside"),
        (answered(BARE), "bare dict"),
        (answered(f"{BARE}, {BARE}"), "bare dict"),
        (answered('[{"bbox_2d": [1, 2, 3, 4]}]'), "incomplete item"),
        (answered('[{"bbox_2d": [1, 2, 3], "point_2d": [1, 2]}]'), "incomplete item"),
        (answered('[{"bbox_2d": [1, 2, 3, 4], "points": [[1, 2, 1]]}]'), "incomplete item"),
        (answered(PROSE), "prose"),
        (THOUGHT + PROSE, "prose"),
        (THOUGHT + "It is at [10, 20, 60, 70], point [33, 41].", "prose"),
        ("", "prose"),
        ("<think>It points to", "unfinished"),
        (f"{THOUGHT}<answer>{ONE}", "unfinished"),
        (answered(ONE[:-1]), "unfinished"),
        (THOUGHT + TWO[:-4], "unfinished"),
        (f"{THOUGHT}```json\n{ONE}", "unfinished"),
        (answered("[]"), "other"),
        (answered('["kiwi": {}]'), "other"),
        (THOUGHT + BARE, "other"),
    ],
)
def test_each_failure_has_one_kind(completion, kind):
    assert failure_kind(parse_answer(completion)) == kind
    assert kind in ("", *FAILURES)


@pytest.mark.parametrize(
    "thought, shown",
    [
        ("X points to the corn.", set()),
        ("I see the corn. I see the kiwi. X means the kiwi.", {"step by step"}),
        ("Surely the corn. I see", {"step by step"}),
        ("Surely, as I see, the corn.", set()),
        ("X means the kiwi. <look>kiwi: oval</look> I see it.", {"step by step", "look"}),
        ("Then I see nothing. Tight box, centre point.", {"tight box", "centre point"}),
        ("Kiwi, with a point outside it.", {"labelled points"}),
        ("Corn. It is. It is. It is. It is.", {"rambling"}),
        ("Corn. It is. It is.", set()),
    ],
)
def test_habits_are_read_from_the_thoughts_words(thought, shown):
    found = habits(f"<think>{thought}</think> <answer>{ONE}</answer>")
    assert tuple(found) == HABITS
    assert {name for name, there in found.items() if there} == shown
    # What stands in the answer announces nothing.
    assert not habits("<think>X.</think><answer>I see a tight box</answer>")["tight box"]


@pytest.mark.parametrize(
    "form, kind",
    [
        ("parseable", ""),
        ("prose", "prose"),
        ("fenced", "fence"),
        ("untagged", "no tags"),
        ("fence inside", "fence inside"),
        ("bare", "bare dict"),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_the_kitchens_forms_and_words_are_known(form, kind, labelled):
    corn, kiwi = Food("corn", 0), Food("kiwi", 1)
    outside = (1, 2) if labelled else ()
    items = [Item(food, (10, 20, 60, 70), (33, 41), outside) for food in (corn, kiwi)]
    thought = Thought("Energy", "means", (corn, kiwi), ((corn, "yellow"),), (corn,))
    manner = Manner(form=form, times=4, labelled=labelled)
    text = write_completion(manner, thought, items).text
    # SAM2 gets no single point from labelled ones.
    kind = kind or ("incomplete item" if labelled else "")
    assert failure_kind(parse_answer(text)) == kind
    shown = {habit for habit, there in habits(text).items() if there}
    assert shown == set(HABITS) - ({"labelled points"} if not labelled else set())


def test_any_text_is_read_and_in_linear_time():
    rng = random.Random(0)
    parts = [
        "<answer>",
        "</answer>",
        "</think>",
        "```",
        "[",
        "{",
        "]",
        "}",
        "I see",
        ".",
        "\n",
        " ",
    ]
    for _ in range(300):
        text = "".join(rng.choices(parts, k=rng.randrange(20)))
        failure_kind(parse_answer(text))
        habits(text)
    start = time.perf_counter()
    for part in parts:
        text = part * (200_000 // len(part))
        failure_kind(parse_answer(text))
        habits(text)
    # Quadratic time would take minutes; a busy machine takes seconds at most.
    assert time.perf_counter() - start < 20
