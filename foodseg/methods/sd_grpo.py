"""SD-GRPO: an advantage for each part of a completion instead of one for the whole.

We know its abstract alone. Published: a response is split into segments that can be verified one by
one; each segment's reward is standardised across the group of GRPO; gains grow with the number of
segments where these are independent; where they share context, to blend holistic and per-segment
*rewards* does best. It was also put into Dr. GRPO, to show that it fits.

What follows is our reading. A blend of rewards is (1 - weight) R / R_most + weight r_k / r_most,
each as a share of the most that it can be, standardised for each segment k. To blend the
advantages instead, (1 - weight) A_holistic + weight A_segment, is ours, for comparison; at weight 1
both are the same. A segment is an object of the answer. All else is shared context and keeps the
holistic advantage at every weight: the thinking, which chooses every object and which no reward
verifies by itself; tags, brackets, commas and white space between objects; the end token; an
answer that SAM2 could not use.

- An object earns the IoU, L1 and L2 terms (0 to 3) of the true object that the paper's assignment
  pairs it with. A = (r - mean) / (std + epsilon) runs over what the group's G completions earned
  for that *true* object, so their objects may come in any order. One that meets no criterion is
  paired arbitrarily with an unmatched true object; its reward is 0.
- A true object that a completion leaves out counts as 0 in that statistic. Otherwise the only one
  of G completions to find an object would be compared with itself and learn nothing from it. The
  omission has no tokens; it costs its completion holistic advantage only.
- An object too many, which is paired with none, earns 0. It is compared with the completions that
  named none too many, which count as 1; an answer that SAM2 can't use takes no part in that.

Dr. GRPO does not divide by the std; SD-GRPO's advantages are z-scores, so we divide there too.
Dr. GRPO's constant divisor of the loss is a matter of the recipe's objective.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from foodseg.data.references import Reference
from foodseg.rl.advantages import group_advantages, whole_completion
from foodseg.rl.answers import Answer, parse_answer
from foodseg.rl.rewards import match_answer
from foodseg.rl.thresholds import RewardThresholds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from foodseg.rl.groups import Group

SHARED = -1  # besides 0, 1, ...: the answer's objects
MOST, MOST_FOUND = 7.0, 3.0  # that a completion and an object can earn
NO_OBJECT = -1  # in `SegmentRewards.stands_for`: an object too many

Span = tuple[int, int]  # of characters, (start, end)


@dataclass(frozen=True, eq=False)
class SegmentRewards:
    """What the objects of one completion earned.

    found: (N,) float64, 0 to 3, for each true object, 0 where it was left out.
    stands_for: (M,) int, the true object paired with each of the answer's, or NO_OBJECT.
    """

    found: np.ndarray
    stands_for: np.ndarray


def segmented(
    groups: Sequence[Group],
    tokenizer: PreTrainedTokenizerBase,
    *,
    weight: float,
    of: Literal["rewards", "advantages"] = "rewards",
) -> list[list[np.ndarray]]:
    """SD-GRPO's rule as a recipe's `advantages`: for each completion float64 (L_i,), all finite.

    weight: the segments' own part in the blend, 0 to 1. of: what is blended; rewards as shares of
    the most, which is the paper's 7 points for a whole completion. Raises ValueError for another
    weight.
    """
    advantages = []
    for group, whole in zip(groups, whole_completion(groups, tokenizer), strict=True):
        rewards = [segment_rewards(e.answer, e.references, e.thresholds) for e in group.evidence]
        places = [token_segments(tokens.tolist(), tokenizer) for tokens in group.rollout.tokens]
        holistic = np.array(group.rewards) / MOST if of == "rewards" else None
        advantages.append(blend(whole, rewards, places, weight, holistic))
    return advantages


def blend(
    holistic_advantages: Sequence[float],
    rewards: Sequence[SegmentRewards],
    segments: Sequence[np.ndarray],
    weight: float,
    holistic_rewards: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The advantage of every token of a group's G completions: G arrays, float64 (L_i,).

    holistic_advantages: (G,); segments: G arrays of `token_segments`. holistic_rewards: (G,), as
    shares of the most, to blend with the segments' rewards; None to blend the advantages.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: {weight} is no share; give a number from 0 to 1.")
    in_rewards = holistic_rewards is not None
    objects = segment_advantages(rewards, holistic_rewards, weight if in_rewards else 1.0)
    blended = []
    for whole, named, places in zip(holistic_advantages, objects, segments, strict=True):
        mixed = named if in_rewards else (1 - weight) * whole + weight * named
        blended.append(np.append(mixed, whole)[places])  # SHARED is the last place
    return blended


def segment_advantages(
    rewards: Sequence[SegmentRewards], holistic: np.ndarray | None = None, weight: float = 1.0
) -> list[np.ndarray]:
    """The z-scores of a group's objects: G arrays (M_i,), of those each completion names.

    holistic: (G,), each completion's reward as a share of the most, of which every segment's reward
    has a part of 1 - weight; None for none. Exactly 0 where all that is compared earned the same.
    """
    shared = 0.0 if holistic is None else (1 - weight) * holistic[:, None]
    # One more column, the last, where NO_OBJECT points to.
    own = [[*(one.found / MOST_FOUND), _none_too_many(one)] for one in rewards]
    objects = np.stack(group_advantages((shared + weight * np.array(own)).T), axis=1)
    return [row[one.stands_for] for row, one in zip(objects, rewards, strict=True)]


def _none_too_many(rewards: SegmentRewards) -> float:
    if not rewards.stands_for.size:
        return np.nan
    return float((rewards.stands_for != NO_OBJECT).all())


def segment_rewards(
    answer: Answer, references: Sequence[Reference], thresholds: RewardThresholds
) -> SegmentRewards:
    """What each object of a completion earned; references and thresholds in model-image pixels.

    An answer that SAM2 can't use names no objects: it found none of the true ones.
    """
    found = np.zeros(len(references))
    stands_for = np.full(len(answer.objects), NO_OBJECT)
    if answer.parsed:
        matching = match_answer(answer, references, thresholds)
        named, true = matching.pairs.T
        stands_for[named], found[true] = true, matching.terms.sum(1)
    return SegmentRewards(found, stands_for)


def token_segments(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """(L,) int: the segment of each token; k for `Answer.objects[k]`, or SHARED.

    A token belongs to a segment if *all* its bytes do. One that reaches over a boundary decides
    more than its segment is judged by: in `]},` that another object follows, in `]}]</` that none
    does. Only the holistic reward answers for both sides. No coordinate is ever in such a token,
    since Qwen's tokenizer gives every digit its own. Tokens without text (the end token, special
    tokens anywhere) are shared.
    """
    pieces = token_bytes(tokens, tokenizer)
    owners = _byte_segments(b"".join(pieces))
    ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
    segments = np.full(len(pieces), SHARED)
    for index, (piece, end) in enumerate(zip(pieces, ends, strict=True)):
        inside = owners[end - len(piece) : end]
        if len(inside) and (inside == inside[0]).all():
            segments[index] = inside[0]
    return segments


def token_bytes(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """What each token of a byte-level BPE adds to the text, as UTF-8.

    Joined and decoded, with U+FFFD for what is not UTF-8, they are `tokenizer.decode` without
    special tokens. Special tokens and ids beyond the vocabulary add nothing.
    """
    special = {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}
    names = tokenizer.convert_ids_to_tokens(list(tokens))
    return [
        b"" if name is None or token in special else _bytes_of(name)
        for token, name in zip(tokens, names, strict=True)
    ]


def _bytes_of(name: str) -> bytes:
    """A token's bytes; an added token that isn't written in the byte alphabet stands for itself."""
    alphabet = _byte_alphabet()
    if all(character in alphabet for character in name):
        return bytes(alphabet[character] for character in name)
    return name.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: a printable byte is its Latin-1 character, the others are numbered from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


def _byte_segments(completion: bytes) -> np.ndarray:
    """(bytes,) int: the segment of each byte."""
    # Bytes that are no UTF-8 become one character each, so that widths add up. Like the U+FFFD of
    # the decoded completion, they are neither white space nor part of JSON's grammar.
    text = completion.decode("utf-8", "surrogateescape")
    owners = np.full(len(text), SHARED)
    for index, (start, end) in enumerate(object_spans(text)):
        owners[start:end] = index
    widths = [len(character.encode("utf-8", "surrogateescape")) for character in text]
    return np.repeat(owners, np.array(widths, dtype=int))


def object_spans(completion: str) -> list[Span]:
    """Where the objects of `Answer.objects` stand, each from `{` to `}`; linear in time."""
    if not parse_answer(completion).parsed:
        return []
    spans, depth, start = [], 0, 0
    # It is JSON, so brackets pair up and strings, whose brackets are none, are closed.
    structure = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
    for token in structure.finditer(completion, completion.find("<answer>")):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth == 2 and token[0] == "{":
            start = token.start()
        elif depth == 1 and token[0] == "}":
            spans.append((start, token.end()))
        elif depth == 0 and token[0] == "]":
            break
    return spans
