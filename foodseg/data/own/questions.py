"""`questions.jsonl` of your own data, as docs/your_own_data.md describes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any
from unicodedata import normalize

from foodseg.common.errors import DataError
from foodseg.common.strict_json import JsonError, read_json
from foodseg.data.foodseg103 import SPLITS, Problem, is_safe_id, is_said
from foodseg.data.question_text import MARK_FIX, find_mark

FILE = "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """One line of the file. What can't be read of it is empty, and stands in `problems`."""

    line: int  # from 1
    split: str  # "train" also where the line doesn't say, so that every line counts in one report
    image: str
    question: str
    answer: str
    things: tuple[str, ...]  # () if nothing in the photo answers it
    sample_id: str  # its own `id`, or "<split>-<image's stem>-<number among its questions>"
    problems: tuple[Problem, ...] = ()

    def problem(self, field: str, reason: str, fix: str) -> Problem:
        """A fault of one of the line's fields."""
        return _problem(self.line, field, reason, fix)


def read_questions(path: Path | str) -> list[Question]:
    """Every line that isn't blank, faulty ones included.

    Raises DataError for a file that is missing, is UTF-16, or has no line at all.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the file can't be read ({error}); put it there.") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: the file is UTF-16; save it as UTF-8.")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    questions = [_parse(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise DataError(f"{path}: there are no questions; write one JSON object a line.")
    return _name_repeats(_number(questions))


def _parse(line: int, data: bytes) -> Question:
    try:
        entry = read_json(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _unreadable(line, "not UTF-8", f"byte {error.start + 1} is wrong; save it as UTF-8")
    except JsonError as error:
        return _unreadable(line, "broken JSON", f"{error}; write one JSON object a line")
    if not isinstance(entry, dict):
        return _unreadable(line, "wrong type", "write one JSON object, {...}")
    values: dict[str, Any] = {name: default for name, (default, _, _) in _FIELDS.items()}
    problems = []
    for name, (default, check, fix) in _FIELDS.items():
        value = entry.get(name, default)
        if value == "" == default:
            continue
        missing = default is None and name not in entry
        if reason := "missing field" if missing else check(value):
            problems.append(_problem(line, name, reason, fix))
        else:
            values[name] = value
    if mark := find_mark(values["question"] or ""):
        problems.append(_problem(line, "question", "a model's own mark", f"{mark}: {MARK_FIX}"))
    for name in sorted(entry.keys() - _FIELDS.keys()):
        fix = f"the fields are {', '.join(FIELDS)}; correct or remove it"
        problems.append(_problem(line, repr(name), "unknown field", fix))
    return Question(
        line=line,
        split=values["split"] or "train",
        # macOS writes an accented letter as two characters, most editors as one.
        image=normalize("NFC", values["image"] or ""),
        question=(values["question"] or "").strip(),
        answer=values["answer"].strip(),
        things=tuple(dict.fromkeys(normalize("NFC", name) for name in values["things"] or ())),
        sample_id=values["id"],
        problems=tuple(problems),
    )


def _text(reason: str = "", fits: Callable[[str], bool] = bool) -> Callable[[Any], str]:
    """A check, which returns the fault's reason, "" if there is none."""
    return lambda value: "wrong type" if not is_said(value) else "" if fits(value) else reason


_check_name = _text("unsafe path", is_safe_id)


def _check_answer(value: Any) -> str:
    return "" if isinstance(value, str) and not value.strip() else _text()(value)


def _check_things(value: Any) -> str:
    if not isinstance(value, list):
        return "wrong type"
    return next(filter(None, map(_check_name, value)), "")


_THINGS_FIX = "write a list of names, without / \\ :, or [] if nothing in the photo answers it"
# Name: default (None: it must be there), check of anything else, fix.
_FIELDS: dict[str, tuple[str | None, Callable[[Any], str], str]] = {
    "image": (None, _check_name, "write the plain name of a file in images"),
    "question": (None, _text(), "write the question as text"),
    "things": (None, _check_things, _THINGS_FIX),
    "split": (None, _text("unknown split", SPLITS.__contains__), 'write "train" or "test"'),
    "answer": ("", _check_answer, "write text, or leave it out"),
    "id": ("", _text("unsafe id", is_safe_id), "write letters and digits"),
}
FIELDS = tuple(_FIELDS)


def _problem(line: int, field: str, reason: str, fix: str) -> Problem:
    return Problem(FILE, f"line {line}, {field}" if field else f"line {line}", reason, fix)


def _unreadable(line: int, reason: str, fix: str) -> Question:
    return Question(line, "train", "", "", "", (), "", (_problem(line, "", reason, fix),))


def _number(questions: list[Question]) -> list[Question]:
    """Ids for those without, by their place among the questions about their image."""
    seen: Counter[str] = Counter()
    numbered = []
    for question in questions:
        about = f"{question.split}-{PurePath(question.image).stem}"
        numbered.append(replace(question, sample_id=question.sample_id or f"{about}-{seen[about]}"))
        seen[about] += 1
    return numbered


def _name_repeats(questions: list[Question]) -> list[Question]:
    """The same with a fault for each id or question that an earlier line has."""
    ids: dict[str, int] = {}
    texts: dict[tuple, int] = {}
    checked = []
    for question in questions:
        problems = list(question.problems)
        # A line of which nothing can be read repeats nothing.
        if question.image:
            asked = (question.split, question.image, question.question, question.things)
            first, line = ids.setdefault(question.sample_id, question.line), question.line
            if first != line:
                fix = f"line {first} has {question.sample_id!r} too; give each question its own"
                problems.append(question.problem("id", "duplicate id", fix))
            first = texts.setdefault(asked, line)
            if first != line and not problems:
                fix = f"line {first} asks the same; remove one of them"
                problems.append(question.problem("question", "duplicate question", fix))
        checked.append(replace(question, problems=tuple(problems)))
    return checked
