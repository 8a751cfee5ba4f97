"""FoodReasonSeg conversations to single-turn pairs, with the asked-for FoodSeg103 classes.

The file is a list of `{"dish_id", "conversations": [{"form": "question" | "answer", "value"}]}`;
in an answer an ingredient that has a mask is written `{name} [SEGn]` (FoodLMM, Yin et al. 2023).
FoodLMM's loader skips an item that it can't resolve; here its fault is kept with its turn. As
there, a `{name}` without [SEG] beside one that has it loses its braces and nothing else. Ours is
`"things": []` in an answer: the question asks for an ingredient, and none in the photo answers it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.strict_json import read_json
from foodseg.data.food_names import index_names, name_to_class
from foodseg.data.foodseg103 import EXCLUDED_LABELS, Problem, is_said
from foodseg.data.question_text import MARK_FIX, find_mark

_MARKUP = re.compile(
    r"\{(?P<name>[^{}]*)\}(?:\s*(?P<seg>\[SEG\s*\d*\]))?|(?P<stray>\[SEG\s*\d*\])", re.IGNORECASE
)
_POSSESSIVE = re.compile("['’]s?$")
# In a question it says where FoodLMM's model sees the photo; it is no word of the question.
IMAGE_TOKEN = "<image>"
UNMARKED = "{name} without [SEG]"
END_TOKEN = "</s>"  # Llama's, in some messages; FoodLMM's loader cuts it off


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    problems: why the turn must be left out. notes: faults that it can be kept with.
    """

    index: int  # from 0 within its conversation, turns left out included
    field: str  # where it stands in the file, such as "[3].conversations[5].value"
    question: str
    answer: str  # without markup
    class_ids: tuple[int, ...]  # one for each ingredient, in order of mention; () needs no mask
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    no_target: bool = False  # it asks for an ingredient, and none in the photo answers it

    @property
    def asks(self) -> bool:
        """Whether it asks for an ingredient; other turns are talk, and need no mask."""
        return bool(self.class_ids) or self.no_target


@dataclass(frozen=True)
class Conversation:
    """One entry of the file; `problem` is set if the entry as a whole can't be used."""

    dish_id: str
    field: str
    turns: tuple[Turn, ...]
    problem: Problem | None = None


def read_conversations(path: Path | str, categories: Mapping[int, str]) -> list[Conversation]:
    """All entries of a FoodReasonSeg JSON file, faulty ones included.

    Raises DataError for a file that is missing, not UTF-8, not JSON, or not a list.
    """
    path = Path(path)
    try:
        entries = read_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: the file can't be read ({error}); put it there.") from error
    except ValueError as error:
        raise DataError(f"{path}: broken JSON ({error}); fetch or write it again.") from error
    if not isinstance(entries, list):
        raise DataError(f"{path}: the top level is no list; write a list of conversations.")
    names = index_names(categories)
    return [_parse_entry(path.name, f"[{i}]", entry, names) for i, entry in enumerate(entries)]


def _parse_entry(file: str, field: str, entry: object, names: Mapping[str, int]) -> Conversation:
    items = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(items, list) or not items:
        fix = 'write {"dish_id": ..., "conversations": [...]}'
        problem = Problem(file, field, "wrong shape", fix)
        # Its turns can't be told apart, so it counts as one.
        return Conversation("", field, (Turn(0, field, "", "", (), (problem,)),), problem)
    turns = tuple(_parse_turns(file, f"{field}.conversations", items, names))
    dish_id = entry.get("dish_id")
    if isinstance(dish_id, int) and not isinstance(dish_id, bool):
        dish_id = str(dish_id)
    if isinstance(dish_id, str):
        return Conversation(dish_id, field, turns)
    problem = Problem(file, f"{field}.dish_id", "wrong shape", "write the image's file stem")
    return Conversation("", field, turns, problem)


@dataclass(frozen=True)
class _Message:
    form: str  # "question" or "answer"
    field: str
    text: str
    problem: Problem | None
    no_target: bool = False


def _read_message(file: str, field: str, item: object) -> _Message:
    form = item.get("form") if isinstance(item, dict) else None
    text = item.get("value") if isinstance(item, dict) else None
    if isinstance(text, str):
        text = text.replace(END_TOKEN, "")
    if form == "question" and isinstance(text, str):
        text = text.replace(IMAGE_TOKEN, "")
    if form in ("question", "answer") and is_said(text):
        where, problem = f"{field}.value", None
        if form == "question" and (mark := find_mark(text)):
            problem = Problem(file, where, "a model's own mark", f"{mark}: {MARK_FIX}")
        things = item.get("things") if form == "answer" else None
        if things not in (None, []):
            fix = 'write "things": [] where nothing answers the question, or leave it out'
            problem = problem or Problem(file, f"{field}.things", "wrong shape", fix)
        return _Message(form, where, text.strip(), problem, things == [])
    fix = 'write {"form": "question" or "answer", "value": text}'
    # Of unknown form it stands for an answer, so that the question before it isn't paired wrongly.
    form = "question" if form == "question" else "answer"
    return _Message(form, field, "", Problem(file, field, "wrong shape", fix))


