"""Why a row stands where it stands: a sentence or two, by a person who has read its runs.

Row's name -> sentences about the kitchen. The table prints them under the row's family, and only
where the row has results; what has not been measured has nothing to explain. Numbers named here are
means over the steps of seeds 0 and 1, from their logs.
"""

from __future__ import annotations

_CLIP = "fewer than 3 tokens in 10,000 reach a clip at all, since a rollout serves two updates only"

WHY: dict[str, str] = {
    "grpo-clip-higher": f"No gain: {_CLIP}.",
    "grpo-dynamic-sampling": (
        "No gain: the paper's reward flips with a pixel of a box, so hardly a group (1 in 100) has "
        "equal rewards, and hardly one is replaced."
    ),
    "grpo-no-kl": (
        "No change: at 5e-3 the KL term stays under a thousandth of a point of the reward."
    ),
    "dapo-as-printed": f"Never clipping does no harm: {_CLIP}.",
    "dapo-without-non-repeat": (
        "No change at all: this base never repeats itself, so the term is the same for all of a "
        "group and its advantages are those of DAPO."
    ),
    "dapo-without-iou": (
        "The term that says whether the right thing was boxed; without it points and edges of "
        "boxes are what is left to learn from."
    ),
    "sam-r1": (
        "Level with the paper's reward: a mask above 0.8 IoU earns the same whatever the pixels of "
        "its box, so a little more of what is learnt is which foods were meant, and no more than "
        "the seeds differ."
    ),
    "sam-r1-no-kl": (
        "No collapse within 30 steps, where the paper saw one near step 100 of a longer training."
    ),
    "dr-seg-look": (
        "Harm: the base was taught one prompt, and with a sentence more it reads other clues out "
        "of the question (it names the right foods for a quarter of them). It never writes a "
        "<look>, in no completion of any run, so none was ever paid."
    ),
    "dr-seg": "The look's prompt does the same harm here; the ranks can't make up for it.",
    "dr-seg-ranked": (
        "Behind the thresholds: every completion of a group gets another rank for pixels that do "
        "not matter to the mask, and fewer of the right foods are named."
    ),
    "sd-grpo-segments": (
        "No gain: an answer here has one or two objects and one sentence, so there is little "
        "credit to divide."
    ),
    "grto": (
        "No gain: the kitchen's mask decoder is at its ceiling from the first step (0.91 to 0.96 "
        "IoU over the references that it learns from, with no trend), so nothing is left to learn."
    ),
    "b-grto": "No gain, for the same reason: 40 steps more leave the decoder where it was.",
    "ours": (
        "What is lost against the bound is mostly (six points of ten, for DAPO and SAM-R1) foods "
        "left out of questions that ask for two or three; the base was never taught to name three, "
        "and hardly ever samples it, so no reward can find it."
    ),
}
