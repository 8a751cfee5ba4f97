"""What each reward pays for an answer that never looks: the floor under what a policy earns.

    python -m foodseg.report.blind_answers --preset kitchen    figures/blind_answers.{md,csv}

One completion is written and given to every question. Its boxes are searched for each reward on
training questions; what it earns is measured on the test questions, beside the true answers, the
base's, the trained policies', and an answer of the right form that SAM2 can't segment.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from foodseg import recipes
from foodseg.common.errors import DataError
from foodseg.common.number_text import NOTHING
from foodseg.common.provenance import find_commit, processor_name
from foodseg.common.tables import to_markdown, write_csv, write_markdown
from foodseg.data.photos import read_photo
from foodseg.data.references import Reference
from foodseg.data.samples import Sample, load_samples
from foodseg.evaluation.predictions import load_predictions
from foodseg.models.segmenter import Segmenter
from foodseg.presets import Preset, get_preset, require
from foodseg.recipes import Recipe
from foodseg.report.results import caption
from foodseg.rl.answers import BOX_KEY, POINT_KEY, POINTS_KEY, write_items, write_truth
from foodseg.rl.evidence import Evidence, Segment, award, gather_evidence, total
from foodseg.rl.thresholds import PAPER_SIDE
from foodseg.system import load_segmenter

REWARDS = (
    recipes.DAPO,
    recipes.DAPO_USABLE_FORM,
    recipes.SAM_R1,
    recipes.SAM_R1_POINTS,
    recipes.SAM_R1_POINTS_INSIDE,
    recipes.DR_SEG_CONTINUOUS,
    recipes.DR_SEG_RANKED,
    recipes.DR_SEG,
)
THOUGHT = "It is one of these foods. <look>the whole plate</look>"
UNUSABLE = [{BOX_KEY: [[], [], [], []], POINT_KEY: [[], []], POINTS_KEY: [[[], [], []]]}]

NOTEBOOK = "01_build_foodreasonseg_single"
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the picture's sides, where a box may begin or end
MOST_BOXES = 3
SEARCHED = 40  # training questions on which boxes are searched

Box = tuple[int, int, int, int]


def write_answer(items: str) -> str:
    """A completion in the paper's form, with a thought and a look that fit any question."""
    return f"<think>{THOUGHT}</think>\n<answer>{items}</answer>"


def blind_answer(boxes: Sequence[Box], labelled: bool) -> str:
    """The completion with these boxes, in pixels of the model image, each with its centre.

    labelled: as SAM-R1 has it, with a point of label 0 in the box's corner.
    """
    items = [Reference(box, ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)) for box in boxes]
    if not labelled:
        return write_answer(write_items(items))
    points = [[[*one.point, 1], [one.box[0], one.box[1], 0]] for one in items]
    rows = [
        {BOX_KEY: list(one.box), POINTS_KEY: two} for one, two in zip(items, points, strict=True)
    ]
    return write_answer(json.dumps(rows))


def find_boxes(preset: Preset, recipe: Recipe, samples: Sequence[Sample]) -> tuple[Box, ...]:
    """The boxes that earn most over the samples, found one by one: each is the best after those
    before it. What a box covers stands for its mask.
    """
    edges = [round(edge * (preset.image_side - 1)) for edge in EDGES]
    sides = list(itertools.combinations(edges, 2))
    grid = [(left, top, right, bottom) for left, right in sides for top, bottom in sides]
    found: tuple[Box, ...] = ()
    best = 0.0
    for _ in range(MOST_BOXES):
        earned = {
            box: earn_everywhere(preset, recipe, samples, (*found, box), fill) for box in grid
        }
        box = max(earned, key=earned.get)
        if earned[box] <= best:
            break
        found, best = (*found, box), earned[box]
    return found


def fill(sample: Sample, references: Sequence[Reference]) -> np.ndarray:
    """In SAM2's place: each box's mask is what it covers, bool (N, H, W)."""
    masks = np.zeros((len(references), sample.height, sample.width), dtype=bool)
    for mask, reference in zip(masks, references, strict=True):
        left, top, right, bottom = reference.box
        mask[top : bottom + 1, left : right + 1] = True
    return masks


def earn_everywhere(
    preset: Preset,
    recipe: Recipe,
    samples: Sequence[Sample],
    boxes: Sequence[Box],
    segment: Segment,
) -> float:
    """The mean reward of one answer to every sample."""
    text = blind_answer(boxes, recipe.labelled_points)
    return earn(preset, recipe, samples, [text] * len(samples), segment)


