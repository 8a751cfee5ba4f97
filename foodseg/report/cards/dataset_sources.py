"""What a dataset card says that can't be counted: sources, licences, limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foodseg.data.fetch.sources import LICENCE

KIT = "The foodseg maintainers"


@dataclass(frozen=True)
class About:
    """The words of a card about one source of data.

    licence: the identifier that the Hugging Face hub knows ("other", "unknown" too); terms: URLs
    (or the name) of what holds; creators: of everything in the files; photos: whose they are and
    where; sources, photos, limits: Markdown sentences.
    """

    title: str
    summary: str
    licence: str
    terms: tuple[str, ...]
    creators: tuple[str, ...]
    sources: tuple[str, ...]
    photos: str
    limits: tuple[str, ...]
    citation: str = ""
    language: str | None = "en"
    tags: tuple[str, ...] = ("food", "reasoning-segmentation")


def drawn_plates(preset: str) -> About:
    """The kitchen's plates, drawn by this kit."""
    return About(
        title=f"FoodReasonSeg-Single, drawn plates ({preset})",
        summary=(
            "Implicit questions about drawn plates of food, each with a box, a point and a mask "
            "for every food that answers it. The plates stand in for FoodSeg103's photos, so that "
            "the kit runs anywhere; the questions are templates filled with clues."
        ),
        licence="apache-2.0",
        terms=("https://spdx.org/licenses/Apache-2.0.html",),
        creators=(KIT,),
        sources=(
            "Plates, masks, questions and answers are made by the kit's own code "
            "(`foodseg/kitchen/dataset.py`), from seeds, under Apache-2.0. Nothing of FoodSeg103 "
            "or FoodReasonSeg is in them but the names and ids of foods.",
        ),
        photos=(
            "The pictures are drawn: no photograph was taken, and nobody is in them. They are not "
            "in these files; `write_kitchen` draws them again."
        ),
        limits=(
            "Drawn plates are far easier than photos. Numbers measured on them say nothing about "
            "photos of food.",
            "The clues (what is rich in iron, who should avoid what) are made for this puzzle and "
            "are no dietary or medical advice.",
            "Train and test share foods, templates and clues; only their combinations differ.",
        ),
        citation="foodseg: a reproducibility kit for food reasoning segmentation (CITATION.cff)",
        tags=("food", "reasoning-segmentation", "synthetic"),
    )


FOODSEG103 = About(
    title="FoodReasonSeg-Single",
    summary=(
        "Every conversation of FoodReasonSeg turned into single questions about a photo of "
        "FoodSeg103, each with a box, a point and a mask for every ingredient that answers it."
    ),
    licence="other",
    terms=(
        "https://github.com/LARC-CMU-SMU/FoodSeg103-Benchmark-v1",
        "https://huggingface.co/datasets/Yueha0/FoodReasonSeg",
    ),
    creators=("The authors of FoodSeg103", "The authors of FoodReasonSeg", KIT),
    sources=(
        " ".join(LICENCE.split()),
        "What is derived here (boxes, points, encoded masks, single turns) stays under its "
        "sources' terms. Read both before you pass these files on.",
    ),
    photos=(
        "FoodSeg103's photos are not in these files and are not redistributed: get them from their "
        "authors, for academic research; `image` and `image_sha256` say which is which."
    ),
    limits=(
        "The questions and answers were written by a language model: they can be wrong, and are no "
        "dietary or medical advice.",
        "Masks are per class: two pieces of one ingredient are one mask.",
        "A question of which any ingredient has no usable mask is left out as a whole (see above).",
        "Some labels cover two foods (`chicken duck`, `cheese butter`).",
    ),
    citation=(
        "Wu et al. 2021, A Large-Scale Benchmark for Food Image Segmentation (arXiv:2105.05409); "
        "Yin et al. 2023, FoodLMM (arXiv:2312.14991)"
    ),
)


def own_data(name: str, licence: str, creators: Sequence[str]) -> About:
    """Your own folder; what isn't said is said to be missing."""
    said = f"Its maker states the licence {licence}." if licence else "Nobody has stated a licence."
    who = ", ".join(creators) or "nobody has said who"
    return About(
        title=f"{name}: reasoning segmentation",
        summary=(
            "Questions about photos, each with a box, a point and a mask for everything that "
            "answers it, built from a folder of one's own (docs/your_own_data.md of foodseg)."
        ),
        licence=licence or "unknown",
        terms=(licence or "no licence is stated",),
        creators=tuple(creators) or ("unknown",),
        sources=(f"Photos, masks and questions were brought by their maker ({who}). {said}",),
        photos="The photos are not in these files, which hold their names and checksums.",
        limits=(
            "What the photos show, who was asked, and how masks and questions were made is known "
            "to their maker only: say it here before you share it.",
        ),
        language=None,
        tags=("reasoning-segmentation",),
    )
