"""Runs as small files, and back: tables and claims see the same numbers, trainings are none."""

import shutil

import pandas as pd
import pytest
from test_ablations import finish

from foodseg.ablations import records
from foodseg.ablations.frame import ablations_frame
from foodseg.ablations.rows import choose_rows
from foodseg.ablations.runs import Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.files import home as work_folder
from foodseg.common.files import load_json, write_json
from foodseg.evaluation.predictions import load_predictions
from foodseg.presets import SMOKE

SEEDS = (0, 1)


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
    assert records.keep(runs, SEEDS, folder) == sorted(made, key=lambda run: run.seed)
    assert records.keep(runs, SEEDS, folder) == []  # nothing is new
    completions = [p.completion for p in load_predictions(SMOKE.predictions_folder("grpo-seed0"))]
    shutil.rmtree(work_folder() / "runs")
    assert frame(runs)["seeds"].tolist() == [0, 0]
    assert len(records.restore(runs, SEEDS, folder)) == 3
    pd.testing.assert_frame_equal(frame(runs), before)
    assert all(map(runs.finished, made)) and records.restore(runs, SEEDS, folder) == []
    restored = load_predictions(SMOKE.predictions_folder("grpo-seed0"))
    assert [p.completion for p in restored] == completions
    assert not (SMOKE.run_folder("grpo", 0) / "adapter").exists()


def test_records_of_other_code_stay_where_they_are(runs, tmp_path, capsys):
    (first, *_), folder = finished(runs), tmp_path / "records"
    outcome = runs.folder(first) / "outcome.json"
    write_json(outcome, load_json(outcome) | {"failure": "NoSignalError: none"})
    records.keep(runs, SEEDS, folder)
    other = {"training": None, "evaluation": {"code": "0" * 16}}
    record = records.read_record(folder, first)
    record["outcome"]["identity"] = other
    records.write_record(folder, first, record)
    shutil.rmtree(work_folder() / "runs")
    assert first not in records.restore(runs, SEEDS, folder) and not runs.finished(first)
    assert capsys.readouterr().out.startswith("1 records are of other settings or code")


def test_a_broken_record_is_refused_by_name(runs, tmp_path, capsys):
    (first, *_), folder = finished(runs), tmp_path / "records"
    records.keep(runs, SEEDS, folder)
    path = folder / f"{first.name}.json.xz"
    path.write_bytes(path.read_bytes()[:-20])
    shutil.rmtree(work_folder() / "runs")
    with pytest.raises(DataError, match=f"{first.name}.json.xz: it was cut or changed"):
        records.restore(runs, SEEDS, folder)
    assert records.main(["restore", "--preset", "smoke", "--folder", str(folder)]) == 1
    assert "put a copy back" in capsys.readouterr().err
