"""One reader of JSON for every file that comes from elsewhere."""

import json
import math

import pytest

from foodseg.common.errors import DataError
from foodseg.common.files import read_lines
from foodseg.common.strict_json import JsonError, read_json
from foodseg.data.foodreasonseg import read_conversations
from foodseg.data.own.questions import read_questions
from foodseg.evaluation.external.masks import find_masks


@pytest.mark.parametrize(
    "text, why",
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        ('[{"x": {"b": 1, "b": 1}}]', "the key 'b' stands there twice"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[" * 100_000, "it nests too deeply"),
        ("[" + "9" * 5000 + "]", "digits"),
        ('{"a": }', "Expecting value at column 7"),
        ('[1,\n 2,\n x]', "Expecting value at line 3, column 2"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(text, why):
    with pytest.raises(JsonError) as error:
        read_json(text)
    assert why in str(error.value)


def test_all_else_is_what_python_reads():
    value = {"a": [1, 2.5, -3e2, True, None, "\u2028"], "b": {"a": {}}}
    assert read_json(json.dumps(value)) == read_json(json.dumps(value, ensure_ascii=False)) == value
    assert math.isclose(read_json("1e308"), 1e308)


@pytest.mark.parametrize("name", ["questions.jsonl", "predictions.jsonl", "log.jsonl"])
def test_a_line_ends_at_a_line_feed_alone(tmp_path, name):
    """U+2028, U+0085 and a form feed may stand in a text, raw; to `splitlines` they end a line."""
    file = tmp_path / name
    words = "a\u2028b\u0085c"
    if name == "questions.jsonl":
        line = {"image": "a.jpg", "question": words, "things": ["egg"], "split": "test"}
        file.write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
        (question,) = read_questions(file)
        assert question.problems == () and question.question == words
    elif name == "log.jsonl":  # what the kit reads back of its own
        file.write_text(json.dumps({"text": words}, ensure_ascii=False) + "\n", encoding="utf-8")
        assert read_lines(file) == [{"text": words}]
    else:
        line = {"sample_id": words, "segmentation": {"size": [1, 1], "counts": [1]}}
        file.write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
        assert list(find_masks(file).entries) == [words]


def test_a_key_twice_is_named_wherever_it_comes_from(tmp_path):
    questions, others, talk = (tmp_path / n for n in ("q.jsonl", "predictions.json", "t.json"))
    questions.write_text('{"image": "a.jpg", "image": "b.jpg"}')
    (problem,) = read_questions(questions)[0].problems
    assert "the key 'image' stands there twice; write one JSON object a line" in str(problem)
    others.write_text('{"a": {}, "a": {}}')
    talk.write_text('[{"dish_id": 1, "dish_id": 2}]')
    for read, file in ((find_masks, others), (lambda path: read_conversations(path, {}), talk)):
        with pytest.raises(DataError, match=r"broken JSON \(the key .* stands there twice\)"):
            read(file)
