"""Pages from records of any code: the runs' own folders stay as they are, tables are replaced."""

import os
import shutil
from functools import partial

import pytest
from made_again import words_of_the_figures
from test_ablations import finish

from foodseg.ablations import records
from foodseg.ablations.frame import ablations_frame
from foodseg.ablations.records import restored
from foodseg.ablations.rows import choose_rows
from foodseg.ablations.runs import Run, Runs, RunsOfAnyCode, same_settings
from foodseg.claims import pages
from foodseg.claims.claim import Claim
from foodseg.claims.field import OURS
from foodseg.claims.frame import EndedRuns, claims_frame
from foodseg.claims.pages import (
    README,
    RELATIVES,
    relatives_rows,
    results_rows,
    rewrite_table,
)
from foodseg.common.errors import DataError
from foodseg.common.files import home as work_folder
from foodseg.presets import KITCHEN, SMOKE

ALL = records.all_runs((0, 1))
TABLE = "before\n\n| name | score |\n| --- | ---: |\n| a | 1 |\n| b | 2 |\n\n| other |\n"


def other_code(identity):
    """The identity as other code would have written it: hashes differ, one setting is missing."""
    changed = {k: "0" * 16 if k in ("code", "source") else v for k, v in identity.items()}
    changed.pop("nothing", None)
    return {k: other_code(v) if isinstance(v, dict) else v for k, v in changed.items()}


@pytest.fixture()
def kept(home, tmp_path):
    """Records of two seeds of GRPO and one of DAPO, of other code; no run is left."""
    runs, folder = Runs(SMOKE), tmp_path / "records"
    grpo, dapo = choose_rows("grpo,dapo")
    made = [Run(grpo, 0), Run(grpo, 1), Run(dapo, 0)]
    for run, right in zip(made, (10, 5, 8), strict=True):
        finish(runs, run, (right, 0))
    records.keep(runs, ALL, folder)
    for run in made:
        record = records.read_record(folder, run)
        record["outcome"]["identity"] = other_code(record["outcome"]["identity"])
        records.write_record(folder, run, record)
    shutil.rmtree(work_folder() / "runs")
    return folder


def test_records_of_other_code_are_shown_and_no_training_takes_them_for_its_own(kept, capsys):
    assert records.restore(Runs(SMOKE), ALL, kept) == []
    assert capsys.readouterr().out.startswith("3 records are of other settings or code")
    home_before = os.environ["FOODSEG_HOME"]
    with restored(SMOKE, kept, ALL) as runs:
        assert os.environ["FOODSEG_HOME"] != home_before
        frame = ablations_frame(runs, choose_rows("grpo,dapo"), (0, 1))
        assert frame["seeds"].tolist() == [2, 1] and frame["stale"].tolist() == [0, 0]
        assert frame["giou"].tolist() == pytest.approx([0.375, 0.4])
        assert len(EndedRuns(runs, (0, 1)).predictions("grpo")) == 2
    assert os.environ["FOODSEG_HOME"] == home_before
    assert not (work_folder() / "runs").exists()


def test_a_checkout_without_a_home_has_none_afterwards(kept, monkeypatch):
    here = work_folder()
    monkeypatch.setattr(records, "home", lambda: here)  # it has the datasets
    monkeypatch.delenv("FOODSEG_HOME")
    with restored(SMOKE, kept, ALL):
        assert "FOODSEG_HOME" in os.environ
    assert "FOODSEG_HOME" not in os.environ


def test_the_command_writes_every_page_and_says_so(kept, tmp_path, monkeypatch, capsys):
    for name in ("README", "RELATIVES", "RESULTS"):
        file = tmp_path / f"{name.lower()}.md"
        file.write_text(getattr(pages, name).read_text())
        monkeypatch.setattr(pages, name, file)
    readme = tmp_path / "readme.md"
    right, wrong = "| LISA 7B | 0.19 |", "| LISA 7B | 0.91 |"
    readme.write_text(readme.read_text().replace(right, wrong))
    for folder in ("records", "records_other_processor"):
        shutil.copytree(kept, SMOKE.figures / folder)
    monkeypatch.setattr(pages, "KITCHEN", SMOKE)
    frame = partial(claims_frame, claims=(Claim("never", OURS, "So.", "none", reason="why"),))
    monkeypatch.setattr(pages, "claims_frame", frame)
    monkeypatch.setattr(pages, "relatives_rows", lambda preset: lambda heading, rows: rows)
    assert pages.main([]) == 0
    assert right in readme.read_text() and wrong not in readme.read_text()
    said = capsys.readouterr().out
    assert "rows measured: ablations.md" in said
    assert "1 of our recipe: 1 can't be asked here." in said
    assert "rounding.md\n" in said
    assert "The tables of readme.md and relatives.md are those of the figures." in said


