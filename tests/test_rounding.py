"""The same seeds on two processors: the page by hand, from two folders of records."""

import shutil

import numpy as np
import pandas as pd
import pytest
from test_ablations import finish

from foodseg.ablations import rounding
from foodseg.ablations.records import all_runs, keep
from foodseg.ablations.rows import BASE, choose_rows
from foodseg.ablations.runs import Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.files import home as work_folder
from foodseg.common.files import load_json, write_json, write_lines
from foodseg.presets import SMOKE

(GRPO,) = choose_rows("grpo")
ROWS = choose_rows("base,grpo,dapo")
BOTH = (rounding.RECORDS, rounding.OTHERS)


def keep_runs(folder: str, runs: dict[Run, tuple[int, list[float]]]) -> None:
    """Records of runs with so many right pixels of twenty and such rewards; no run is left."""
    here = Runs(SMOKE)
    for run, (right, rewards) in runs.items():
        finish(here, run, (right, 0))
        rows = [{"step": step, "reward_total": reward} for step, reward in enumerate(rewards, 1)]
        write_lines(here.log(run), rows)
        outcome = here.folder(run) / "outcome.json"
        own = {"processor": f"made for {folder}", "adapter": f"{folder}-{run.seed}"}
        write_json(outcome, load_json(outcome) | own)
    keep(here, list(runs), SMOKE.figures / folder)
    shutil.rmtree(work_folder() / "runs")


@pytest.fixture()
def both(home):
    """Two seeds of GRPO, right by 20% and 60%; on the other processor by 40% and 50%."""
    first, second = Run(GRPO, 0), Run(GRPO, 1)
    keep_runs(BOTH[0], {first: (4, [1.0, 2.0, 3.0]), second: (10, [1.0, 2.0, 3.0])})
    keep_runs(BOTH[1], {first: (8, [1.0, 2.5, 3.0]), second: (9, [1.0, 2.0, 2.5])})


def columns(seeds):
    wanted = all_runs(seeds)
    return [rounding.measured(SMOKE, folder, wanted) for folder in BOTH]


def frame(seeds, rows=(GRPO,)):
    return rounding.rounding_frame(*columns(seeds), rows)


def test_the_frame_by_hand(both):
    (line,) = frame([0, 1, 2]).itertuples()
    assert line.seeds == 2  # seed 2 has not been run
    assert line.giou == pytest.approx((0.2 + 0.5) / 2)
    assert line.giou_second == pytest.approx((0.4 + 0.45) / 2)
    assert line.difference == pytest.approx((0.2 - 0.05) / 2)
    assert line.two_processors == pytest.approx((0.2 + 0.05) / 2)
    assert line.two_seeds == pytest.approx((0.3 + 0.05) / 2)
    assert (line.parts_least, line.parts_most) == (2, 3)


def test_a_seed_counts_where_both_processors_have_it(both):
    keep_runs(BOTH[0], {Run(GRPO, 2): (10, [1.0])})
    pd.testing.assert_frame_equal(frame([0, 1, 2]), frame([0, 1]))
    (line,) = frame([1]).itertuples()
    assert line.seeds == 1 and np.isnan([line.two_seeds, line.giou_sd]).all()


def test_the_same_bits_never_part_and_without_rewards_there_is_no_step(both):
    shutil.rmtree(SMOKE.figures / BOTH[1])
    shutil.copytree(SMOKE.figures / BOTH[0], SMOKE.figures / BOTH[1])
    (sft,) = choose_rows("sft")
    for folder, reward in zip(BOTH, (1.0, 1.5), strict=True):
        keep_runs(folder, {Run(BASE): (3, []), Run(sft): (3, [reward])})
    lines = frame([0, 1], [BASE, GRPO, sft])
    assert lines["two_processors"].tolist() == [0] * 3 and lines["parts_least"].isna().all()
    assert rounding.readable(lines)["part at"].tolist() == ["–"] * 3


def test_the_page_says_what_was_compared_and_where_it_comes_from(both):
    assert rounding.write_page(SMOKE, ROWS, [0, 1]) == str(SMOKE.figures / "rounding.md")
    page = (SMOKE.figures / "rounding.md").read_text()
    assert "on made for records (`records`)" in page
    assert "on made for records_other_processor\n" in page
    assert "| 2 to 3 | 0.125 | 0.175 | 2 |" in page
    assert "| made for records | 2" in page and "| records_other_processor-1 |" in page
    csv = (SMOKE.figures / "rounding.csv").read_text()
    assert csv.startswith("row,title,seeds,giou,giou_second,")


def test_what_a_row_has_more_than_dapo_on_each_processor_and_on_both(both):
    (dapo,) = choose_rows("dapo")
    assert rounding.less_dapo(*columns([0, 1]), [GRPO, dapo]).empty  # no DAPO yet
    keep_runs(BOTH[0], {Run(dapo, 0): (6, [1.0])})
    keep_runs(BOTH[1], {Run(dapo, 0): (2, [1.0])})
    rounding.write_page(SMOKE, ROWS, [0, 1])
    page = (SMOKE.figures / "rounding.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| GRPO less DAPO |")]
    means = [cell.split()[0] for cell in line.split("|")[2:5]]
    # GRPO 0.2 and 0.5, DAPO 0.3; then 0.4 and 0.45, 0.1; then all of these.
    assert means == ["+0.050", "+0.325", "+0.188"]


def test_its_command_keeps_what_ran_here_and_compares_it(both, monkeypatch):
    shutil.rmtree(SMOKE.figures / BOTH[1])

    def run_all(runs, wanted, jobs):
        assert [run.name for run in wanted] == ["base", "grpo-seed1", "dapo-seed1"] and jobs == 1
        finish(runs, wanted[1], (6, 0))
        write_lines(runs.log(wanted[1]), [{"step": 1, "reward_total": 0.5}])
        return [wanted[2]]

    other = Run(choose_rows("sam-r1")[0], 1)  # of an earlier processor
    for folder in BOTH:
        keep_runs(folder, {other: (3, [1.0])})
    monkeypatch.setattr(rounding, "run_all", run_all)
    arguments = ["--preset", "smoke", "--seeds", "1", "--jobs", "1"]
    assert rounding.main(arguments) == 1  # DAPO's run failed
    kept = sorted(path.name for path in (SMOKE.figures / BOTH[1]).iterdir())
    assert kept == ["grpo-seed1.json.xz", "sam-r1-seed1.json.xz"]
    (line,) = pd.read_csv(SMOKE.figures / "rounding.csv").itertuples()
    assert (line.row, line.parts_least) == ("grpo", 1)


@pytest.mark.parametrize("bad", [["--jobs", "0"], ["--seeds", "x"], ["--preset", "mini"]])
def test_its_command_refuses_in_one_sentence(home, capsys, bad):
    assert rounding.main(["--preset", "smoke", *bad]) == 1
    said = capsys.readouterr().err
    assert said.startswith("rounding: ") and said.count("\n") == 1


def test_without_a_run_to_compare_it_says_what_to_do(home):
    with pytest.raises(DataError, match="no run that records has too; `make PRESET=smoke`, then"):
        rounding.write_page(SMOKE, ROWS, [0])
    assert not (SMOKE.figures / "rounding.md").exists()
