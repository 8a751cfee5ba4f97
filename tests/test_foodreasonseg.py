"""Reading FoodSeg103's folders and FoodReasonSeg's conversations, with their known quirks."""

import json
import re
import time
from itertools import groupby

import numpy as np
import official_folder
import pytest
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.data.food_names import (
    ALIASES,
    index_names,
    index_spellings,
    name_to_class,
    plain,
    spellings,
    spellings_pattern,
)
from foodseg.data.foodreasonseg import plain_text, read_conversations
from foodseg.data.foodseg103 import CATEGORIES, FaultError, FoodSeg103, is_safe_id, read_categories
from foodseg.data.own.questions import read_questions
from foodseg.segment.answer import check_question

NAMES = index_names(CATEGORIES)


def read(tmp_path, entries):
    path = tmp_path / "FoodReasonSeg_train.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return read_conversations(path, CATEGORIES)


def ask(*turns):
    """An entry from (form letter, text) pairs: "q" a question, "a" an answer."""
    forms = {"q": "question", "a": "answer"}
    items = [{"form": forms[letter], "value": text} for letter, text in turns]
    return {"dish_id": "00000001", "conversations": items}


def answer(tmp_path, text):
    ((turn,),) = [one.turns for one in read(tmp_path, [ask(("q", "Which?"), ("a", text))])]
    return turn


def test_official_names():
    assert list(CATEGORIES) == list(range(104)) and len(set(CATEGORIES.values())) == 104
    some = {0: "background", 48: "chicken duck", 96: "French beans", 103: "other ingredients"}
    assert CATEGORIES | some == CATEGORIES


def test_every_official_name_means_its_own_class():
    for class_id, name in CATEGORIES.items():
        for written in (name, name.lower(), name.upper(), f" {name} ", name.replace(" ", "-")):
            assert name_to_class(written, NAMES) == class_id
        assert name_to_class(f"{name}s", NAMES) == class_id
        assert {NAMES[form] for form in index_names({class_id: name})} == {class_id}


@pytest.mark.parametrize(
    ("meant", "spellings"),
    [
        ("carrot", ["carrots"]),
        ("tomato", ["Tomatoes"]),
        ("strawberry", ["strawberries"]),
        ("blueberry", ["blueberries"]),
        ("cherry", ["cherries"]),
        ("peach", ["peaches"]),
        ("white radish", ["white radishes"]),
        ("pie", ["pies"]),
        ("olives", ["olive"]),
        ("french fries", ["french fry"]),
        ("French beans", ["french beans"]),
        ("green beans", ["green bean"]),
        ("white button mushroom", ["white button mushrooms", "White_Button_Mushroom"]),
        ("mango", ["mangoes", "mangos"]),
        ("chicken duck", ["duck", "Chickens", "chicken/duck"]),
        ("cheese butter", ["cheese"]),
        ("cilantro mint", ["mint"]),
        ("wonton dumplings", ["dumplings"]),
        ("asparagus", ["asparagus"]),
    ],
)
def test_written_names(meant, spellings):
    for written in spellings:
        assert CATEGORIES[name_to_class(written, NAMES)] == meant


@pytest.mark.parametrize("written", ["unicorn", "", "s", "es", "mushroom", "beans", "carrot cake"])
def test_names_that_mean_no_class(written):
    assert name_to_class(written, NAMES) is None


def stripped(name: str) -> list[str]:
    """The forms that a name had for the reader before it shared the evaluation's rule."""
    ends = (("s", ""), ("es", ""), ("ies", "y"))
    forms = [name[: -len(end)] + new for end, new in ends if name.endswith(end)]
    return [name] + [form for form in forms if len(form) > 2]


def test_every_spelling_means_what_it_did_by_the_two_rules_of_before():
    index: dict[str, int] = {}
    for class_id, name in CATEGORIES.items():
        for form in stripped(name.lower()):
            index.setdefault(form, class_id)
    index |= {alias: index[name] for alias, name in ALIASES.items()}
    words = [word for name in (*CATEGORIES.values(), *ALIASES) for word in spellings(name.lower())]
    for word in words:
        assert name_to_class(word, NAMES) == next(index[f] for f in stripped(word) if f in index)
    name_of = index_spellings(CATEGORIES.values())
    longest_first = "|".join(sorted(name_of, key=len, reverse=True))
    before = re.compile(rf"\b(?:{longest_first})\b")
    for between in (" ", ", ", "-", "/", "x", "_", "(", "'s ", "1", "é"):
        text = between.join(words)
        now = spellings_pattern(name_of).findall(text)
        # "cheese-butter" is one name now, and was two for one food.
        assert [food for food, _ in groupby(name_of[plain(word)] for word in now)] == (
            [food for food, _ in groupby(name_of[word] for word in before.findall(text))]
        )


