"""Runs as small files, and back: tables and claims see the same numbers, trainings are none."""

import shutil

import pandas as pd
import pytest
from test_ablations import finish, write_predictions

from foodseg.ablations import records
from foodseg.ablations.frame import ablations_frame
from foodseg.ablations.rows import choose_rows
from foodseg.ablations.runs import Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.files import home as work_folder
from foodseg.common.files import load_json, read_lines, write_json, write_lines
from foodseg.evaluation.predictions import load_predictions
from foodseg.presets import SMOKE

SEEDS = (0, 1)
ALL = records.all_runs(SEEDS)


@pytest.fixture()
def runs(home):
    return Runs(SMOKE)


def finished(runs):
    grpo, dapo = choose_rows("grpo,dapo")
    made = [Run(grpo, 0), Run(grpo, 1), Run(dapo, 0)]
    for run, right in zip(made, (10, 5, 8), strict=True):
        finish(runs, run, (right, 0))
    return made


def frame(runs):
    return ablations_frame(runs, choose_rows("grpo,dapo"), SEEDS)


def test_a_table_from_records_is_the_table(runs, tmp_path):
    made, folder = finished(runs), tmp_path / "records"
    before = frame(runs)
    assert records.keep(runs, ALL, folder) == sorted(made, key=lambda run: run.seed)
    assert records.keep(runs, ALL, folder) == []  # nothing is new
    completions = [p.completion for p in load_predictions(SMOKE.predictions_folder("grpo-seed0"))]
    shutil.rmtree(work_folder() / "runs")
    assert frame(runs)["seeds"].tolist() == [0, 0]
    assert len(records.restore(runs, ALL, folder)) == 3
    pd.testing.assert_frame_equal(frame(runs), before)
    assert all(map(runs.finished, made)) and records.restore(runs, ALL, folder) == []
    restored = load_predictions(SMOKE.predictions_folder("grpo-seed0"))
    assert [p.completion for p in restored] == completions
    assert not (SMOKE.run_folder("grpo", 0) / "adapter").exists()


def test_records_of_other_code_stay_where_they_are(runs, tmp_path, capsys):
    (first, *_), folder = finished(runs), tmp_path / "records"
    outcome = runs.folder(first) / "outcome.json"
    write_json(outcome, load_json(outcome) | {"failure": "NoSignalError: none"})
    records.keep(runs, ALL, folder)
    other = {"training": None, "evaluation": {"code": "0" * 16}}
    record = records.read_record(folder, first)
    record["outcome"]["identity"] = other
    records.write_record(folder, first, record)
    shutil.rmtree(work_folder() / "runs")
    assert first not in records.restore(runs, ALL, folder) and not runs.finished(first)
    assert capsys.readouterr().out.startswith("1 records are of other settings or code")


def test_a_run_without_signal_is_kept_and_restored(runs, tmp_path):
    (row,), folder = choose_rows("dapo"), tmp_path / "records"
    run = Run(row, 0)
    outcome = {"row": "dapo", "identity": runs.identity(run), "wall_seconds": 1.0}
    write_json(runs.folder(run) / "outcome.json", outcome | {"failure": "NoSignalError: none"})
    write_lines(runs.log(run), [{"step": 1}])  # and no answers, no result
    assert records.keep(runs, ALL, folder) == [run]
    shutil.rmtree(work_folder() / "runs")
    assert records.restore(runs, ALL, folder) == [run] and runs.finished(run)
    assert read_lines(runs.log(run)) == [{"step": 1}]


def test_a_seg_baseline_keeps_both_of_its_answers(runs, tmp_path, capsys):
    (lisa,) = choose_rows("lisa")
    finish(runs, Run(lisa, 0))
    write_predictions(runs, "lisa-teacher-forced-seed0", (5, 5))
    before = ablations_frame(runs, [lisa], (0,))
    arguments = ["--preset", "smoke", "--seeds", "0", "--folder", str(tmp_path / "records")]
    assert records.main(["keep", *arguments]) == 0 and "keep: 1 runs" in capsys.readouterr().out
    shutil.rmtree(work_folder() / "runs")
    assert records.main(["restore", *arguments]) == 0
    pd.testing.assert_frame_equal(ablations_frame(runs, [lisa], (0,)), before)


def test_a_broken_record_is_refused_by_name(runs, tmp_path, capsys):
    (first, *_), folder = finished(runs), tmp_path / "records"
    records.keep(runs, ALL, folder)
    path = folder / f"{first.name}.json.xz"
    path.write_bytes(path.read_bytes()[:-20])
    shutil.rmtree(work_folder() / "runs")
    with pytest.raises(DataError, match=f"{first.name}.json.xz: it was cut or changed"):
        records.restore(runs, ALL, folder)
    assert records.main(["restore", "--preset", "smoke", "--folder", str(folder)]) == 1
    assert "put a copy back" in capsys.readouterr().err