def earn(
    preset: Preset,
    recipe: Recipe,
    samples: Sequence[Sample],
    texts: Sequence[str],
    segment: Segment,
) -> float:
    """The recipe's mean reward of one completion a sample; ranks are those of a first step."""
    read = preset.image_side, segment, preset.thresholds, recipe.labelled_points, recipe.nothing
    evidence: list[Evidence] = []
    points: list[float] = []
    for sample, text in zip(samples, texts, strict=True):
        [one] = gather_evidence(sample, [text], *read)
        evidence.append(one)
        points.append(total(award(recipe.reward, one)))
    ranked = recipe.ranking().award(evidence) if recipe.ranking else [0.0]
    return float(np.mean(points) + np.mean(ranked))


def segment_with(preset: Preset, segmenter: Segmenter) -> Segment:
    """SAM2's masks; each photo is embedded once."""
    embeddings = {}

    def segment(sample: Sample, references: Sequence[Reference]) -> np.ndarray:
        if sample.image not in embeddings:
            photo = read_photo(preset.dataset / sample.image, sample.image_sha256)
            embeddings[sample.image] = segmenter.embed_image(photo.image)
        return segmenter.predict(embeddings[sample.image], references)

    return segment


def measure(
    preset: Preset,
    recipe: Recipe,
    training: Sequence[Sample],
    test: Sequence[Sample],
    segment: Segment,
) -> dict[str, float | str]:
    """One line of the table: what each kind of answer earns on the test questions."""
    boxes = find_boxes(preset, recipe, training[:: max(len(training) // SEARCHED, 1)][:SEARCHED])
    answers = {
        "true answers": [write_answer(write_truth(sample, preset.image_side)) for sample in test],
        "its own policy": _answers_of(preset, f"{recipe.name}-seed0"),
        "GRPO's policy": _answers_of(preset, f"{recipes.GRPO.name}-seed0"),
        "base": _answers_of(preset, "base"),
        "blind": [blind_answer(boxes, recipe.labelled_points)] * len(test),
        "unusable": [write_answer(json.dumps(UNUSABLE))] * len(test),
    }
    earned = {
        kind: earn(preset, recipe, test, texts, segment) if texts else float("nan")
        for kind, texts in answers.items()
    }
    return {"reward of": recipe.title, **earned, "blind boxes": len(boxes)}


def _answers_of(preset: Preset, row: str) -> list[str]:
    folder = preset.predictions_folder(row)
    if not (folder / "result.json").exists():
        return []
    return [prediction.completion for prediction in load_predictions(folder)]


def page(preset: Preset, frame: pd.DataFrame) -> Iterator[str]:
    """The page's paragraphs and its table."""
    yield "# What an answer earns that never looks"
    yield caption(preset)
    yield (
        f"Mean reward on the test questions. **blind**: one answer to every question, of at most "
        f"{MOST_BOXES} boxes, searched for each reward on {SEARCHED} training questions; its "
        "thought has a look. **unusable**: the right form around lists that hold no number, which "
        "SAM2 can't segment. **its own policy**: greedy answers of seed 0, trained by that recipe; "
        f"{NOTHING} where no run was there when the page was made. **blind boxes**: how many the "
        "blind answer has. Ranks are those of a training's first step."
    )
    yield to_markdown(frame.map(_number))
    seeing = frame[["its own policy", "GRPO's policy"]].max(axis=1)
    above = list(frame.index[frame["blind"] >= seeing])
    yield (
        f"A blind answer earns as much as a trained one or more under: {'; '.join(above)}."
        if above
        else "No blind answer earns as much as the better of the two policies."
    )
    pixels = f"{preset.thresholds.box_l1:g} and {preset.thresholds.point_l2:g} of {PAPER_SIDE}"
    yield (
        f"Thresholds of the box and the point: {pixels} pixels. Commit {find_commit()}, on "
        f"{processor_name()}. Made by `python -m foodseg.report.blind_answers`."
    )


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return NOTHING if np.isnan(value) else f"{value:.2f}"


def write_page(preset: Preset) -> None:
    """Measure, and write the page and its numbers; raises DataError where the samples are missing.

    Policies that have not been evaluated are left out.
    """
    files = [require(preset.samples_file(split), NOTEBOOK) for split in ("train", "test")]
    questions = [load_samples(file) for file in files]
    segment = segment_with(preset, load_segmenter(preset))
    rows = [measure(preset, recipe, *questions, segment) for recipe in REWARDS]
    frame = pd.DataFrame(rows).set_index("reward of")
    path = preset.figures / "blind_answers"
    write_markdown(path.with_suffix(".md"), list(page(preset, frame)))
    write_csv(path.with_suffix(".csv"), frame)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 where the input can't be used."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.report.blind_answers")
    parser.add_argument("--preset", default="kitchen")
    try:
        write_page(get_preset(parser.parse_args(arguments).preset))
    except DataError as error:
        print(f"blind_answers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