def test_a_class_of_its_own_is_no_other_ones_plural():
    names = index_names({1: "Beans", 2: "bean", 3: "pea", 4: "豆腐", 5: "C++", 6: "kimchi (spicy)"})
    for written, meant in (("beans", 1), ("bean", 2), ("peas", 3), ("豆腐", 4), ("c++", 5)):
        assert name_to_class(written, names) == meant
    assert name_to_class("Kimchi_(spicy)", names) == 6


def test_conversations_become_pairs(tmp_path):
    entry = ask(
        ("q", "<image>Why  the {rice} [SEG1]?"),
        ("a", "The {steak} [SEG1], and {duck} [SEG2]."),
        ("q", "Thanks! How to serve it?"),
        ("a", "Warm."),
    )
    (conversation,) = read(tmp_path, [entry])
    first, second = conversation.turns
    assert (first.index, first.question) == (0, "Why the rice?")  # without markup
    assert first.answer == "The steak, and duck."
    assert first.class_ids == (46, 48)
    assert first.field == "[0].conversations[1].value"
    assert (second.index, second.class_ids, second.problems) == (1, (), ())


@pytest.mark.parametrize(
    ("text", "class_ids", "plain"),
    [
        ("{carrots}[SEG]", (84,), "carrots"),
        ("{Carrot}  [seg1] it is", (84,), "Carrot it is"),
        ("{chicken} [SEG1] or {duck} [SEG2]", (48,), "chicken or duck"),
        ("{rice} [SEG1]; yes, {rice} [SEG1]", (66,), "rice; yes, rice"),
        ("{rice} [SEG1]; yes, {rice}", (66,), "rice; yes, rice"),
        ("{rice} [SEG1]; [SEG1] has starch", (66,), "rice; has starch"),
        ("{corn} [SEG2] and {rice} [SEG1]", (59, 66), "corn and rice"),
        ("The {steak's} [SEG1] crust", (46,), "The steak's crust"),
        (
            "The {steak’s} [SEG1] and the {carrots'} [SEG2]",
            (46, 84),
            "The steak’s and the carrots'",
        ),
        ("It is {steak.} [SEG1]", (46,), "It is steak."),
    ],
)
def test_markup_that_is_understood(tmp_path, text, class_ids, plain):
    turn = answer(tmp_path, text)
    assert (turn.class_ids, turn.problems, turn.answer) == (class_ids, (), plain)
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("text", "reason", "named"),
    [
        ("The {unicorn} [SEG1].", "unknown ingredient", "unicorn"),
        ("The {rice} [SEG1] and the {unicorn} [SEG2].", "unknown ingredient", "unicorn"),
        ("The [SEG1] is rich.", "[SEG] without a name", "[SEG1]"),
        ("{rice} [SEG] and [SEG]", "[SEG] without a name", "[SEG]"),
        ("{} [SEG1]", "[SEG] without a name", "braces"),
        ("The {rice} is rich.", "{name} without [SEG]", "{rice}"),
        ("{background} [SEG1]", "excluded label", "background"),
        ("{Other ingredients} [SEG1]", "excluded label", "Other ingredients"),
    ],
)
def test_markup_faults(tmp_path, text, reason, named):
    (problem,) = answer(tmp_path, text).problems
    assert problem.reason == reason
    assert problem.file == "FoodReasonSeg_train.json"
    assert problem.field == "[0].conversations[1].value"
    assert named in problem.fix


def test_a_name_without_seg_beside_one_with_it_loses_its_braces_only(tmp_path):
    """As in FoodLMM's loader; a fault that is said twice is one."""
    turn = answer(tmp_path, "{corn} [SEG1], {rice}, {unicorn} and {rice}")
    assert (turn.class_ids, turn.answer) == ((59,), "corn, rice, unicorn and rice")
    assert turn.problems == () and {note.reason for note in turn.notes} == {"{name} without [SEG]"}
    assert ["{rice}" in note.fix for note in turn.notes] == [True, False]
    both = answer(tmp_path, "{corn} [SEG1], {rice} and {unicorn} [SEG2]")
    assert [problem.reason for problem in both.problems] == ["unknown ingredient"]


