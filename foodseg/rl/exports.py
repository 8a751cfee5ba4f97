"""Our rewards for other trainers: TRL's `reward_funcs` and verl's `compute_score`.

Both hand a reward the data set's own columns. Give a row of yours two of them, both plain text:
`ground_truth` by the function of that name, and the prompt by `models.prompts.build_messages`,
with the photo resized to `side` x `side` as `Mllm.resize` does it. TRL then takes

    GRPOTrainer(..., reward_funcs=PAPER_REWARD_FUNCTIONS)  # one a term, so each has its curve

and verl

    custom_reward_function.path=.../foodseg/rl/exports.py custom_reward_function.name=compute_score

Terms that ask for SAM2's masks can't be had this way: neither trainer has a place for SAM2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.rl.evidence import (
    PAPER_REWARD,
    Evidence,
    Term,
    award,
    gather_evidence,
    term_name,
    total,
)

# A completion as TRL hands it over: its text, or a conversation of one message.
Completion = str | Sequence[dict]


def ground_truth(sample: Sample, side: int) -> str:
    """What a reward needs of a sample, for a model image of `side` pixels, as one text column."""
    return json.dumps({"sample": asdict(sample), "side": side})


def trl_reward(term: Term) -> Callable[..., list[float]]:
    """A term as one of TRL's `reward_funcs`; TRL names its curve after the term.

    The function takes TRL's keywords, of which it reads `completions`, a list of texts or of
    one-message conversations, and the column `ground_truth`; it returns the points of each.
    """

    def reward(completions: Sequence[Completion], ground_truth: Sequence[str], **_) -> list[float]:
        pairs = zip(completions, ground_truth, strict=True)
        return [float(term(_evidence(_text(c), truth))) for c, truth in pairs]

    reward.__name__ = term_name(term)
    return reward


# The paper's R is their sum, which is what TRL makes of several functions by default.
PAPER_REWARD_FUNCTIONS = [trl_reward(term) for term in PAPER_REWARD]


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None
) -> dict[str, float]:
    """The paper's R of one completion in verl's convention: `score`, and each term's points.

    Of verl's arguments `solution_str`, the completion's text, and `ground_truth` are read.
    """
    points = award(PAPER_REWARD, _evidence(solution_str, ground_truth))
    return {"score": total(points)} | points


def _evidence(text: str, truth: str) -> Evidence:
    written = json.loads(truth)
    sample = written["sample"]
    references = tuple(Reference(tuple(r["box"]), tuple(r["point"])) for r in sample["references"])
    lists = {name: tuple(sample[name]) for name in ("foods", "reference_foods", "masks")}
    sample = Sample(**sample | lists | {"references": references})
    [evidence] = gather_evidence(sample, [text], written["side"], nothing=sample.no_target)
    return evidence


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]
