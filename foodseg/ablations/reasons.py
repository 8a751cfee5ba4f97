"""Why a row stands where it stands: a sentence or two, by a person who has read its runs.

Row's name -> sentences about the kitchen, printed where the row has results. Numbers named here are
means over the steps of seeds 0 and 1, from their logs, or counts over all three seeds' predictions.
"""

from __future__ import annotations

_CLIP = "fewer than 3 tokens in 10,000 reach a clip at all, since a rollout serves two updates only"

REASONS: dict[str, str] = {
    "sft": (
        "Behind reinforcement: it learns the form at once, but of the questions that ask for "
        "several foods only 34% get exactly these named (DAPO: 48%); in 57 of 291 it names one of "
        "them twice."
    ),
    "lisa": (
        "Not learnt in 30 steps: its Dice loss is still at 0.57 to 0.60 at the end, in all seeds, "
        "and being handed the true answer changes nothing. What it says itself is no worse than "
        "fine-tuning's (food right: 76%)."
    ),
    "lisa-ingredients": (
        "A matter of the seed: the Dice loss ends at 0.13, 0.53 and 0.69, so one seed has learnt "
        "to decode its tokens (gIoU 0.64, teacher-forced 0.84), one half, one hardly. 30 steps are "
        "few for a token and a projection that start from nothing."
    ),
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
        "It does what it was made for: of the questions that ask for several foods it names "
        "exactly these in 63% (DAPO: 48%, GRPO: 44%). But of those that ask for one it names "
        "another one, or one too many, in 8% (DAPO: 5%), which takes most of the gain back. Most "
        "of what is left to gain are foods left out (79 of 291 such answers); three foods the base "
        "hardly ever samples, and no reward can find what is never sampled."
    ),
}
