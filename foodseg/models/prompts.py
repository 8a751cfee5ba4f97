"""The question put to the model, as chat messages.

Three wordings: `KITCHEN` is short, for the tiny embedded model; `PAPER` asks the 3B model for what
Seg-Zero's and VisionReasoner's prompts ask for (comparison, thinking, JSON with boxes and points,
one example), in our own words; `PARENTS` also keeps the form of theirs, for a second base row.
Coordinates are pixels of the model image. Methods with a prompt of their own put other text in
place of `THINK`, `THOUGHT` or `ITEMS`.
"""

from __future__ import annotations

KITCHEN = "{question} Think, then answer in JSON."

THINK = "First write your reasoning between <think> and </think>."
THOUGHT = "your reasoning"
PLACE = "one point inside it"
ITEMS = (
    '{{"bbox_2d": [10, 100, 200, 210], "point_2d": [30, 110]}}, '
    '{{"bbox_2d": [225, 296, 706, 786], "point_2d": [302, 410]}}'
)
PAPER = (
    'Question about this photo: "{question}"\n'
    "Find every food that answers it. Compare the foods in the picture with each other and with "
    f"the question, and locate each one that fits by a tight bounding box and {PLACE}. "
    f"{THINK} Then write between <answer> and "
    "</answer> nothing but a JSON list with one object for each food, in pixels of this image, "
    "for example:\n"
    f"<think>{THOUGHT}</think>\n"
    f"<answer>[{ITEMS}]</answer>"
)

# VisionReasoner's form: the question as what is to be found, then the tags, then the example.
PARENTS = (
    'Find "{question}" by boxes and points. Look at how the objects differ, and pick those that '
    "match best. Put the reasoning into <think> </think> tags and the result into <answer> "
    "</answer> tags, as JSON with each object's box and a point within it, that is:\n"
    f"<think> your reasoning here </think>\n<answer>[{ITEMS}]</answer>"
)


def build_messages(question: str, template: str) -> list[dict]:
    """One user turn in the chat format of `transformers`: the image, then the worded question.

    `template` holds `{question}` once; literal braces are doubled (`str.format`).
    """
    text = template.format(question=question)
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def replace_parts(template: str, *changes: tuple[str, str]) -> str:
    """A template with each (part, other text) exchanged.

    `KITCHEN` describes no answer, and its base was taught no other prompt: it stays as it is.
    Raises ValueError for another template that lacks a part.
    """
    if template == KITCHEN:
        return template
    for part, other in changes:
        if part not in template:
            raise ValueError(
                f"prompt_template: it lacks {part!r}, which this recipe replaces; keep that text."
            )
        template = template.replace(part, other)
    return template
