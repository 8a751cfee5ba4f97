"""What a reader of the results table must know, as a Markdown list."""

from __future__ import annotations

from collections.abc import Sequence

from foodseg.common.number_text import NOTHING, signed_interval
from foodseg.evaluation.base_rows import BEST_OF
from foodseg.evaluation.external.rows import account_of, external_rows
from foodseg.evaluation.predictions import load_predictions, load_result, paired_difference
from foodseg.presets import Preset
from foodseg.recipes import DAPO, GRPO
from foodseg.report.baselines import baselines_elsewhere, measured_baselines
from foodseg.report.results import (
    ANY_FORM_TITLE,
    BEST_OF_TITLE,
    PARENTS_TITLE,
    provenance_frame,
    read_predictions,
)
from foodseg.report.seeds import seed_rows

_NOT_MEASURED = """\
* LISA and FoodLMM were not measured here. FoodLMM's own score reads its masks at the ground-truth
  answer's `[SEG]` positions, which is another protocol than generate-then-segment."""
_SCORED = """\
* A row that names a protocol is another system's (`make score`), and "parsed" is of completions
  alone. generate-then-segment: it answered by itself, as in all our rows.
  teacher-forced: its masks were read at the data's own answer, which tells that something is to be
  found and, with FoodLMM, names the food; such a row does not compare with the others. strict: its
  completions were read as ours are; lenient: in any form, with the coordinates as stated."""
NOTES = f"""\
* The **paper:** columns are as the paper reports them, on FoodReasonSeg with Qwen2.5-VL 3B. All
  other columns were measured here; the last table says at which commit and on what.
* GRPO and DAPO: mean ± standard deviation over seeds. The 95% interval is a bootstrap over plates
  and seeds; of one seed over plates alone.
{_NOT_MEASURED}
* An answer that can't be parsed counts as an empty mask; no question is left out. The checkpoint is
  the last step's.
* {ANY_FORM_TITLE}: the base's same answers, their references taken from prose, fences and whatever
  else they stand in. {BEST_OF_TITLE}: at temperature 1, read strictly; of each question the
  sample with the best mask counts. Knowledge: the base before it was taught its habits.
* "one food", "several": gIoU of the questions that ask for so many. "parsed": answers from which
  SAM2 gets a box and a point for each object. "food right": the last sentence of the thinking that
  names foods names exactly those asked for.
* "of the gap": gIoU less the base's, as a share of what the knowledge row has more than the base.
  "of the gap, form aside": the same, with the base read in any form in the base's place.
* Of one training, the mean over seeds: "sampled", all completions; "learnt from", those in the
  policy's updates (dynamic sampling drops the others); "seconds"."""
_BY_PARENTS = f"""
* {PARENTS_TITLE}: the untrained base under Seg-Zero's and VisionReasoner's form of prompt (in our
  words), the repetition penalty of its own generation_config, up to 1,024 tokens, and photos
  resized bilinearly. The segmenter is that of all rows."""
_BASELINES_MEASURED = """
* The supervised rows were trained by this kit on the same backbone and data, and answer by
  generate-then-segment as every row does; `ablations.md` has their teacher-forced scores."""
_ELSEWHERE = """
* A row "(by make ablations)" was not measured in this run: its numbers are those of
  `ablations.csv`, at the commits that the last table names."""


def notes(preset: Preset, seeds: Sequence[int]) -> str:
    """What a reader of this very table must know."""
    sampled = load_result(preset.predictions_folder(BEST_OF))["sampled_giou"]
    others = _others(preset, seeds)
    text = NOTES.replace(_NOT_MEASURED, f"{_SCORED}\n{others}") if others else NOTES
    text += f"\n* {GRPO.title} less {DAPO.title}, over plates and seeds: gIoU "
    text += f"{_difference(preset, seeds)}."
    text += f"\n* A single sample of the untrained base has gIoU {sampled:.3f} in the mean."
    text += _BY_PARENTS if preset.parents else ""
    text += f"\n* {_processors(preset, seeds)}"
    elsewhere = len(baselines_elsewhere(preset, seeds))
    text += _BASELINES_MEASURED if elsewhere or measured_baselines(preset, seeds) else ""
    return text + (_ELSEWHERE if elsewhere else "")


def _difference(preset: Preset, seeds: Sequence[int]) -> str:
    """GRPO's gIoU less DAPO's, with its interval."""
    grpo, dapo = (
        [read_predictions(preset, row) for row in seed_rows(method, seeds)]
        for method in (GRPO, DAPO)
    )
    return signed_interval(*paired_difference(grpo, dapo))


def _others(preset: Preset, seeds: Sequence[int]) -> str:
    """Of each other system how many questions it answered, and its paired difference from DAPO."""
    dapo, lines = [read_predictions(preset, row) for row in seed_rows(DAPO, seeds)], []
    for row in external_rows(preset):
        folder = preset.predictions_folder(row.name)
        given = account_of(load_result(folder))["given"] / len(dapo[0])
        less = paired_difference([load_predictions(folder)], dapo)
        difference = signed_interval(*less)
        lines.append(f"* {row.title}: given {given:.0%}; gIoU less DAPO's {difference}, by plates.")
    return "\n".join(lines)


def _processors(preset: Preset, seeds: Sequence[int]) -> str:
    """Which processors the rows were measured on."""
    names = set(provenance_frame(preset, seeds)["processor"]) - {NOTHING}
    return (
        f"Measured on: {', '.join(sorted(names))}. On another make or\n"
        "  instruction set sums round otherwise: there the same commit and seeds give other bits,\n"
        "  and scores as far off as another seed's (rounding.md)."
    )