@pytest.mark.parametrize("text", ["{}", "{rice} [SEG1] ", "{a} [SEG]", "[SEG1]", "{", "{ ", " "])
def test_a_long_answer_is_read_at_once(tmp_path, text):
    """The markup of 100,000 characters took 131 ms of one core where it is 40 now."""
    text = "{rice} [SEG1]" + text * (100_000 // len(text))
    start = time.process_time()
    answer(tmp_path, text)
    assert time.process_time() - start < 0.5


def test_the_end_token_of_another_model_is_cut_off(tmp_path):
    entry = ask(("q", "Which is it?</s>"), ("a", "The {steak} [SEG1].</s>"))
    (turn,) = read(tmp_path, [entry])[0].turns
    assert (turn.question, turn.answer, turn.problems) == ("Which is it?", "The steak.", ())


@pytest.mark.parametrize("mark", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<video>"])
def test_a_question_with_a_models_own_mark_is_left_out_by_every_door(tmp_path, mark):
    """It would be read as a mark: training died with a bare StopIteration of it."""
    entry = ask(("q", f"Which {mark} is it?"), ("a", "The {steak} [SEG1]."))
    (turn,) = read(tmp_path, [entry])[0].turns
    (problem,) = turn.problems
    assert (problem.field, problem.reason) == ("[0].conversations[0].value", "a model's own mark")
    assert problem.fix.startswith(f"{mark}: it has its own meaning")
    own = {"image": "a.jpg", "question": f"Which {mark}?", "things": ["egg"], "split": "test"}
    (tmp_path / "q.jsonl").write_text(json.dumps(own))
    (question,) = read_questions(tmp_path / "q.jsonl")
    assert [(p.field, p.reason) for p in question.problems] == [
        ("line 1, question", problem.reason)
    ]
    with pytest.raises(DataError, match="question: .* has its own meaning to a model"):
        check_question(f"Which {mark}?")
    assert check_question("Is 1 < 2 |> or |< 3?")


def test_messages_that_find_no_partner(tmp_path):
    entry = ask(("a", "hello"), ("q", "one?"), ("q", "two?"), ("a", "{rice} [SEG1]"), ("q", "end?"))
    (conversation,) = read(tmp_path, [entry])
    lonely, unanswered = ["answer without a question"], ["question without an answer"]
    reasons = [[problem.reason for problem in turn.problems] for turn in conversation.turns]
    assert reasons == [lonely, unanswered, [], unanswered]
    assert [turn.index for turn in conversation.turns] == [0, 1, 2, 3]
    assert conversation.turns[2].question == "two?"
    assert conversation.turns[3].problems[0].field == "[0].conversations[4].value"


@pytest.mark.parametrize(
    "item",
    [
        "text",
        None,
        {"form": "answer"},
        {"form": "answer", "value": 3},
        {"form": "answer", "value": " "},
        {"form": "answer", "value": "\ud800"},
        {"form": "reply", "value": "{rice} [SEG1]"},
        {"value": "{rice} [SEG1]"},
    ],
)
def test_a_malformed_message_spoils_its_turn_only(tmp_path, item):
    entry = ask(("q", "one?"), ("a", "x"), ("q", "two?"), ("a", "{rice} [SEG1]"))
    entry["conversations"][1] = item
    (conversation,) = read(tmp_path, [entry])
    bad, good = conversation.turns
    (problem,) = bad.problems
    assert (problem.reason, problem.field) == ("wrong shape", "[0].conversations[1]")
    assert good.class_ids == (66,) and not good.problems


TALK = [{"form": "question", "value": "?"}]


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        *((entry, "[1]") for entry in (3, {}, {"dish_id": "1"})),
        *(({"dish_id": "1", "conversations": talk}, "[1]") for talk in ({}, [])),
        ({"conversations": TALK}, "[1].dish_id"),
        *(({"dish_id": dish, "conversations": TALK}, "[1].dish_id") for dish in (True, None)),
    ],
)
def test_entries_of_wrong_shape(tmp_path, entry, field):
    good, bad = read(tmp_path, [ask(("q", "?"), ("a", "no")), entry])
    assert good.problem is None
    assert (bad.problem.reason, bad.problem.field) == ("wrong shape", field)
    assert len(bad.turns) == 1  # it is counted


BROKEN = ["", "[", "{'a': 1}", "[" * 100_000, "[1" + "0" * 5000 + "]", '[{"a": 1} {"b": 2}]']
BROKEN += ['[{"a": 1}', '[{"a": 1},]', "[1, 2", "[] []", "[1] x", "{}}"]


@pytest.mark.parametrize("text", BROKEN)
def test_broken_json_names_the_file(tmp_path, text):
    with pytest.raises(DataError, match="FoodReasonSeg_train.json: broken JSON"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["[]", " [ ]\r\n", '\n[ {"dish_id": "1"} ,\t5 ]\n'])
def test_every_entry_is_read_whatever_stands_around_it(tmp_path, text):
    assert len(read(tmp_path, text)) == len(json.loads(text))


