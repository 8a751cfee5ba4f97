"""The field's claims, one entry each, in the papers' order.

A claim is put in our words, and asked of two rows that differ in nothing but what it is about:
where that is a whole recipe, in all that the recipe is. A paper's own figure is given where one is
known to us.
"""

from __future__ import annotations

from foodseg.claims import measures
from foodseg.claims.claim import Claim
from foodseg.claims.measures import CLIPPED, KL, VANISHED

# Headings; of papers that were not read whole they say so.
PAPER, DAPO, SAM_R1, DR_SEG = "The paper", "DAPO", "SAM-R1, by a note on it", "Dr. Seg"
SD_GRPO, GRTO, VISURF = (f"{name}, by its abstract" for name in ("SD-GRPO", "GRTO", "ViSurf"))
OTHERS, OURS = "Often asked", "Ours"

# What our recipe is compared with: row -> its name.
PUBLISHED = {
    "dapo": "DAPO",
    "grpo": "GRPO",
    "sft": "supervised fine-tuning",
    "sam-r1": "SAM-R1",
    "dr-seg": "Dr. Seg",
    "sd-grpo": "SD-GRPO",
    "grto": "GRTO",
    "b-grto": "B-GRTO",
    "visurf": "ViSurf",
    "gdpo": "standardised terms",
}

