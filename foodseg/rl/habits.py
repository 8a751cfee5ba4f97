"""What a completion is like, beside its reward: how its form fails, and its base's habits.

For the log: no reward reads these. A policy under training writes whatever pays, so both functions
take linear time and raise nothing.
"""

from __future__ import annotations

import re
from typing import Any

from foodseg.rl.answers import Answer, parse_json, thinking_of
from foodseg.rl.rewards import non_repeat

FAILURES = (
    "no tags",
    "fence",
    "fence inside",
    "bare dict",
    "incomplete item",
    "prose",
    "unfinished",
    "other",
)
# A habit's name, and the words of a lower-case thought that announce it.
_WORDS = {
    "look": "<look>",
    "tight box": "tight box",
    "centre point": "centre point",
    "labelled points": "point outside",
}
HABITS = ("step by step", *_WORDS, "rambling")


def failure_kind(answer: Answer) -> str:
    """Why SAM2 can't segment from the answer: one of FAILURES; "" if it can.

    Without `<answer>`: "fence" is a closed ``` block, "no tags" a JSON list outside one. Within
    `<answer>...</answer>`: "fence inside" has a fence, "bare dict" one object or several without a
    list's brackets, "incomplete item" a list of which an item lacks its box or its point, or these
    have the wrong count. Either way "prose" has no JSON, and in "unfinished" the thought, fence,
    answer or JSON is not closed.
    """
    if answer.parsed:
        return ""
    _, tagged, body = answer.completion.partition("<answer>")
    if not tagged:
        return _untagged_kind(answer.completion)
    body, closed, _ = body.partition("</answer>")
    return _body_kind(body.strip(), answer.items) if closed else "unfinished"


def _untagged_kind(completion: str) -> str:
    before, thought, after = completion.partition("</think>")
    text = after if thought else before
    if text.count("```") > 1:
        return "fence"
    if "```" in text or text.lstrip().startswith("<think>"):
        return "unfinished"
    return "no tags" if isinstance(_find_json(text), list) else _without_json(text)


def _body_kind(body: str, items: Any) -> str:
    if "```" in body:
        return "fence inside"
    if body.startswith("{") and body.endswith("}"):
        return "bare dict"
    if items is not None:
        return "incomplete item" if isinstance(items, list) and items else "other"
    return _without_json(body)


def _without_json(text: str) -> str:
    if "{" not in text:
        return "prose"
    opened = any(text.count(a) > text.count(b) for a, b in ("[]", "{}"))
    return "unfinished" if opened else "other"


def _find_json(text: str) -> Any:
    """The value from the first object, or the list that it opens, to the last bracket."""
    before, _, _ = text.partition("{")
    before = before.rstrip().removesuffix("[")
    return parse_json(text[len(before) : text.rfind("]") + 1])


def habits(completion: str) -> dict[str, bool]:
    """Which of HABITS the completion shows, read from its thought's words.

    "step by step": a sentence begins with "I see"; "rambling": two sentences of the completion had
    been seen before, as R_rep counts; the others are words.
    """
    thought = thinking_of(completion)
    sentences = re.split(r"[.!?\n>]", thought)
    words = {name: word in thought.lower() for name, word in _WORDS.items()}
    return (
        {"step by step": any(sentence.strip().startswith("I see") for sentence in sentences)}
        | words
        | {"rambling": non_repeat(completion) == 0}
    )
