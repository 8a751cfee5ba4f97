"""The same trainings where the processor rounds otherwise: the page by hand, and that it does."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from foodseg.ablations import rounding
from foodseg.ablations.rows import choose_rows
from foodseg.ablations.runs import Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.files import write_json, write_lines
from foodseg.evaluation.predictions import compare, save_predictions
from foodseg.presets import SMOKE, SMOKE_ROUNDING, get_preset

(GRPO,) = choose_rows("grpo")


def write_run(runs: Runs, seed: int, sample, share: float, rewards: list[float]) -> None:
    """A run with one answer, whose mask is that share of the truth, and a log of these rewards."""
    run, mask = Run(GRPO, seed), sample.union_mask()
    found = np.zeros_like(mask)
    found[mask] = np.arange(mask.sum()) < share * mask.sum()
    save_predictions(runs.preset, run.name, [compare(sample, found, True)], 1.0)
    origin = {"adapter": f"{runs.preset.name}{seed}", "commit": "c", "processor": "p"}
    outcome = {"giou": share, "versions": {"torch": "2"}} | origin
    write_json(runs.folder(run) / "outcome.json", outcome)
    rows = [{"step": step, "reward_total": reward} for step, reward in enumerate(rewards, 1)]
    write_lines(runs.log(run), rows)


@pytest.mark.parametrize("bad", [["--jobs", "0"], ["--seeds", "x"]])
def test_its_command_refuses_in_one_sentence(home, monkeypatch, capsys, bad):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert rounding.main(["--preset", "smoke", *bad]) == 1
    said = capsys.readouterr().err
    assert said.startswith("rounding: ") and said.count("\n") == 1


def test_its_command_runs_the_older_instructions_and_writes_the_page(both, monkeypatch):
    given = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(rounding, "run_all", lambda *arguments: given.append(arguments) or [])
    assert rounding.main(["--preset", "smoke", "--seeds", "0,1"]) == 0
    assert given[0][0].preset == SMOKE_ROUNDING
    assert (SMOKE.figures / "rounding.md").exists()


@pytest.fixture()
def both(home, samples):
    """(usual, older) with two seeds of GRPO, of 20% and 60% of the truth, then of 40% and 50%."""
    sample = next(one for one in samples if one.union_mask().sum() > 200)
    usual, older = Runs(SMOKE), Runs(SMOKE_ROUNDING)
    write_run(usual, 0, sample, 0.2, [1.0, 2.0, 3.0])
    write_run(usual, 1, sample, 0.6, [1.0, 2.0, 3.0])
    write_run(older, 0, sample, 0.4, [1.0, 2.5, 3.0])
    write_run(older, 1, sample, 0.5, [1.0, 2.0, 2.5])
    return usual, older


def test_the_frame_by_hand(both):
    (line,) = rounding.rounding_frame(*both, [GRPO], [0, 1, 2]).itertuples()
    assert line.seeds == 2  # seed 2 has not been run
    near = {"abs": 0.01}  # the masks are of whole pixels
    assert line.giou == pytest.approx(0.4, **near)
    assert line.giou_older == pytest.approx(0.45, **near)
    assert line.difference == pytest.approx(0.05, **near)
    assert line.two_roundings == pytest.approx((0.2 + 0.1) / 2, **near)
    assert line.two_seeds == pytest.approx((0.4 + 0.1) / 2, **near)
    assert (line.parts_least, line.parts_most) == (2, 3)


def test_a_seed_counts_where_both_roundings_have_it(both, samples):
    usual, older = both
    write_run(usual, 2, samples[0], 1.0, [1.0])
    frame = rounding.rounding_frame(usual, older, [GRPO], [0, 1, 2])
    pd.testing.assert_frame_equal(frame, rounding.rounding_frame(usual, older, [GRPO], [0, 1]))
    (line,) = rounding.rounding_frame(usual, older, [GRPO], [1]).itertuples()
    assert line.seeds == 1 and np.isnan([line.two_seeds, line.giou_sd]).all()


def test_the_page_says_what_was_compared_and_where_it_comes_from(both, home):
    settings = rounding.older_instructions("AVX512")
    rounding.write_page(*both, [0, 1], settings, home / "page")
    page = (home / "page.md").read_text()
    assert "`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`" in page
    assert "| 2 to 3 | 0.1" in page
    assert "| GRPO, seed 1, usual | c | p | 2 | smoke1 |" in page
    assert "| GRPO, seed 1, older | c | p | 2 | smoke-rounding1 |" in page
    assert (home / "page.csv").read_text().startswith("row,title,seeds,giou,giou_older,")


def test_without_a_run_to_compare_it_says_what_to_do(home):
    usual, older = Runs(SMOKE), Runs(SMOKE_ROUNDING)
    with pytest.raises(DataError, match=r"nothing to compare yet; `make PRESET=smoke`"):
        rounding.write_page(usual, older, [0], {}, home / "page")
    assert not (home / "page.md").exists()


def test_the_same_questions_in_folders_of_its_own(home):
    own = get_preset("smoke-rounding")
    assert own.samples_file("test") == SMOKE.samples_file("test")
    assert own.run_folder("grpo", 0) != SMOKE.run_folder("grpo", 0)
    assert replace(own, name="smoke", data="") == SMOKE


def test_a_child_is_held_to_the_older_instructions():
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in rounding.OLDER:
        pytest.skip(f"this processor has {capability}")
    settings = rounding.older_instructions(capability)
    command = rounding.older_command(settings, Runs(SMOKE_ROUNDING), Run(GRPO, 3))
    start = command.index(sys.executable)
    asked = ["grpo", "--seed", "3", "--preset", "smoke-rounding", "--until-stdin-closes"]
    assert command[start + 1 :] == ["-m", "foodseg.ablations", *asked]
    held = command[:start]
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    asked = [*held, sys.executable, "-c", ask]
    said = subprocess.run(asked, capture_output=True, text=True, env=os.environ, check=True)
    older = settings["ATEN_CPU_CAPABILITY"]
    assert said.stdout.strip() == {"avx2": "AVX2", "default": "DEFAULT"}[older]


def test_a_processor_without_an_older_set_is_named():
    with pytest.raises(DataError, match="this processor has SVE256; it takes one with AVX512"):
        rounding.older_instructions("SVE256")
