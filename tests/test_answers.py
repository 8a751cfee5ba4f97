"""Reading completions: what SAM2 can use, and the foods that the thinking names."""

import time

import pytest

from foodseg.data.references import Reference
from foodseg.rl.answers import MAX_NESTING, parse_answer, parse_json, write_items
from foodseg.rl.named_foods import FOOD_NAMES, named_foods

ITEM = '{"bbox_2d": [12, 30, 58.5, 77], "point_2d": [35, 50]}'


def complete(answer: str) -> str:
    return f"<think>Vitamin C is in the orange.</think>\n<answer>{answer}</answer>"


def test_a_good_completion():
    answer = parse_answer(complete(f"[{ITEM}, {ITEM}]"))
    assert answer.parsed
    assert answer.thinking == "Vitamin C is in the orange."
    assert [o.box for o in answer.objects] == [(12.0, 30.0, 58.5, 77.0)] * 2
    assert answer.objects[0].point == (35.0, 50.0)
    assert answer.items[0]["bbox_2d"] == [12, 30, 58.5, 77]


FLAWS = ("[1, 2, 3]", '[1, 2, 3, "4"]', *(f"[1, 2, 3, {one}]" for one in ("null", "true", "NaN")))
FLAWED = [f'[{{"bbox_2d": {box}, "point_2d": [1, 2]}}]' for box in FLAWS]
FLAWED += [
    f'[{{"bbox_2d": [1, 2, 3, 4], "point_2d": {point}}}]'
    for point in ("[1, 2, 3]", "[1, 1e999]", "[1, " + "9" * 10_000 + "]")
]
FLAWED += ["", "[]", "{}", "null", ITEM, "[[]]", f"[{ITEM},]", f"[{ITEM}, 5]", "[" * 100_000]
FLAWED += [f"```json\n[{ITEM}]\n```", ITEM.replace('"', "'"), '[{"bbox_2d": [1, 2, 3, 4]}]']


@pytest.mark.parametrize("body", FLAWED)
def test_nothing_that_sam2_could_not_use_counts_as_parsed(body):
    answer = parse_answer(complete(body))
    assert not answer.parsed
    assert answer.objects == ()


def labelled(points: str) -> str:
    return complete(f'[{{"bbox_2d": [1, 2, 30, 40], "points": {points}}}]')


def test_labelled_points_count_only_where_they_are_asked_for():
    text = labelled("[[5, 6, 0], [7, 8.5, 1], [9, 9, 1]]")
    assert not parse_answer(text).parsed
    (one,) = parse_answer(text, labelled=True).objects
    assert (one.box, one.point) == ((1, 2, 30, 40), (7, 8.5))
    assert one.more == ((5, 6, 0), (9, 9, 1))
    plain = parse_answer(complete(f"[{ITEM}]"), labelled=True)
    assert plain == parse_answer(complete(f"[{ITEM}]")) and plain.objects[0].more == ()
    both = ITEM.replace("}", ', "points": "x"}')  # the paper's key comes first
    assert parse_answer(complete(f"[{both}]"), labelled=True).objects == plain.objects


@pytest.mark.parametrize(
    "points",
    ["[]", "[[5, 6, 0]]", "[[5, 6]]", "[5, 6, 1]", "[[5, 6, 2]]", "[[5, 6, true]]", "7", "null",
     "[[5, 6, 1], null]", '[["5", 6, 1]]', f"[{', '.join(['[5, 6, 1]'] * 21)}]"],
)  # fmt: skip
def test_labelled_points_that_are_not_whole_or_all_outside_are_no_answer(points):
    assert not parse_answer(labelled(points), labelled=True).parsed


def test_written_items_are_read_back():
    references = (Reference((1, 2, 30, 40), (7, 8)), Reference((0, 0, 5, 5), (2, 3)))
    read = parse_answer(complete(write_items(references))).objects
    assert [(one.box, one.point) for one in read] == [(r.box, r.point) for r in references]


def test_first_answer_counts_and_has_to_be_closed():
    assert parse_answer(complete(f"[{ITEM}]") + complete("[]")).parsed
    assert not parse_answer(complete("[]") + complete(f"[{ITEM}]")).parsed
    assert not parse_answer(f"<answer>[{ITEM}]").parsed


@pytest.mark.parametrize(
    "completion, thinking",
    [
        ("<think> a\nb </think><answer>[]</answer>", "a\nb"),
        ("The orange.<answer>[]</answer>", "The orange."),
        ("<think>The orange.", "The orange."),
        ("</think>The orange.", "The orange."),
        ("The orange.", "The orange."),
        ("", ""),
    ],
)
def test_thinking_is_what_precedes_the_answer(completion, thinking):
    assert parse_answer(completion).thinking == thinking


