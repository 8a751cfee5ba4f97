"""GDPO's advantages by hand, and the points for naming the right foods."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_report import sample

from foodseg.common.files import read_lines
from foodseg.methods.gdpo import decoupled, term_advantages
from foodseg.methods.named import foods_named
from foodseg.presets import SMOKE
from foodseg.recipes import GDPO, OURS
from foodseg.rl.advantages import group_advantages
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import total
from foodseg.training.trainer import train


def group(*points: dict[str, float]) -> SimpleNamespace:
    return SimpleNamespace(points=points, rewards=[total(one) for one in points])


def test_a_term_of_one_point_counts_as_much_as_one_of_three():
    """Three completions: one has the form, another the right place, the last neither.

    A term's z-scores are 2 / sqrt(3) and twice -1 / sqrt(3). Their sums, (1, 1, -2) / sqrt(3), have
    a std of 1, and stay. As a whole (1, 3, 0) the form is hardly worth anything.
    """
    three = [{"form": 1.0, "place": 0.0}, {"form": 0.0, "place": 3.0}, {"form": 0.0, "place": 0.0}]
    (advantages,) = decoupled([group(*three)])
    assert advantages == pytest.approx(np.array([1, 1, -2]) / 3**0.5, abs=1e-5)
    assert term_advantages(three)[1] == pytest.approx(np.array([-1, 2, -1]) / 3**0.5, abs=1e-5)
    (whole,) = group_advantages([[1.0, 3.0, 0.0]])
    assert whole[0] < 0 < advantages[0]


def test_of_one_term_it_is_the_whole_and_what_all_earn_alike_takes_no_part():
    rewards = [1.0, 4.0, 0.0, 4.0]
    alone = group(*({"mask": value} for value in rewards))
    beside = group(*({"form": 2.0, "mask": value} for value in rewards))
    (whole,) = group_advantages([rewards])
    for advantages in decoupled([alone, beside]):  # but for the epsilon of the second division
        assert advantages == pytest.approx(whole, abs=1e-5)
    (nothing,) = decoupled([group(*[{"form": 2.0, "mask": 4.0}] * 3)])
    assert nothing.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "thinking, points",
    [
        ("I see corn. The steak and the corn answer.", 3.0),
        ("The steak answers.", 1.5),  # one of two
        ("The steak, the corn and the rice.", 2.0),  # two of three
        ("The steak and the corn? No, the rice.", 0.0),  # the conclusion counts
        ("Hm.", 0.0),
        ("", 0.0),
    ],
)
def test_points_for_names_by_hand(thinking, points):
    asked = sample(0, foods=("steak", "corn"))
    for completion in (f"<think>{thinking}</think>\n<answer>[]</answer>", thinking):
        evidence = SimpleNamespace(answer=parse_answer(completion), sample=asked)
        assert foods_named(evidence) == points


def test_a_name_that_foodseg103_lacks_counts_and_naming_nothing_is_right_where_nothing_is():
    asked = sample(0, foods=("dragon roll",))
    answer = parse_answer("<think>It is the dragon roll.</think>")
    assert foods_named(SimpleNamespace(answer=answer, sample=asked)) == 3
    nothing = replace(asked, foods=())
    assert foods_named(SimpleNamespace(answer=answer, sample=nothing)) == 3  # "dragon roll" unknown
    steak = parse_answer("<think>It is the steak.</think>")
    assert foods_named(SimpleNamespace(answer=steak, sample=nothing)) == 0


def test_a_training_takes_these_advantages(home, samples):
    """Two steps of each recipe; what they learn from is in the log."""
    for recipe in (GDPO, OURS):
        preset = replace(SMOKE, steps=2, checkpoint_every=2)
        train(preset, replace(recipe, name=f"{recipe.name}-two"), 0, samples)
        rows = read_lines(preset.run_folder(f"{recipe.name}-two", 0) / "log.jsonl")
        assert len(rows) == 2 and all(row["gradient_norm"] > 0 for row in rows)
    assert all(0 <= row["points_foods_named"] <= 3 for row in rows)