def _parse_turns(file: str, field: str, items: list, names: Mapping[str, int]) -> Iterator[Turn]:
    """Pairs each question with the answer right after it; a message left alone is a fault."""
    messages = [_read_message(file, f"{field}[{i}]", item) for i, item in enumerate(items)]
    index = 0
    while messages:
        if [message.form for message in messages[:2]] == ["question", "answer"]:
            yield _pair_up(file, index, messages.pop(0), messages.pop(0), names)
        else:
            yield _left_alone(file, index, messages.pop(0))
        index += 1


def _left_alone(file: str, index: int, message: _Message) -> Turn:
    asked = message.form == "question"
    reason = "question without an answer" if asked else "answer without a question"
    fix = "let questions and answers take turns"
    problem = message.problem or Problem(file, message.field, reason, fix)
    texts = (message.text, "") if asked else ("", message.text)
    return Turn(index, message.field, *texts, (), (problem,))


def _pair_up(
    file: str, index: int, question: _Message, answer: _Message, names: Mapping[str, int]
) -> Turn:
    problems = [m.problem for m in (question, answer) if m.problem is not None]
    class_ids, faults, unmarked = _parse_markup(answer.text, names)
    problems += [Problem(file, answer.field, reason, fix) for reason, fix in faults]
    notes = tuple(Problem(file, answer.field, UNMARKED, fix) for fix in unmarked)
    if answer.no_target and class_ids:
        fix = 'take its [SEG] out, or "things": []'
        problems.append(Problem(file, answer.field, "[SEG] where nothing answers", fix))
    if not class_ids:  # then no mask is known
        problems, notes = [*problems, *notes], ()
    texts = plain_text(question.text), plain_text(answer.text)
    rest = tuple(problems), notes, answer.no_target
    return Turn(index, answer.field, *texts, tuple(class_ids), *rest)


def plain_text(message: str) -> str:
    """A message without its markup: "The {steak} [SEG1]: it" becomes "The steak: it"."""
    text = _MARKUP.sub(lambda match: match["name"] or "", message)
    return " ".join(text.split())


def _parse_markup(
    answer: str, names: Mapping[str, int]
) -> tuple[Iterable[int], Iterable[tuple[str, str]], Iterable[str]]:
    """The classes named with a [SEG], the faults as (reason, fix), what a {name} without [SEG]
    needs; of all each once, in order."""
    class_ids: dict[int, None] = {}
    faults: dict[tuple[str, str], None] = {}
    unmarked: dict[str, None] = {}
    # An answer may name one food thousands of times.
    marks = list(dict.fromkeys(_MARKUP.findall(answer)))
    tokens = {token.upper() for _, token, _ in marks} - {"[SEG]"}
    for name in (name for name, token, _ in marks if token):
        class_id, fault = _resolve(name, names)
        if fault:
            faults[fault] = None
        else:
            class_ids[class_id] = None
    for name, _, stray in (mark for mark in marks if not mark[1]):
        # A food or a numbered token that is said again changes no mask.
        if stray and stray.upper() not in tokens:
            faults["[SEG] without a name", f"write {{name}} before {stray}"] = None
        elif not stray and name_to_class(_bare(name), names) not in class_ids:
            unmarked[f"write [SEG1] after {{{name}}}, or take its braces off"] = None
    return class_ids, faults, unmarked


def _bare(name: str) -> str:
    """A name without what a sentence put to it: "steak's", "steak." and "steak," are "steak"."""
    return _POSSESSIVE.sub("", name.strip().rstrip(".,;:!?"))


def _resolve(name: str, names: Mapping[str, int]) -> tuple[int | None, tuple[str, str] | None]:
    if not name.strip():
        return None, ("[SEG] without a name", "write the food's name between the braces")
    class_id = name_to_class(_bare(name), names)
    if class_id is None:
        return None, ("unknown ingredient", f"{name!r} is no FoodSeg103 name; correct it")
    if class_id in EXCLUDED_LABELS:
        return None, ("excluded label", f"{name!r} names no food; take it out of the answer")
    return class_id, None