def test_nesting_limit_is_ours_and_not_the_interpreters():
    nested = "[" * MAX_NESTING + "]" * MAX_NESTING
    assert parse_json(nested) is not None
    assert parse_json(f"[{nested}]") is None
    assert len(parse_json("[" + "[], " * 500 + "[]]")) == 501


@pytest.mark.parametrize(
    "text", ['"\\', '"' * 401 + "[" * 400, "]" * 300 + "[" * 300, "\0", "\ud800"]
)
def test_broken_text_is_not_json(text):
    assert parse_json(text) is None


NAMES = (
    "egg", "egg tart", "orange", "strawberry", "tomato", "olives", "French beans", "red beans",
    "rice", "corn", "cherry", "pie", "peach", "asparagus", "green beans", "French fries",
    "chicken duck", "wonton dumplings",
)  # fmt: skip


@pytest.mark.parametrize(
    "thinking, foods",
    [
        ("Vitamin C is in the orange.", ("orange",)),
        ("Not the rice. Vitamin C is in the ORANGES and strawberries.", ("orange", "strawberry")),
        ("The egg tart. It is sweet.", ("egg tart",)),
        ("An egg, an egg\ttart and eggs", ("egg", "egg tart")),
        ("Popcorn, eggplant and cornflakes", ()),
        ("An olive with tomatoes and peaches", ("olives", "tomato", "peach")),
        ("Some pies, and a french bean", ("pie", "French beans")),
        ("One French fry; asparagus, cherries", ("asparagus", "cherry")),
        ("One French fry", ("French fries",)),
        ("Chicken, ducks, a chicken duck: all one. Dumplings too", ("wonton dumplings",)),
        ("Chicken, ducks, a chicken duck: all one", ("chicken duck",)),
        ("Mint is no food of this list", ()),
        ("Nothing here", ()),
        ("", ()),
        # Prose with places is one sentence.
        ("Not the rice. The egg lies at (1, 2). The pie lies at (3, 4).", ("egg", "pie")),
    ],
)
def test_named_foods(thinking, foods):
    """What the answer names does not count."""
    assert named_foods(f'<think>{thinking}</think><answer>["rice"]</answer>', NAMES) == foods


@pytest.mark.parametrize(
    "thinking, foods",
    [
        ("它含有豆腐和米饭。", ("豆腐", "米饭")),
        ("不是豆腐。玉米含有淀粉！", ("玉米",)),  # the longest name first: 米 is in 玉米
        ("鉄分はほうれん草です。", ("ほうれん草",)),
        ("철분은 김치를 드세요", ("김치",)),
        ("Add C++, not C; kimchi (spicy)!", ("kimchi (spicy)",)),
        ("C++ or C", ("C++", "C")),
        ("C++x, kimchi (spicy)y: nothing after them", ("C++", "kimchi (spicy)")),
        ("abc++ and xkimchi (spicy) have other beginnings", ()),
        ("the Käses and crème brûlées", ("Käse", "crème brûlée")),
        ("Käsekuchen", ()),
        ("这里有olives和rice吗", ("olives", "rice")),
        ("Bay leaf, a loaf; spring onions and leaves", ("spring_onion", "leaves")),
        ("spring_onion, spring-onion and two loaves", ("spring_onion", "loaf")),
        ("I leave it", ()),
    ],
)
def test_names_of_any_language_are_found(thinking, foods):
    names = ("米", "玉米", "豆腐", "米饭", "ほうれん草", "김치", "C", "C++", "kimchi (spicy)")
    names += ("Käse", "crème brûlée", "olives", "rice", "spring_onion", "leaves", "loaf")
    assert named_foods(f"<think>{thinking}</think>", names) == foods


@pytest.mark.parametrize(
    "text",
    [".", " ", "egg ", "egg.", "鸡蛋", "chicken duck ", "white" + " " * 50, "<look>", "s' "],
)
def test_a_long_text_is_read_at_once(text):
    """Twice the text takes about twice as long, on any processor."""
    text = text * (100_000 // len(text))

    def seconds(text: str) -> float:
        start = time.process_time()
        named_foods(text, FOOD_NAMES)
        return time.process_time() - start

    def least(text: str) -> float:  # another program's turn may cost one of them
        return min(seconds(text) for _ in range(4))

    assert least(text) < 3 * least(text[: len(text) // 2]) + 0.005


@pytest.mark.parametrize("text", ["", "\0", "\ud800", "ſtrawberry", "İ", "orange " * 20_000, "\\"])
def test_named_foods_takes_any_text(text):
    named_foods(text, NAMES)
    assert named_foods(text, ()) == ()
