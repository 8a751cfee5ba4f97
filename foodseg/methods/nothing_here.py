"""“Nothing here” as an answer: `[]` where nothing in the photo answers the question. Ours.

FoodReasonSeg has no such question, and a policy that always points at something answers each of
them wrongly. A recipe with `nothing` reads `[]` as an answer: it earns the whole accuracy where
nothing is asked for and none where something is, objects earn none where nothing is, and formats
and non-repeat are paid as ever, so `[]` gets nothing of the segmentation format. An answer that is
always `[]` then earns little (`tests/test_nothing_here.py` has it by hand).

A base that has never written `[]` can't be paid for it. As in ViSurf, the true answer then joins
the group as one more rollout, here of these questions alone: where the foods are, and how an answer
is written, is learnt from rewards as before.
"""

from __future__ import annotations

from foodseg.data.samples import Sample
from foodseg.methods.visurf import told_answer
from foodseg.models.prompts import ITEMS, replace_parts


def nothing_prompt(template: str) -> str:
    """The template with what to answer if no food fits, behind the answer's example."""
    example = f"<answer>[{ITEMS}]</answer>"
    return replace_parts(
        template, (example, f"{example}\nIf no food here fits, write <answer>[]</answer>.")
    )


def told_nothing(sample: Sample, side: int) -> str:
    """`[]` after the data's own words, where nothing answers the question; else no completion."""
    return told_answer(sample, side) if sample.no_target else ""
