"""Which trainings are today's, and what the others differ in."""

import subprocess

import pytest

from foodseg.ablations import why
from foodseg.ablations.runs import Run, Runs
from foodseg.common.files import PROJECT, write_json
from foodseg.presets import SMOKE


@pytest.fixture()
def runs(home):
    return Runs(SMOKE)


def leave(runs, name, change=lambda config: None, **result):
    """A run's folder as a training leaves it, its settings changed."""
    run = why.run_of(name)
    config = runs.identity(run)["training"]
    change(config)
    folder = SMOKE.run_folder(run.method.name, run.seed)
    write_json(folder / "config.json", config)
    if result:
        write_json(folder / "result.json", result)
    return folder


def test_todays_runs_finished_or_not(runs, capsys, monkeypatch):
    assert why.main(["--preset", "smoke"]) == 0
    assert "nothing has been trained" in capsys.readouterr().out
    leave(runs, "grpo-seed0", commit="none")
    leave(runs, "dapo-validation-seed1")
    assert why.main(["--preset", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["dapo-validation-seed1: today's, unfinished", "grpo-seed0: today's"]


def test_a_setting_is_named_with_its_values_and_the_rest_by_name(runs):
    def change(config):
        config["recipe"]["objective"]["clip_high"] = 0.5
        config["data"], config["code"] = "0" * 16, "1" * 16

    said = why.reason(runs, leave(runs, "grpo-seed0", change))
    assert said.startswith("made again when asked for, since it differs: code; data; ")
    assert said.endswith("recipe.objective.clip_high: 0.5, now 0.2")


def test_changed_code_is_named_by_its_files(runs, monkeypatch):
    def shown(command, **_):
        file = command[-1].partition(":")[2]
        text = (PROJECT / file).read_text()
        # What a log keeps for the replay decides no bit, so it is named as no cause.
        changed = file.endswith(("rl/rewards.py", "training/watched.py"))
        text += "\nSLACK = 1\n" if changed else "\n# a comment\n"
        return subprocess.CompletedProcess(command, 0, text.encode())

    monkeypatch.setattr(why.subprocess, "run", shown)
    folder = leave(runs, "grpo-seed0", lambda c: c.update(code="1" * 16), commit="abc123+")
    assert why.reason(runs, folder).endswith("code (foodseg/rl/rewards.py, since abc123+)")


@pytest.mark.parametrize("name", ["never-seed0", "grpo", "grpo-seed0.before-20260101-000000"])
def test_other_folders_are_nobodys(name):
    assert why.run_of(name) is None
    assert why.run_of("b-grto-seed2") == Run(why.choose_rows("b-grto")[0], 2)


def test_a_broken_config_is_said(runs):
    folder = leave(runs, "grpo-seed0")
    (folder / "config.json").write_text("{")
    assert "config.json" in why.reason(runs, folder)