CLAIMS = (
    # -- The paper --------------------------------------------------------------------------------
    Claim(
        "dapo", PAPER, "DAPO segments better than GRPO.", "0.51 against 0.46 gIoU", "dapo", "grpo"
    ),
    Claim(
        "rft", PAPER, "Reinforcement lifts the untrained base.",
        "0.46 against 0.07 gIoU", "grpo", "base", here="half of it is form (results_table.md)",
    ),
    Claim(
        "rft-sft", PAPER, "Reinforcement segments better than supervised fine-tuning.",
        "none of the same backbone", "grpo", "sft",
        here="fine-tuning is told the foods' names and learns from all 1,167 training questions at "
        "the best of five learning rates; GRPO meets 360 of them",
    ),
    Claim(
        "rft-lisa", PAPER, "DAPO segments better than LISA's way, one [SEG], on the same backbone.",
        "0.51 against LISA 7B's 0.19 gIoU", "dapo", "lisa",
    ),
    Claim(
        "rft-foodlmm", PAPER, "DAPO segments better than FoodLMM's way, a [SEG] an ingredient.",
        "0.51 against FoodLMM-Chat 7B's 0.25 gIoU", "dapo", "lisa-ingredients",
    ),
    Claim(
        "formats", PAPER, "The format rewards are needed.", "part of R, not ablated",
        "dapo", "dapo-without-formats",
    ),
    Claim(
        "accuracy", PAPER, "The accuracy reward is needed.", "part of R, not ablated",
        "grpo", "grpo-without-accuracy",
    ),
    Claim(
        "non-repeat-score", PAPER, "The non-repeat reward improves segmentation.",
        "part of R, not ablated", "dapo", "dapo-without-non-repeat",
        here="asked when seed 0 of both rows was known, without which it is not seen",
    ),
    Claim(
        "non-repeat", PAPER,
        "The non-repeat reward keeps answers from saying sentences over and over.",
        "part of R, not ablated", "dapo", "dapo-without-non-repeat", measures.RAMBLES, below=True,
        here="what it pays for, in greedy answers",
    ),
    Claim(
        "reasons-right", PAPER,
        "Trained answers reason better: they conclude with the right foods more often.",
        "shown by examples", "dapo", "base", measures.RIGHT,
    ),
    Claim(
        "reasons-more", PAPER, "Reasoning step by step becomes more frequent in training.",
        "shown by examples", "dapo", "", measures.MORE_STEPS,
    ),
    Claim(
        "lisa", PAPER, "A 3B model trained so is ahead of LISA 7B and FoodLMM-Chat 7B.",
        "0.51 against 0.19 and 0.25 gIoU",
        reason="their weights can't be had here; `make score` takes their masks",
    ),
    # -- DAPO -------------------------------------------------------------------------------------
    Claim(
        "clip-higher", DAPO, "Clip-Higher improves GRPO.",
        "36 to 38 on AIME 2024, added to another part",
        "grpo-clip-higher", "grpo", acts=CLIPPED,
    ),
    Claim(
        "clip-higher-tokens", DAPO, "Under Clip-Higher unlikely tokens gain more.", "its reason",
        reason="a token is learnt from once a rollout, and its gain by that is in no log",
    ),
    Claim(
        "clip-cuts-unlikely", DAPO, "What the upper clip cuts off are unlikely tokens.",
        "a figure: their mean probability is below 0.2; a token above 0.83 can't be clipped",
        "grpo", "", measures.CLIPPED_UNLIKELY,
    ),
    Claim(
        "clip-higher-entropy", DAPO, "Clip-Higher keeps the entropy up.", "a figure",
        "grpo-clip-higher", "grpo", measures.ENTROPY, acts=CLIPPED,
    ),
    Claim(
        "dynamic-sampling", DAPO, "Dynamic sampling improves GRPO.",
        "42 to 50 on AIME 2024, at equal steps, added to the other parts",
        "grpo-dynamic-sampling", "grpo", acts=VANISHED,
    ),
    Claim(
        "no-signal", DAPO, "Groups without signal become more as training goes on.",
        "a figure, of groups that are all right",
        "grpo", "", measures.NO_SIGNAL, here="of equal rewards",
    ),
    Claim(
        "token-loss", DAPO, "The token mean improves GRPO.",
        "41 to 42 on AIME 2024, added to other parts", "grpo-token-loss", "grpo",
    ),
    Claim(
        "token-loss-length", DAPO, "The token mean keeps completions shorter.", "a figure",
        "grpo-token-loss", "grpo", measures.LENGTH, below=True,
    ),
    Claim(
        "overlong", DAPO, "Paying overlong completions less steadies the training.", "a figure",
        reason="over 99% of the kitchen's completions end by themselves",
    ),
    # -- SAM-R1 -----------------------------------------------------------------------------------
    Claim(
        "tiers-0.5", SAM_R1, "Paid by tiers, training does better than by one threshold at 0.5.",
        "60.2 against 56.5 gIoU", "sam-r1", "sam-r1-threshold-0.5",
    ),
    Claim(
        "tiers-0.7", SAM_R1, "Paid by tiers, training does better than by one threshold at 0.7.",
        "60.2 against 56.2 gIoU", "sam-r1", "sam-r1-threshold-0.7",
    ),
    Claim(
        "tiers-0.8", SAM_R1, "Paid by tiers, training does better than by one threshold at 0.8.",
        "60.2 against 58.6 gIoU", "sam-r1", "sam-r1-threshold-0.8",
    ),
    Claim(
        "sam-r1-token-loss", SAM_R1, "The token loss improves GRPO.", "57.8 to 58.0 gIoU",
        "sam-r1-token-loss", "sam-r1-grpo",
    ),
    Claim(
        "sam-r1-clip-high", SAM_R1, "The high clip improves GRPO.", "57.8 to 59.1 gIoU",
        "sam-r1-clip-high", "sam-r1-grpo", acts=CLIPPED,
    ),
    Claim(
        "asymmetric", SAM_R1, "The high clip and the token loss improve GRPO together.",
        "57.8 to 60.2 gIoU", "sam-r1", "sam-r1-grpo", acts=CLIPPED,
    ),
    Claim(
        "kl-collapse", SAM_R1, "Without the KL term a long training collapses.",
        "a collapse near step 100", "sam-r1-no-kl-long", "sam-r1-long", below=True, acts=KL,
        seeds=1,
    ),
    Claim(
        "points", SAM_R1, "Paid for points, the model puts negative ones outside its box.",
        "a figure of failures",
        reason="paid for points or not, none of 348 greedy answers has a negative one (seed 0)",
    ),
    Claim(
        "points-inside", SAM_R1, "Forcing all points into the box hurts.", "a figure of failures",
        "sam-r1-points-inside", "sam-r1", below=True,
    ),
    Claim(
        "points-inside-contrast", SAM_R1, "Forced so, samples have fewer labelled points.",
        "its reason: the contrast is lost", "sam-r1-points-inside", "sam-r1",
        measures.LABELLED_POINTS, below=True,
    ),
    Claim(
        "transfer", SAM_R1, "3,000 samples of another set suffice for ReasonSeg.", "60.2 gIoU",
        reason="a second set of questions, on which nothing is trained, is not here",
    ),
    # -- Dr. Seg ----------------------------------------------------------------------------------
    Claim(
        "look", DR_SEG, "Paying for a look helps on reasoning questions.",
        "65.5 to 66.1 gIoU", "dr-seg-look", "dr-seg-neither",
        here="it is paid for, but no prompt asks for it",
    ),
    Claim(
        "look-learnt", DR_SEG, "Where a look is paid for, answers look.", "its mechanism",
        "dr-seg-look", "dr-seg-neither", measures.LOOKS,
    ),
    Claim(
        "ranked", DR_SEG, "Paid by ranks, training does better than by thresholds.",
        "72.5 to 73.9 gIoU on RefCOCOg, 65.5 to 65.5 on ReasonSeg",
        "dr-seg-ranked", "dr-seg-neither",
    ),
    Claim(
        "raw", DR_SEG,
        "Paid by the metrics as they are, training does worse than by thresholds.",
        "65.5 to 64.4 gIoU",
        "dr-seg-continuous", "dr-seg-neither", below=True,
    ),
    Claim(
        "ranked-raw", DR_SEG,
        "Paid by ranks, training does better than by the metrics as they are.",
        "65.5 against 64.4 gIoU", "dr-seg-ranked", "dr-seg-continuous",
    ),
    Claim(
        "scaled", DR_SEG, "Paid by the metrics as they are, it does worse if their scales differ.",
        "none known to us", "dr-seg-scaled", "dr-seg-continuous", below=True,
        here="ranks have no scale",
    ),
    Claim(
        "dr-seg", DR_SEG, "Both parts together help.", "65.5 to 67.8 gIoU",
        "dr-seg", "dr-seg-neither",
    ),
    Claim(
        "depth-first", DR_SEG, "GRPO goes deep into one answer where perception needs breadth.",
        "its motive", reason="we know no recipe or figure of it; Look-to-Confirm is its remedy",
    ),
    # -- SD-GRPO ----------------------------------------------------------------------------------
    Claim(
        "segments-one", SD_GRPO, "Segments do better than the whole: one food asked for.",
        "none for segmentation", "sd-grpo-segments", "grpo", measures.GIOU_ONE,
    ),
    Claim(
        "segments-two", SD_GRPO, "Segments do better than the whole: two foods.",
        "none for segmentation", "sd-grpo-segments", "grpo", measures.GIOU_TWO,
    ),
    Claim(
        "segments-many", SD_GRPO, "Segments do better than the whole: three foods and more.",
        "none for segmentation", "sd-grpo-segments", "grpo", measures.GIOU_MANY,
    ),
    Claim(
        "segments-grow", SD_GRPO, "The gain grows with the number of segments.",
        "its abstract, of captions", "sd-grpo-segments", "grpo", measures.MORE_FOR_MANY,
    ),
    Claim(
        "blend", SD_GRPO, "Where foods share one clue, blending both rewards beats the whole.",
        "its abstract, of captions", "sd-grpo", "grpo", measures.GIOU_SEVERAL,
    ),
    Claim(
        "blend-segments", SD_GRPO, "Where foods share one clue, blending beats the segments alone.",
        "its abstract, of captions", "sd-grpo", "sd-grpo-segments", measures.GIOU_SEVERAL,
    ),
    Claim(
        "segments-dr", SD_GRPO, "Blending in the segments improves Dr. GRPO as well.",
        "its abstract, of captions", "sd-grpo-dr", "sd-grpo-dr-holistic",
    ),
    Claim(
        "segments-apart", SD_GRPO, "Where segments are independent, they alone do best.",
        "its abstract, of captions",
        reason="all foods that a question asks for share its one clue",
    ),
    # -- GRTO -------------------------------------------------------------------------------------
    Claim(
        "grto", GRTO, "Training the tool along with the policy beats GRPO with a frozen one.",
        "its abstract", "grto", "grto-frozen",
    ),
    Claim(
        "grto-policy", GRTO, "GRTO's policy itself becomes better.",
        "its abstract: gradients complement rewards", "grto", "grto-frozen", measures.LATE_IOU,
    ),
    Claim(
        "b-grto", GRTO, "B-GRTO, which trains the tool first, does better still.",
        "its abstract", "b-grto", "grto",
        here="at equal samples its policy has 37 steps, GRTO's 45",
    ),
    Claim(
        "b-grto-faster", GRTO, "B-GRTO converges faster: it is ahead at equal steps of the policy.",
        "its abstract", "b-grto", "grto", measures.MASK_AT_STEPS,
    ),
    Claim(
        "b-grto-decoder", GRTO, "B-GRTO's decoder is ahead at equal steps of the policy.",
        "its abstract", "b-grto", "grto", measures.TOOL_AT_STEPS,
    ),
    # -- ViSurf -----------------------------------------------------------------------------------
    Claim(
        "visurf", VISURF, "ViSurf, the true answer in the group, beats reinforcement alone.",
        "its abstract", "visurf", "grpo",
    ),
    Claim(
        "visurf-sft", VISURF, "ViSurf beats supervised fine-tuning alone.",
        "its abstract", "visurf", "sft",
        here="fine-tuning is told the foods' names, ViSurf's true answer is not",
    ),
    Claim(
        "visurf-both", VISURF, "ViSurf beats supervised fine-tuning, then reinforcement.",
        "its abstract", "visurf", "sft-then-grpo", here="the two stages train twice as long",
    ),
    # -- Often asked ------------------------------------------------------------------------------
    Claim(
        "rft-own", OTHERS, "Reinforcement does better than fine-tuning on own right answers.",
        "none", "grpo", "sft-own",
        here="these are some 60 answers, each seen about 45 times, at the learning rate chosen for "
        "fine-tuning on references",
    ),
    Claim(
        "kl", OTHERS, "GRPO needs the KL term: it segments worse without it.",
        "the contrary: DAPO leaves it out as not needed",
        "grpo-no-kl", "grpo", below=True, acts=KL,
    ),
    Claim(
        "no-kl-pass", OTHERS, "Without the KL term fewer questions are solved by one of 8 samples.",
        "none; a fear often voiced", "grpo-no-kl", "grpo", measures.PASS, below=True, acts=KL,
    ),
    Claim(
        "no-kl-foods", OTHERS, "Without the KL term a group's answers name fewer different foods.",
        "none; a fear often voiced", "grpo-no-kl", "grpo", measures.DISTINCT, below=True, acts=KL,
    ),
    Claim(
        "mask", OTHERS, "Paid for SAM2's mask, training does better than for the box.",
        "none; the reason for SAM2 in the loop", "sam-r1", "sam-r1-box",
    ),
    Claim(
        "gdpo", OTHERS, "Standardising each reward term by itself improves GRPO.",
        "GDPO: up to 6.3 points on AIME", "gdpo", "grpo",
        here="the sums are standardised within the group, where GDPO normalises over the batch",
    ),
    *(
        Claim(f"ours-{row}", OURS, f"Ours segments better than {name}.", "none", "ours", row)
        for row, name in PUBLISHED.items()
    ),
    Claim(
        "ours-dapo-without-non-repeat", OURS, "Ours segments better than DAPO without R_rep.",
        "none", "ours", "dapo-without-non-repeat",
    ),
)  # fmt: skip


def claimed_rows(claims: tuple[Claim, ...] = CLAIMS) -> tuple[str, ...]:
    """Names of the rows that these claims compare, each once."""
    return tuple(dict.fromkeys(row for claim in claims for row in claim.rows))
