"""A step's log row against counts by hand."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.presets import SMOKE
from foodseg.rl.groups import score_group
from foodseg.rl.habits import FAILURES, HABITS
from foodseg.training.log import step_row
from foodseg.training.sampler import Batch

SIDE = SMOKE.image_side
RICE = Reference((10, 10, 50, 50), (30, 30))
CORN = Reference((80, 80, 140, 140), (110, 110))


def sample(*references: Reference) -> Sample:
    foods = ("rice", "corn")[: len(references)]
    question = "Which foods here give energy?"
    named = ("a", "a", "train", "a.jpg", SIDE, SIDE, question, "", foods)
    return Sample(*named, references, foods, ())


def answer(thought: str, *references: Reference) -> str:
    items = [{"bbox_2d": list(r.box), "point_2d": list(r.point)} for r in references]
    return f"<think>{thought}</think> <answer>{json.dumps(items)}</answer>"


def group(sample: Sample, *texts: str):
    tokens = tuple(range(len(texts)))
    rollout = SimpleNamespace(texts=texts, tokens=[tokens] * len(texts), ended=(True,) * len(texts))
    return score_group(sample, rollout, SIDE)


ONE = group(
    sample(RICE),
    answer("Energy points to the rice.", RICE),
    answer("I see the rice. It means the rice.", CORN),
    answer("Energy points to the corn.", RICE, CORN),
    "The rice lies at (10, 10, 50, 50), around (30, 30).",
)
SEVERAL = group(
    sample(RICE, CORN),
    answer("Energy means the rice and the corn.", CORN, RICE),
    answer("Energy means the corn and the rice.", RICE),
    answer("Tight box, centre point: the rice.", RICE, CORN, RICE, RICE),
    answer("It is. It is. It is. It is.", RICE).replace("</answer>", ""),
)


def row(*groups) -> dict:
    return step_row(Batch(list(groups), list(groups), 1, 8, {"rollout": 1.0}), {"loss": 0.0})


def test_shares_and_means_are_those_counted_by_hand():
    got = row(ONE, SEVERAL)
    assert got["parse_rate"] == 6 / 8
    failures = {kind: got[f"failure_{kind.replace(' ', '_')}"] for kind in FAILURES}
    assert {kind: share for kind, share in failures.items() if share} == {
        "prose": 1 / 8,
        "unfinished": 1 / 8,
    }
    shown = {habit: got[f"habit_{habit.replace(' ', '_')}"] for habit in HABITS}
    assert {habit for habit, share in shown.items() if share} == {
        "step by step", "tight box", "centre point", "rambling"
    }  # fmt: skip
    assert set(shown.values()) == {0, 1 / 8}
    # All boxes of the one, and none too many: the first completion of each group.
    assert got["mean_pass"] == 2 / 8 and got["pass_at_g"] == 1
    # 2 of 2, 1 of 2, and 2 of 4 predictions; one-food questions do not count.
    assert got["completeness"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    # Rice and corn apart; rice with corn in either order, and rice alone.
    assert got["distinct_foods"] == 2
    accuracies = [3, 0, 1.5, 3, 1.5, 1.5]
    assert got["accuracy_given_parse"] == pytest.approx(sum(accuracies) / 6)
    assert got["accuracy_several"] == pytest.approx((3 + 1.5 + 1.5 + 0) / 4)


def test_lengths_and_ends_are_means_over_completions():
    rollout = SimpleNamespace(texts=("Rice.", "Corn."), tokens=[(7,) * 2, (7,) * 4])
    rollout.ended = (True, False)
    got = row(score_group(sample(RICE), rollout, SIDE))
    assert (got["length"], got["ended"]) == (3, 0.5)


def test_what_has_nothing_to_average_is_null_and_drawn_as_a_gap(tmp_path):
    rows = [row(ONE), row(SEVERAL), row(group(sample(RICE), "Rice.", "Rice."))]
    assert rows[0]["completeness"] is rows[0]["accuracy_several"] is None
    assert rows[2]["accuracy_given_parse"] is None and rows[2]["distinct_foods"] == 1
    frame = pd.DataFrame([json.loads(json.dumps(one, allow_nan=False)) for one in rows])
    assert frame["completeness"].isna().tolist() == [True, False, True]
    assert frame["completeness"].dtype == float