def test_other_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="top level is no list"):
        read(tmp_path, {"data": []})
    (tmp_path / "latin.json").write_bytes('["é"]'.encode("latin-1"))
    for name, words in (("none.json", "can't be read"), ("latin.json", "broken JSON")):
        with pytest.raises(DataError, match=words):
            read_conversations(tmp_path / name, CATEGORIES)


def test_category_list_with_windows_line_ends_and_mark(tmp_path):
    path = tmp_path / "category_id.txt"
    path.write_bytes("\ufeff0\tbackground\r\n1\tcandy\r\n\r\n2\tegg tart".encode())
    assert read_categories(path) == {0: "background", 1: "candy", 2: "egg tart"}
    for text in ("candy", "1 candy", "x\tcandy", "1\t", "1\ta\n1\tb", "-1\ta"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"category_id.txt, line \d"):
            read_categories(path)


def make_folders(root):
    folder = official_folder.Folder(root)
    (root / "Images/img_dir/test").rmdir()
    Image.new("RGB", (6, 4), "orange").save(folder.photo("0007"))
    return FoodSeg103(root)


def test_images_are_found_by_stem_and_by_padded_number(tmp_path):
    reader = make_folders(tmp_path)
    assert reader.dish_ids("train") == ["0007"]
    assert reader.resolve_id("train", "0007") == reader.resolve_id("train", "7") == "0007"
    assert reader.image_path("train", "00007").name == "0007.jpg"
    assert reader.read_image("train", "7").size == (6, 4)
    with pytest.raises(FaultError, match="missing image"):
        reader.image_path("train", "8")
    with pytest.raises(FaultError, match="missing mask"):
        reader.read_mask("train", "7")
    with pytest.raises(DataError, match="img_dir/test"):
        reader.dish_ids("test")
    with pytest.raises(DataError, match="Images/img_dir is missing"):
        FoodSeg103(tmp_path / "elsewhere")


UNSAFE = ["../x", "/etc/passwd", "..\\x", "a/b", "C:x", "..", ".", "", ".hidden", "a\0b"]
UNSAFE += [" 7", "7\n"]


@pytest.mark.parametrize("dish_id", UNSAFE)
def test_unsafe_ids(tmp_path, dish_id):
    assert not is_safe_id(dish_id) and is_safe_id("00000007") and is_safe_id("my plate-2.b")
    with pytest.raises(FaultError, match="unsafe dish_id"):
        make_folders(tmp_path).image_path("train", dish_id)


def test_links_out_of_the_folder_are_refused(tmp_path):
    reader = make_folders(tmp_path)
    folder = tmp_path / "Images/img_dir/train"
    Image.new("RGB", (6, 4)).save(tmp_path / "secret.jpg")
    places = {"out": tmp_path / "secret.jpg", "within": folder / "0007.jpg", "broken": folder / "x"}
    for name, place in places.items():
        (folder / f"{name}.jpg").symlink_to(place)
    assert reader.image_path("train", "within").name == "within.jpg"
    for name, words in (("out", "unsafe dish_id"), ("broken", "missing image")):
        with pytest.raises(FaultError, match=words):
            reader.image_path("train", name)


def test_masks_are_read_as_class_ids(tmp_path):
    reader = make_folders(tmp_path)
    path = tmp_path / "Images/ann_dir/train/0007.png"
    ids = np.array([[0, 1, 84], [103, 255, 96]], dtype=np.uint8)
    grey, palette = Image.fromarray(ids), Image.fromarray(ids)
    palette.putpalette([(7 * value) % 256 for value in range(768)])
    assert palette.mode == "P"
    wide = Image.fromarray(ids.astype(np.uint16))
    for image in (grey, palette, wide, grey.convert("RGB"), grey.convert("LA")):
        image.save(path)
        mask = reader.read_mask("train", "0007")
        assert mask.dtype == np.uint8 and (mask == ids).all()
    large = Image.fromarray(ids.astype("uint16") + 256)
    clear = Image.merge("LA", (grey, grey))
    for image, kind, words in (
        (large, "PNG", "no class ids; it has values up to 511"),
        (Image.fromarray(ids > 1), "PNG", "no class ids; it has one bit a pixel"),
        (palette.convert("RGB"), "PNG", "coloured pixels"),
        (clear, "PNG", "transparent pixels"),
        (grey, "JPEG", "JPEG under a PNG's name"),  # its ids would be blurred
    ):
        image.save(path, kind)
        with pytest.raises(FaultError, match=words):
            reader.read_mask("train", "0007")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FaultError, match="unreadable mask"):
        reader.read_mask("train", "0007")
