"""The benchmark's own arithmetic: turns, fits, targets, page and picture."""

import json
from dataclasses import asdict

import bench_players
import pytest
from made_again import words_of_the_figures

from foodseg.bench.page import write_figures
from foodseg.bench.paired_timing import SideFailedError, take_turns
from foodseg.bench.scaling import SWEEPS, Point, fits, points, token_count
from foodseg.bench.summary import ratio, side, targets
from foodseg.common.files import PROJECT
from foodseg.presets import KITCHEN

INTEL = KITCHEN.figures / "benchmark_intel"


def test_sides_take_turns_in_rotating_order_and_the_first_round_does_not_count(tmp_path):
    diary = tmp_path / "diary"
    sides = {name: (bench_players.diary, (name, str(diary))) for name in "ab"}
    rows = take_turns(sides, 2, "a and b")
    assert diary.read_text() == "a0 b0 b1 a1 a2 b2 "
    assert [row["turn"] for row in rows["b"]] == [1, 2]
    assert [row["rollout"] for row in rows["a"]] == pytest.approx([0.02, 0.03])
    assert all(row["step"] >= 0.05 for row in rows["a"])
    assert rows["a"][0]["update"] == pytest.approx(rows["a"][0]["step"] - 0.02)
    # A side's peak memory is its own, without what it had loaded before.
    assert rows["a"][-1]["memory"] > 60 > 10 > rows["b"][-1]["memory"]


@pytest.mark.parametrize(
    "side, reason",
    [
        ("broken", "can't do its step"),
        ("gone", "ended without a word"),
        ("slow", "not done after 5 s"),
    ],
)
def test_a_side_that_fails_ends_the_comparison_and_says_why(side, reason):
    with pytest.raises(SideFailedError, match=f"poor: .*{reason}"):
        take_turns(
            {"poor": (getattr(bench_players, side), ())}, 1, "", 5 if side == "slow" else None
        )


def scaling_rows() -> list[dict]:
    """Updates that cost exactly their tokens: 2 ms each + 10 ms shared, 3 ms each plain."""
    costs = {"shared": (2e-3, 1e-2), "plain": (3e-3, 0.0)}
    return [
        {"rows": kind}
        | asdict(point)
        | {key: slope * token_count(kind, point) + constant for key in ("seconds", "low", "high")}
        for kind, (slope, constant) in costs.items()
        for point in points()
    ]


def test_token_counts_and_fits_find_the_cost_that_made_the_data():
    assert token_count("shared", Point(4, 100, 10)) == 140
    assert token_count("plain", Point(4, 100, 10)) == 440
    everywhere = points()
    assert len(everywhere) == len(set(everywhere)) == sum(map(len, SWEEPS.values())) - 2
    fitted = fits(scaling_rows())
    assert fitted["shared"]["shared"] == pytest.approx(
        {"slope": 2e-3, "constant": 1e-2, "r_squared": 1.0}
    )
    assert fitted["plain"]["plain"]["r_squared"] == pytest.approx(1.0)
    assert fitted["shared"]["plain"]["r_squared"] < 0.9
    assert fitted["plain"]["shared"]["r_squared"] < 0.9


def results(trl: float = 6.0, plain: float = 3.0) -> dict:
    """A run's figures: this trainer's steps take 2 s (1 + 1), the others' updates as given."""

    def rows(update: float) -> list[dict]:
        fast, slow = (
            {"rollout": 1.0, "scoring": 0.0, "update": u, "step": 1.0 + u, "memory": 100.0}
            for u in (update, 1.5 * update)
        )
        return [fast, fast, slow]

    shipped = json.loads((KITCHEN.figures / "benchmark.json").read_text())
    return shipped | {
        "sides": {"this": rows(1.0), "plain": rows(plain), "trl": rows(trl)},
        "scaling": scaling_rows(),
        "fits": fits(scaling_rows()),
        "evaluation": {
            "questions": 48,
            "batch": 64,
            "same_texts": 47,
            "samples_per_second": {
                "batched": {"median": 20.0, "low": 18.0, "high": 21.0},
                "one_by_one": {"median": 4.0, "low": 3.9, "high": 4.1},
            },
        },
    }


def test_ratios_are_taken_round_by_round_and_targets_by_their_medians():
    met = results(trl=5.0, plain=1.7)
    assert side(met, "trl", "step").median == 6.0
    assert ratio(met, "trl", "step").median == 3.0
    assert ratio(met, "trl", "step").high == pytest.approx(8.5 / 2.5)
    assert [target[-1] for target in targets(met).values()] == [True, True, True]
    missed = results(trl=4.9, plain=1.6)
    missed["fits"]["shared"]["plain"]["r_squared"] = 1.0
    missed["fits"]["shared"]["shared"]["r_squared"] = 0.9
    assert [target[-1] for target in targets(missed).values()] == [False, False, False]


def test_page_and_picture_are_written_from_the_figures(tmp_path):
    (tmp_path / "benchmark.json").write_text(json.dumps(results(trl=4.0)))
    write_figures(tmp_path)
    text = (tmp_path / "benchmark.md").read_text()
    assert "| steps per second, against TRL | at least 3 times | 2.50 (2.50 to 2.80) |" in text
    assert text.count("**not met**") == 1
    assert "47 of 48 texts are the same" in text
    assert "| batches of up to 64 | 5.0 | 20.0 (18.0 to 21.0) |" in text
    assert "| G = 8, P = 192, R = 64 | 4.33 | 2.91 |" in text
    assert "Not measured on a GPU yet" in text
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("folder", [KITCHEN.figures, INTEL])
def test_shipped_page_is_what_the_shipped_figures_give(folder, tmp_path):
    for file in folder.glob("benchmark*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_figures(tmp_path)
    shipped = (folder / "benchmark.md").read_text()
    assert (tmp_path / "benchmark.md").read_text() == shipped


@words_of_the_figures
def test_what_is_said_of_trl_was_measured():
    amd, intel = (
        json.loads((folder / "benchmark.json").read_text()) for folder in (KITCHEN.figures, INTEL)
    )
    assert "AMD" in amd["processor"] and "Intel" in intel["processor"]
    readme, page = (
        " ".join((PROJECT / name).read_text().split())
        for name in ("README.md", "docs/performance.md")
    )
    times = [ratio(run, "trl", "step") for run in (amd, intel)]
    told = f"**{times[0].median:.1f} times the steps per second of TRL's `GRPOTrainer`** on an AMD"
    assert f"{told} Zen 4, {times[1].median:.1f} times on an Intel Xeon," in readme
    for one, words in zip(times, ("times TRL's steps (", "times as quick as TRL's ("), strict=True):
        span = f"{one.low:.1f} to {one.high:.1f}"
        assert f"{one.median:.1f} {words}{span}" in page
    plain = ratio(intel, "plain", "update").median
    assert f"an update {plain:.1f} times as quick as with plain rows" in page
