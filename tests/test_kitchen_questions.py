"""Kitchen questions: the facts cover every food, the splits keep apart, the answers are right."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from foodseg.data.food_names import index_names, name_to_class
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.kitchen.knowledge import CLUES, read_clues
from foodseg.kitchen.plates import KITCHEN_FOODS
from foodseg.kitchen.questions import TEMPLATES, converse, draw_question, questions_for, split_of

NAMES = index_names(CATEGORIES)
IDS = {name: class_id for class_id, name in CATEGORIES.items()}
MARKUP = re.compile(r"\{([^{}]+)\} \[SEG(\d)\]")


def plates(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, count)
    return [tuple(rng.choice(KITCHEN_FOODS, n, replace=False).tolist()) for n in sizes]


def ids(*names: str) -> tuple[int, ...]:
    return tuple(sorted(IDS[name] for name in names))


def answers_to(clue_text: str, *names: str) -> tuple[int, ...]:
    (clue,) = [clue for clue in CLUES if clue.text == clue_text]
    return clue.answers(ids(*names))


def test_every_kitchen_food_has_eight_clues_that_differ_and_are_short():
    own = Counter(food for clue in CLUES if len(clue.foods) == 1 for food in clue.foods)
    assert set(own) == set(KITCHEN_FOODS)
    assert min(own.values()) >= 8
    assert len({clue.text for clue in CLUES}) == len(CLUES)
    for clue in CLUES:
        assert clue.foods.isdisjoint(clue.debatable), clue.text
        assert 2 <= len(clue.text.split()) <= 8, clue.text
        assert clue.hint and len(clue.hint.split()) <= 6, clue.hint


@pytest.mark.parametrize("foods, debatable", [("pie", ""), ("", ""), ("egg", "egg; pie")])
def test_a_clue_is_about_foods_that_the_kitchen_draws(tmp_path, foods, debatable):
    table = f"foods,clue,hint,avoid,debatable\n{foods},is baked,an oven,,{debatable}\n"
    (tmp_path / "clues.csv").write_text(table)
    with pytest.raises(ValueError, match="is baked"):
        read_clues(tmp_path / "clues.csv")


def test_no_question_names_any_kitchen_food_or_wishes_for_what_to_avoid():
    names = [CATEGORIES[food] for food in KITCHEN_FOODS] + ["cheese", "butter", "fries"]
    named = re.compile(rf"\b({'|'.join(names)}|strawberries|blueberries)(s|es)?\b", re.IGNORECASE)
    for template in TEMPLATES:
        for clue in CLUES:
            assert not named.search(template.ask(clue)), template.ask(clue)
    avoided = [clue for clue in CLUES if clue.avoid]
    wishes = [template for template in TEMPLATES if template.wish]
    assert avoided and wishes
    assert not any(template.fits(clue, 1) for template in wishes for clue in avoided)


def test_the_plural_agrees_with_its_foods():
    plural = {clue.text: clue.plural for clue in CLUES}
    assert plural["grows on a tree"] == "grow on a tree"
    assert plural["is rich in vitamin C"] == "are rich in vitamin C"
    assert plural["was caught in the water"] == "were caught in the water"
    assert plural["came to Europe from the Americas"] == "came to Europe from the Americas"
    assert plural["goes raw into Greek salad"] == "go raw into Greek salad"


def askable_pairs() -> set[tuple[int, int]]:
    """Every pair that some plate of one to four foods can be asked, whatever the split."""
    return {
        (t, c)
        for c, clue in enumerate(CLUES)
        for t, template in enumerate(TEMPLATES)
        if any(template.fits(clue, answers + 1) for answers in range(min(3, len(clue.foods))))
    }


def test_training_has_every_template_and_clue_but_no_test_pair():
    pairs = askable_pairs()
    train = {pair for pair in pairs if split_of(*pair) == "train"}
    test = pairs - train
    assert all(split_of(*pair) == "test" for pair in test)
    for split in (train, test):
        assert {t for t, _ in split} == set(range(len(TEMPLATES)))
        assert {c for _, c in split} == set(range(len(CLUES)))
    assert len(TEMPLATES) >= 12
    assert 0.12 < len(test) / len(pairs) < 0.2


def test_questions_keep_to_their_split_and_ask_for_all_foods_that_fit():
    texts = {"train": set(), "test": set()}
    for foods in plates(40, seed=1):
        for split, seen in texts.items():
            for question in questions_for(foods, split):
                assert split_of(question.template, question.clue) == split
                seen.add(question.text)
                clue, number = CLUES[question.clue], TEMPLATES[question.template].number
                assert set(question.foods) == clue.foods & set(foods)
                assert 1 <= len(question.foods) <= 5
                assert clue.debatable.isdisjoint(foods)
                assert number == "any" or (number == "many") == (len(question.foods) > 1)
    assert texts["train"] and texts["test"]
    assert texts["train"].isdisjoint(texts["test"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_drawn_question_keeps_to_its_split_and_number(split):
    rng = np.random.default_rng(0)
    for foods in plates(100):
        severals = any(len(q.foods) > 1 for q in questions_for(foods, split))
        for many in (None, False, True):
            question = draw_question(foods, split, rng, many=many)
            assert split_of(question.template, question.clue) == split
            assert set(question.foods) <= CLUES[question.clue].foods
            assert many is None or (len(question.foods) > 1) == (many and severals)


def test_some_facts_by_hand():
    fruits = ("orange", "lemon", "kiwi", "steak")
    assert answers_to("is rich in vitamin C", *fruits) == ids("orange", "lemon", "kiwi")
    assert answers_to("is rich in vitamin C", "orange", "tomato") == ()  # tomato is debatable
    assert answers_to("turns into guacamole", "avocado", "tomato") == ids("avocado")
    assert answers_to("comes from a cereal grain", "rice", "bread", "egg") == ids("rice", "bread")
    assert answers_to("is unsafe with celiac disease", "rice", "bread") == ids("bread")
    assert answers_to("counts as seafood", "fish", "shrimp", "egg") == ids("fish", "shrimp")
    assert answers_to("contains no fiber", "rice", "carrot") == ()


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_plate_of_two_foods_has_enough_questions(split):
    for foods in combinations(KITCHEN_FOODS, 2):
        clues = {question.clue for question in questions_for(foods, split)}
        singles = {q.clue for q in questions_for(foods, split) if len(q.foods) == 1}
        assert len(clues) >= 10 and len(singles) >= 4, foods


@pytest.mark.parametrize("split", ["train", "test"])
def test_conversation_markup_parses_and_answers_its_question(split):
    rng = np.random.default_rng(3)
    for foods in plates(50, seed=2):
        answers = {q.text: q.foods for q in questions_for(foods, split)}
        messages = converse(foods, split, rng)
        assert [m["form"] for m in messages] == ["question", "answer"] * (len(messages) // 2)
        masked = 0
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            found = MARKUP.findall(answer["value"])
            if question["value"] not in answers:
                assert not found and "{" not in answer["value"]
                continue
            masked += 1
            named = tuple(name_to_class(name, NAMES) for name, _ in found)
            assert named == answers[question["value"]]
            assert [int(n) for _, n in found] == list(range(1, len(found) + 1))
        assert 2 <= masked <= 4


def test_conversations_mix_their_turns_ask_enough_and_follow_the_random_state():
    rng = np.random.default_rng(4)
    counts, canonical = Counter(), Counter()
    for foods in plates(150, seed=5):
        for message in converse(foods, "train", rng)[1::2]:
            found = MARKUP.findall(message["value"])
            counts[len(found)] += 1
            canonical.update(name in IDS for name, _ in found)
    assert min(counts[n] for n in (0, 1, 2, 3)) > 10
    assert counts[1] < 0.8 * sum(counts.values())
    assert canonical[False] > 10
    assert canonical[True] > 0.7 * sum(canonical.values())
    rng = np.random.default_rng(6)
    turns = [message for foods in plates(120) for message in converse(foods, "test", rng)]
    assert sum("[SEG1]" in message["value"] for message in turns) >= 200
    foods = plates(1)[0]
    for say in (converse, draw_question):
        first, again = (say(foods, "train", np.random.default_rng(7)) for _ in range(2))
        assert first == again