def test_the_place_of_the_runs_is_put_back_after_an_error(kept):
    home_before = os.environ["FOODSEG_HOME"]
    next(kept.iterdir()).write_bytes(b"cut")
    with pytest.raises(DataError, match="put a copy back"), restored(SMOKE, kept, ALL):
        pass
    assert os.environ["FOODSEG_HOME"] == home_before


def test_runs_of_other_code_are_kept_and_name_their_commit(kept, tmp_path):
    with restored(SMOKE, kept, ALL) as runs:
        again = tmp_path / "again"
        assert len(records.keep(runs, ALL, again)) == 3
        assert records.keep(Runs(SMOKE), ALL, tmp_path / "none") == []
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in kept.iterdir())


@pytest.mark.parametrize(
    ("before", "today", "same"),
    [
        ({"code": "a", "lr": 1}, {"code": "b", "lr": 1}, True),
        ({"code": "a", "lr": 1}, {"code": "a", "lr": 2}, False),
        ({"lr": 1}, {"lr": 1, "nothing": False}, True),
        ({"lr": 1}, {"lr": 1, "nothing": True}, False),
        ({"lr": 1, "gone": 3}, {"lr": 1}, False),
        (
            {"reward": [{"function": "f", "source": "a"}]},
            {"reward": [{"function": "f", "source": "b"}]},
            True,
        ),
        ({"reward": [{"function": "f"}]}, {"reward": [{"function": "g"}]}, False),
        ({"reward": ["f"]}, {"reward": ["f", "g"]}, False),
        ({"training": None}, {"training": {"lr": 1}}, False),
    ],
)
def test_settings_are_the_same_where_only_code_differs(before, today, same):
    assert same_settings(before, today) is same


def test_any_code_can_be_put_back_for_a_checkout_of_its_commit(kept, capsys):
    arguments = ["restore", "--preset", "smoke", "--seeds", "0,1", "--folder", str(kept)]
    assert records.main(arguments) == 0 and "restore: 0 runs" in capsys.readouterr().out
    assert records.main([*arguments, "--any-code"]) == 0
    assert "restore: 3 runs" in capsys.readouterr().out
    (grpo,) = choose_rows("grpo")
    outcome = Runs(SMOKE).outcome(Run(grpo, 1))
    assert outcome == records.read_record(kept, Run(grpo, 1))["outcome"]  # its identity as it was


def test_of_todays_code_nothing_else_is_current(kept):
    (grpo,) = choose_rows("grpo")
    with restored(SMOKE, kept, ALL) as runs:
        assert isinstance(runs, RunsOfAnyCode) and runs.finished(Run(grpo, 1))
        assert not Runs(SMOKE).finished(Run(grpo, 1))


def test_a_tables_rows_are_replaced_and_the_rest_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(TABLE)
    rewrite_table(page, "| name", lambda heading, rows: [[r[0], heading[1]] for r in rows[::-1]])
    assert page.read_text() == TABLE.replace("| a | 1 |\n| b | 2 |", "| b | score |\n| a | score |")
    with pytest.raises(DataError, match="page.md: no table begins with '| title'"):
        rewrite_table(page, "| title", results_rows)


def test_a_title_that_no_row_has_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(RELATIVES.read_text().replace("| GRTO |", "| Grto |", 1))
    with pytest.raises(DataError, match="'Grto' is no row that is measured"):
        rewrite_table(page, "| method | gIoU", relatives_rows(KITCHEN))


@pytest.mark.parametrize("text", [None, "# Results\n"])
def test_a_table_that_is_not_there_is_named(tmp_path, monkeypatch, text):
    file = tmp_path / "results_table.md"
    if text:
        file.write_text(text)
    monkeypatch.setattr(pages, "RESULTS", file)
    with pytest.raises(DataError, match="results_table.md: its table is missing; `make table`"):
        results_rows(["method"], [])


@words_of_the_figures
def test_the_tables_of_the_documents_are_what_the_command_writes(tmp_path):
    page = tmp_path / "page.md"
    for document, start, rows in (
        (README, "| method | paper: gIoU", results_rows),
        (RELATIVES, "| method | gIoU", relatives_rows(KITCHEN)),
    ):
        page.write_text(document.read_text())
        rewrite_table(page, start, rows)
        assert page.read_text() == document.read_text()
