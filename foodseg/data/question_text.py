"""What a question must not hold: words that chat models read as marks of their own.

One check for every door by which a question comes in: own data, FoodReasonSeg, `segment`.
"""

from __future__ import annotations

import re

# Qwen's own (<|im_end|>, <|vision_start|>, <|image_pad|> and all others of that form), and the two
# placeholders of LLaVA's family, which stand where a photo is put.
_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:image|video)>")
MARK_FIX = "it has its own meaning to a model; leave it out"


def find_mark(question: str) -> str:
    """The first such mark in a question, "" if there is none."""
    found = _MARK.search(question)
    return found[0] if found else ""
