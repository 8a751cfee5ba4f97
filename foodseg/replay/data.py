"""All that the page shows, as JSON values: pictures, questions, runs, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from foodseg.data.references import Reference
from foodseg.data.samples import Sample, load_samples
from foodseg.demo.ask import MOST, TERMS
from foodseg.models.segmenter import Segmenter
from foodseg.presets import Preset, require
from foodseg.recipes import Recipe
from foodseg.replay.answers import Answer, Judge
from foodseg.replay.groups import METHODS, clip_range, step_groups
from foodseg.replay.pictures import mask_uri, photo_uri
from foodseg.replay.runs import AGAIN, Run
from foodseg.replay.scores import Failure, bars, failures
from foodseg.report.style import TRUTH, VERMILION
from foodseg.system import find_decoder, load_segmenter

NOTEBOOK = "01_build_foodreasonseg_single"


class Pages:
    """Makes the values of a preset's page; what several runs share is made once.

    questions, photos: those that the runs so far have asked for, by their ids.
    """

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.test = load_samples(require(preset.samples_file("test"), NOTEBOOK))
        train = load_samples(require(preset.samples_file("train"), NOTEBOOK))
        self.samples = {sample.sample_id: sample for sample in [*train, *self.test]}
        self.questions: dict[str, dict] = {}
        self.photos: dict[str, dict] = {}
        self._judges: dict[tuple[Path | None, bool], Judge] = {}
        self._segmenters: dict[Path | None, Segmenter] = {}

    def frame(self, runs: Sequence[Run]) -> dict:
        """What does not depend on the runs that are shown, but for the bars."""
        return {
            "preset": self.preset.name,
            "side": self.preset.image_side,
            "terms": [[name, title, most] for name, (title, most) in TERMS.items()],
            "most": MOST,
            "methods": list(map(_method, METHODS)),
            "bars": [asdict(bar) for bar in bars(self.preset, runs)],
        }

    def run(self, run: Run) -> dict:
        """A run's values; of one that can't be seen again only why."""
        shown = {"name": run.name, "title": run.title, "seed": run.seed}
        unknown = {one["sample_id"] for row in run.looks for one in answers_of(row)}
        problem = run.problem or (AGAIN if unknown - self.samples.keys() else "")
        if problem:
            return shown | {"problem": problem}
        return shown | {
            "problem": "",
            "drops": run.recipe["dynamic_sampling"],
            "truth": bool(run.recipe["true_answer"]),  # the last try of its groups
            "steps": run.result["steps"],
            "curve": [round(row["reward_total"], 3) for row in run.rows],
            "watched": [one["sample_id"] for one in run.rows[-1]["watched_after"]],
            "looks": [look for row in run.looks for look in self._looks(run, row)],
            "groups": {row["step"]: self._group(row) for row in run.looks if "group" in row},
            "failures": self._failures(run),
        }

    def question(self, sample: Sample) -> str:
        """Have the question, its photo and its truth on the page; returns its id."""
        if sample.sample_id not in self.questions:
            self.questions[sample.sample_id] = {
                "photo": self._photo(sample),
                "question": sample.question,
                "foods": list(sample.foods),
                "truth": mask_uri(sample.union_mask(), TRUTH, filled=False),
            }
        return sample.sample_id

    def _photo(self, sample: Sample) -> str:
        if sample.image not in self.photos:
            uri = photo_uri(self._judge(None).photo(sample))
            size = {"width": sample.width, "height": sample.height}
            self.photos[sample.image] = {"uri": uri, **size}
        return sample.image

    def _looks(self, run: Run, row: dict) -> list[dict]:
        """The answers before a step's updates and, at the run's end, after them."""
        found = []
        for name, updates in (("watched", row["step"] - 1), ("watched_after", row["step"])):
            if name in row:
                answers = [self._answer(run, one) for one in row[name]]
                found.append({"step": row["step"], "updates": updates, "answers": answers})
        return found

    def _answer(self, run: Run, one: dict) -> dict:
        sample = self.samples[one["sample_id"]]
        self.question(sample)
        decoder = find_decoder(run.folder / "adapter")
        read = run.recipe["labelled_points"], run.recipe["nothing"]
        answer = self._judge(decoder, *read).answer(sample, one["text"])
        points = [one["reward"][term] for term in TERMS]
        return drawn(answer) | {"points": points, "reward": one["reward"]["total"]}

    def _group(self, row: dict) -> dict:
        group = step_groups(row)
        sample = self.samples[group.sample_id]
        words = {"question": sample.question, "foods": list(sample.foods)}
        return asdict(group) | words

    def _failures(self, run: Run) -> dict | None:
        found = failures(self.preset, run, self.test)
        if not found:
            return None
        shown = [self._failure(one) for one in found.shown]
        return {"shown": shown, "right": found.right, "questions": found.questions}

    def _failure(self, one: Failure) -> dict:
        return {
            "id": self.question(one.sample),
            "kind": one.kind,
            "text": one.prediction.completion,
            "named": list(one.prediction.foods_named),
            "iou": one.iou,
            "mask": mask_uri(one.mask, VERMILION),
            "references": plain(one.prediction.references),
        }

    def _judge(self, decoder: Path | None, *read: bool) -> Judge:
        if decoder not in self._segmenters:
            self._segmenters[decoder] = load_segmenter(self.preset, decoder)
        key = decoder, *read
        if key not in self._judges:
            self._judges[key] = Judge(self.preset, self._segmenters[decoder], *read)
        return self._judges[key]


def _method(recipe: Recipe) -> dict:
    kept = {"name": recipe.name, "title": recipe.title, "drops": recipe.dynamic_sampling}
    return kept | {"clip": clip_range(recipe)}


def answers_of(row: dict) -> list[dict]:
    """All answers to watched questions in a log's row."""
    return row.get("watched", []) + row.get("watched_after", [])


def drawn(answer: Answer) -> dict:
    """An answer's text, places and mask."""
    return {
        "text": answer.text,
        "fault": answer.fault,
        "references": plain(answer.references),
        "meant": plain(answer.meant),
        "mask": mask_uri(answer.mask, VERMILION),
        "iou": answer.iou,
    }


def plain(references: Sequence[Reference]) -> list[list[float]]:
    """x1, y1, x2, y2 of each box and x, y of its point."""
    return [[*one.box, *one.point] for one in references]
