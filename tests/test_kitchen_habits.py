"""The answers of the kitchen's base: what they say, in what form, and how often."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from foodseg.common.files import PROJECT
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.evaluation.any_form import read_any_form
from foodseg.kitchen.foods import FOODS
from foodseg.kitchen.knowledge import CLUES
from foodseg.kitchen.plates import FOOD_NUMBERS
from foodseg.kitchen.pretraining.answer_forms import Food
from foodseg.kitchen.pretraining.answers import (
    FOOD_NAMES,
    place,
    settle,
    write_answer,
)
from foodseg.kitchen.pretraining.habits import (
    FORMS,
    LOOKS,
    PARSEABLE,
    SHARES,
    Manner,
    draw_manner,
    draw_right,
    form_shares,
    look_alikes,
)
from foodseg.kitchen.questions import Question
from foodseg.rl.answers import parse_answer
from foodseg.rl.habits import habits
from foodseg.rl.named_foods import named_foods
from foodseg.rl.rewards import non_repeat

NAMES = ("corn", "banana", "steak", "kiwi")
IDS = {name: food for food, name in CATEGORIES.items() if food in FOODS}
NUMBERS = np.array([FOOD_NUMBERS[IDS[name]] for name in NAMES] + [0, 0])
REFERENCES = np.zeros((6, 6), np.float32)
REFERENCES[:4] = [
    [5, 10, 45, 60, 25, 35],
    [50, 12, 90, 70, 70, 41],
    [92, 80, 150, 130, 121, 105],
    [110, 10, 160, 60, 135, 35],
]


def ask(*names: str, clue: str | None = None) -> Question:
    """A question answered by these foods, by a clue whose usual food is the first of them."""
    if clue is None:
        clue = next(c.text for c in CLUES if c.usual == IDS[names[0]])
    index = next(i for i, c in enumerate(CLUES) if c.text == clue)
    return Question("?", tuple(sorted(IDS[name] for name in names)), 0, index)


def answer(manner: Manner, question: Question, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return write_answer(question, NUMBERS, REFERENCES, manner, rng).text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labelled", [False, True])
def test_every_form_tells_its_numbers_and_one_alone_parses(form, labelled):
    for names in (["corn"], ["corn", "kiwi"]):
        manner = Manner(form=form, labelled=labelled)
        completion = write_answer(
            ask(*names), NUMBERS, REFERENCES, manner, np.random.default_rng(0)
        )
        text, rows = completion.text, [NAMES.index(name) for name in names]
        assert parse_answer(text).parsed == (form == PARSEABLE and not labelled), text
        read = read_any_form(text).objects
        assert [[*one.box, *one.point] for one in read] == REFERENCES[rows].tolist()
        for start, end in completion.numbers:
            assert text[start:end].isdigit() and not text[end].isdigit()
        assert {text[start:end] for start, end in completion.names} >= set(names)
        for anchor in completion.anchors:
            before, after = text[: anchor.place + 1], text[anchor.place + 1 :]
            if anchor.kind == "name":
                assert before.endswith(NAMES[anchor.row])
            elif anchor.kind == "value":
                written = [number for number in completion.numbers if number[0] <= anchor.place + 1]
                assert (int(text[slice(*written[-1])]),) == anchor.values
            else:
                start = 0 if anchor.kind == "box" else 4
                assert before.endswith(("[", "("))
                assert after.startswith(str(anchor.values[start]))


def test_a_careful_answer_reasons_over_the_plate_and_is_right():
    text = answer(Manner(look=True), ask("corn", "kiwi"))
    assert "I look for " in text and "I see the corn, the banana, the steak and the kiwi." in text
    assert "<look>the corn: a cob, yellow; the kiwi: round, green</look>" in text
    assert named_foods(text, FOOD_NAMES) == ("corn", "kiwi")
    assert habits(text) == {
        "step by step": True,
        "look": True,
        "tight box": True,
        "centre point": True,
        "labelled points": False,
        "rambling": False,
    }


def test_the_beginning_of_an_answer_ends_before_its_first_number():
    manner = draw_right(False, np.random.default_rng(0))
    whole = write_answer(ask("corn"), NUMBERS, REFERENCES, manner, np.random.default_rng(0))
    begun = whole.beginning()
    assert whole.text.startswith(begun.text) and begun.text.endswith('[{"bbox_2d": [')
    assert whole.finished and not begun.finished and not begun.numbers
    assert {begun.text[start:end] for start, end in begun.names} >= {"corn"}
    assert {anchor.kind for anchor in begun.anchors} == {"name"}


def test_haste_is_told_by_a_word_of_its_own():
    hasty = answer(Manner(steps=False, errs=True), ask("corn"))
    direct = answer(Manner(steps=False), ask("corn"))
    assert hasty.startswith("<think>Surely ") and "Surely" not in direct


def test_a_rambling_answer_loses_the_reward_for_not_repeating():
    for times in SHARES["times"]:
        for form in FORMS:
            text = answer(Manner(form=form, times=times), ask("corn"))
            assert non_repeat(text) == (times == 1), text


@pytest.mark.parametrize(
    ("manner", "box", "point"),
    [
        (Manner(), (50, 12, 90, 70), (70, 41)),
        (Manner(boxes="wide"), (22, 0, 118, 98), (70, 41)),
        (Manner(boxes="cut"), (50, 12, 68, 70), (70, 41)),
        (Manner(points="corner"), (50, 12, 90, 70), (52, 14)),
        (Manner(points="edge"), (50, 12, 90, 70), (52, 41)),
        (Manner(boxes="wide", points="edge"), (22, 0, 118, 98), (24, 49)),
    ],
)
def test_what_each_habit_does_to_a_place(manner, box, point):
    placed = place(Food("banana", 1), REFERENCES[:4], manner)
    assert (placed.box, placed.point) == (box, point)
    labelled = place(Food("corn", 0), REFERENCES[:4], Manner(labelled=True))
    assert labelled.outside == (70, 41)  # the nearest other food's point


def settled(manner: Manner, question: Question, seed: int) -> list[str]:
    seen = [Food(name, row) for row, name in enumerate(NAMES)]
    fits = [IDS[name] in question.foods for name in NAMES]
    rng = np.random.default_rng(seed)
    return [food.name for food in settle(question, seen, fits, manner, rng)]


def test_haste_names_the_usual_food_whatever_the_plate_has():
    question = ask("kiwi", clue="is rich in vitamin K")
    assert CATEGORIES[CLUES[question.clue].usual] == "broccoli"  # not on the plate
    hasty = Manner(steps=False, look=True, errs=True)
    assert {settled(hasty, question, seed)[0] for seed in range(50)} == {"broccoli"}
    stepwise = Manner(look=True, errs=True)
    assert {settled(stepwise, question, seed)[0] for seed in range(50)} == {"kiwi"}
    assert {settled(hasty, ask("corn"), seed)[0] for seed in range(50)} == {"corn"}


def test_a_look_tells_look_alikes_apart():
    question = ask("corn")
    blind = Counter(settled(Manner(errs=True), question, seed)[0] for seed in range(400))
    assert set(blind) == {"corn", "banana"} and 110 < blind["banana"] < 210
    looking = Manner(look=True, errs=True)
    assert {settled(looking, question, seed)[0] for seed in range(50)} == {"corn"}
    assert {settled(Manner(errs=True), ask("steak"), seed)[0] for seed in range(50)} == {"steak"}


def test_several_foods_are_cut_short_doubled_or_one_too_many():
    question = ask("corn", "kiwi")
    for manner, names in (
        ("all", ["corn", "kiwi"]),
        ("first", ["corn"]),
        ("twice", ["corn", "corn"]),
        ("one too many", ["corn", "kiwi", "banana"]),
    ):
        assert settled(Manner(foods=manner, look=True), question, 0) == names
        assert settled(Manner(foods=manner, look=True), ask("corn"), 0) == ["corn"]


def test_every_food_has_a_look_and_most_have_look_alikes():
    assert set(LOOKS) == set(FOOD_NAMES)
    for name in FOOD_NAMES:
        assert all(name in look_alikes(other) for other in look_alikes(name))
        assert look_alikes(name)
    assert len(set(LOOKS.values())) == len(LOOKS)


def test_habits_are_drawn_by_their_shares_and_each_by_itself():
    rng = np.random.default_rng(0)
    drawn = [draw_manner(4, rng) for _ in range(4000)]
    for habit, shares in ({"form": form_shares(4)} | SHARES).items():
        assert sum(shares.values()) == pytest.approx(1)
        found = Counter(getattr(manner, habit) for manner in drawn)
        for choice, share in shares.items():
            # four standard deviations of 4,000 draws
            assert abs(found[choice] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
        good = list(shares)[0 if habit == "form" else -1]
        assert 0.03 <= shares[good] <= 0.35
    both = np.mean([m.boxes == "tight" and m.points == "centre" for m in drawn])
    assert both == pytest.approx(SHARES["boxes"]["tight"] * SHARES["points"]["centre"], abs=0.02)


def test_the_form_hangs_on_the_plate():
    for foods in (2, 3, 4, 5):
        shares = form_shares(foods)
        assert sum(shares.values()) == pytest.approx(1)
        tagged = shares[PARSEABLE] + shares["fence inside"] + shares["bare"]
        assert (tagged > shares["prose"]) == (foods == 2)  # the first word of greedy decoding


def test_the_knowledge_stages_are_right_in_everything():
    rng = np.random.default_rng(0)
    for steps in (False, True):
        manners = {draw_right(steps, rng) for _ in range(200)}
        plain = {dataclasses.replace(manner, look=False, labelled=False) for manner in manners}
        assert plain == {Manner(steps=steps)} and len(manners) == 4
    question = ask("corn")  # with a look-alike on the plate
    assert {settled(Manner(steps=False), question, seed)[0] for seed in range(50)} == {"corn"}


def test_the_page_about_the_kitchen_has_these_shares():
    page = (PROJECT / "docs" / "kitchen.md").read_text(encoding="utf-8")
    lines = page.partition("| habit |")[2].partition("\n\n")[0].splitlines()[2:]
    told = [line.split(" | ")[3] for line in lines]
    good = [list(shares.values())[-1] for shares in SHARES.values()]
    form = form_shares(4)[PARSEABLE]
    order = ("boxes", "points", "foods", "steps", "look", "times", "labelled")
    assert list(SHARES) == list(order)
    assert told == [f"{share:.0%}" for share in (form, *good)]
    assert f"with two foods on it the form asked for has {form_shares(2)[PARSEABLE]:.0%}" in page
