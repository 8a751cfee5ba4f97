"""The ablation table with stand-ins for the trainings: what runs, what is kept, what is told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report import prediction

from foodseg import recipes
from foodseg.ablations import execute as one
from foodseg.ablations import frame as numbers
from foodseg.ablations import outputs
from foodseg.ablations import run_all as table
from foodseg.ablations.__main__ import main, parse
from foodseg.ablations.differences import difference_word, differences_sentence, modes_sentence
from foodseg.ablations.dots import NEAR, difference_dots, scale_limit
from foodseg.ablations.frame import ablations_frame
from foodseg.ablations.rows import (
    BASE,
    BOUND,
    OTHER,
    SUPERVISED,
    Row,
    all_rows,
    choose_rows,
    differences,
)
from foodseg.ablations.run_all import run_all, run_table, runs_at_once, seconds_left, seconds_of
from foodseg.ablations.runs import Run, Runs, runs_of
from foodseg.ablations.validation import VALIDATION_SHARE, validation_split
from foodseg.common.errors import DataError
from foodseg.common.files import write_json, write_lines
from foodseg.data.samples import load_samples, save_samples
from foodseg.evaluation.predictions import summarise
from foodseg.models.segmenter import DECODER
from foodseg.presets import KITCHEN, PAPER, SMOKE, parse_seeds
from foodseg.recipes import DAPO, GRPO, SAM_R1
from foodseg.report.style import save
from foodseg.rl.dynamic_sampling import NoSignalError
from foodseg.supervised.targets import LISA

GRPO_ROW, DAPO_ROW = Row("grpo", "GRPO", GRPO), Row("dapo", "DAPO", DAPO)
LISA_ROW = Row("lisa", "LISA", LISA)
VERSIONS = {"torch": "2", "transformers": "5"}
ORIGIN = {"adapter": "a1", "commit": "c1", "device": "CPU", "processor": "EPYC"}
ORIGIN["versions"] = VERSIONS


@pytest.fixture()
def runs(home) -> Runs:
    """The smoke dataset in a folder of its own, and nothing run yet."""
    return Runs(SMOKE)


def write_predictions(runs: Runs, name: str, intersections: tuple[int, ...]) -> None:
    """Of ten pixels; only the first question's food is right."""
    made = [prediction(i, value, foods_right=i == 0) for i, value in enumerate(intersections)]
    folder = runs.preset.predictions_folder(name)
    write_lines(folder / "predictions.jsonl", [asdict(p) for p in made])
    write_json(folder / "result.json", {"row": name, "seconds": 1.0} | summarise(made) | ORIGIN)


def finish(runs: Runs, run: Run, intersections=(10, 0), seconds: float = 3.0, steps=3) -> None:
    """Leave what a finished run leaves."""
    write_predictions(runs, run.name, intersections)
    outcome = {"row": run.row.name, "identity": runs.identity(run), "wall_seconds": seconds}
    outcome |= {"giou": 0.5, "ciou": 0.5, "seconds": seconds, "peak_memory_mb": 100.0 + run.seed}
    write_json(runs.folder(run) / "outcome.json", outcome | ORIGIN)
    if run.row.trained and run.row != LISA_ROW:
        write_log(runs, run, steps)


def write_log(runs: Runs, run: Run, steps: int = SMOKE.steps) -> None:
    """A run that sampled its whole budget, in so many steps."""
    row = {"reward_accuracy": 1.5, "reward_total": 2.5, "parse_rate": 0.5, "peak_memory_mb": 7.0}
    write_lines(runs.log(run), [{"step": step + 1} | row for step in range(steps)])
    sizes = {name: getattr(SMOKE, name) for name in ("prompts_per_step", "group_size")}
    result = {"preset": sizes, "seconds": 3.0, "steps": steps}
    result["sampled"] = SMOKE.steps * SMOKE.round_size
    write_json(runs.run_folder(run) / "result.json", result)


def test_every_recipe_is_a_row_and_families_stand_together(monkeypatch):
    rows = all_rows()
    names = {row.name for row in rows}
    assert {"base", "bound", "sft", "lisa", "lisa-ingredients", "grpo", "dapo"} <= names
    changes = sum(a.family != b.family for a, b in zip(rows, rows[1:], strict=False))
    assert changes + 1 == len({row.family for row in rows})
    several = (replace(GRPO, name="sd-grpo-x"), replace(GRPO, name="grpo-y"))
    mine = replace(GRPO, name="mine", title="Mine")
    monkeypatch.setattr(recipes, "MINE", mine, raising=False)
    assert [(row.name, row.family) for row in all_rows()][-1] == ("mine", OTHER)
    monkeypatch.setattr(recipes, "SEVERAL", several, raising=False)
    family = {row.name: row.family for row in all_rows()}
    assert family["sd-grpo-x"] == "SD-GRPO" and family["grpo-y"] == family["grpo"]
    monkeypatch.setattr(recipes, "TWIN", replace(DAPO, name="grpo"), raising=False)
    with pytest.raises(DataError, match="two methods are named 'grpo'"):
        all_rows()


def test_rows_are_chosen_by_name_and_an_unknown_one_is_named():
    assert [row.name for row in choose_rows("dapo, base")] == ["base", "dapo"]
    assert choose_rows("") == all_rows()
    with pytest.raises(DataError, match="'lunch' is no row"):
        choose_rows("grpo,lunch")
    # The differences name what a recipe changes and nothing else.
    assert differences(GRPO_ROW) == "" and differences(BASE) == "not trained"
    (sft,) = choose_rows("sft")
    assert differences(sft) == "no rewards: cross-entropy on what write_references writes"
    text = differences(DAPO_ROW)
    assert "dynamic_sampling: True" in text and "clip_high: 0.28" in text
    assert "clip_low" not in text and "reward" not in text


def test_a_rows_command_asks_for_that_row():
    for row in all_rows():
        words = Run(row, 2, "validation").command(SMOKE).split()
        assert words[:3] == ["python", "-m", "foodseg.ablations"]
        options = parse(words[3:])
        assert options.row == row.name and options.seed == (2 if row.trained else 0)
        assert (options.split, options.preset) == ("validation", "smoke")
    assert Run(GRPO_ROW, 2).command(KITCHEN) == "python -m foodseg.ablations grpo --seed 2"


def test_validation_takes_whole_training_plates_whatever_their_order(home):
    samples = load_samples(SMOKE.samples_file("train"))
    learning, choosing = validation_split(samples)
    plates = [{sample.image for sample in part} for part in (learning, choosing)]
    assert not plates[0] & plates[1]
    assert sorted(learning + choosing, key=str) == sorted(samples, key=str)
    assert len(plates[1]) == round(VALIDATION_SHARE * len(plates[0] | plates[1]))
    assert learning == [sample for sample in samples if sample in learning]
    again = validation_split(samples[::-1])
    assert {s.sample_id for s in again[1]} == {s.sample_id for s in choosing}
    with pytest.raises(DataError, match="training plates"):
        validation_split(load_samples(SMOKE.samples_file("test")))
    with pytest.raises(DataError, match="1 plates"):
        validation_split([sample for sample in samples if sample.image == samples[0].image])


def test_a_validation_run_keeps_to_its_own_folder_and_samples(runs):
    test, validation = Run(GRPO_ROW, 1), Run(GRPO_ROW, 1, "validation")
    assert (test.name, validation.name) == ("grpo-seed1", "grpo-validation-seed1")
    assert runs.log(test) != runs.log(validation) and runs.folder(test) != runs.folder(validation)
    assert runs.log(validation) == runs.preset.run_folder(validation.method.name, 1) / "log.jsonl"
    learning, asked = runs.samples("validation")
    assert {sample.split for sample in learning + asked} == {"train"}
    assert {sample.split for sample in runs.samples("test")[1]} == {"test"}
    assert BOUND not in [run.row for run in runs_of([BASE, BOUND], [0], "validation")]
    assert "--split validation" in outputs.write_results(runs, [BASE, BOUND], [0], "validation")
    assert list(outputs.read_table(runs.preset, "validation").index) == ["base"]
    assert not outputs.figure_path(runs.preset).with_suffix(".csv").exists()


@pytest.fixture()
def stand_ins(monkeypatch):
    """Stand-ins for training and evaluation; `calls` says what was asked of them."""
    calls = []

    def train(preset, recipe, seed, samples):
        calls.append(("train", recipe.name, seed, len(samples)))
        row = {"peak_memory_mb": 9.0}
        write_lines(
            preset.run_folder(recipe.name, seed) / "log.jsonl", [row, row | {"peak_memory_mb": 5}]
        )
        return {"seconds": 4.0, "steps": 2}

    def evaluate(preset, row, samples, mllm, segmenter, labelled=False):
        calls.append(("evaluate", row, mllm.adapter, segmenter))
        scores = {"giou": 0.4, "ciou": 0.3, "parse_rate": 1.0, "foods_right": 0.5}
        write_json(preset.predictions_folder(row) / "result.json", scores)
        return scores | ORIGIN

    class Policy:
        adapter = None

        def load_adapter(self, path):
            self.adapter = path.parent.name

    monkeypatch.setattr(one, "train", train)
    monkeypatch.setattr(one, "evaluate", evaluate)
    monkeypatch.setattr(one, "load_policy", lambda preset, prompt=None: Policy())
    monkeypatch.setattr(one, "load_segmenter", lambda preset, decoder=None: decoder)
    monkeypatch.setattr(one, "write_card", lambda folder: calls.append(("card", folder.name)))
    return calls


def test_a_run_is_finished_until_its_settings_change_or_its_predictions_are_lost(runs, stand_ins):
    run = Run(GRPO_ROW, 1)
    assert not runs.finished(run)
    outcome = one.execute(runs, run)
    evaluation = ("evaluate", "grpo-seed1", "grpo-seed1", None)
    train, _ = runs.samples("test")
    assert stand_ins == [("train", "grpo", 1, len(train)), evaluation, ("card", "grpo-seed1")]
    assert (outcome["giou"], outcome["seconds"], outcome["peak_memory_mb"]) == (0.4, 4.0, 9.0)
    assert runs.outcome(run) == json.loads(json.dumps(outcome)) and runs.finished(run)
    assert not Runs(replace(runs.preset, steps=99)).finished(run)
    assert not runs.finished(Run(replace(GRPO_ROW, method=replace(GRPO, max_rounds=3)), 1))
    (runs.preset.predictions_folder(run.name) / "result.json").unlink()
    assert not runs.finished(run)


def test_the_base_is_evaluated_alone_and_a_trained_decoder_with_its_adapter(runs, stand_ins):
    one.execute(runs, Run(BASE))
    assert stand_ins == [("evaluate", "base", None, None)] and runs.finished(Run(BASE))
    decoder = runs.run_folder(Run(GRPO_ROW)) / "adapter" / DECODER
    decoder.parent.mkdir(parents=True)
    decoder.touch()
    one.execute(runs, Run(GRPO_ROW))
    assert ("evaluate", "grpo-seed0", "grpo-seed0", decoder) in stand_ins


def test_labelled_points_are_read_in_evaluation_where_the_recipe_has_them(
    runs, stand_ins, monkeypatch
):
    evaluate, read = one.evaluate, {}
    monkeypatch.setattr(
        one, "evaluate", lambda *given: read.update({given[1]: given[5:]}) or evaluate(*given)
    )
    for row in (GRPO_ROW, Row("sam-r1", "SAM-R1", SAM_R1)):
        one.execute(runs, Run(row))
    assert read == {"grpo-seed0": (False,), "sam-r1-seed0": (True,)}


@pytest.mark.parametrize("row", [BASE, LISA_ROW], ids=lambda row: row.name)
def test_all_that_an_evaluation_reads_decides_whether_it_is_current(runs, row):
    run = Run(row, split="validation")
    changes = {"mllm": "elsewhere", "segmenter": "elsewhere", "image_side": 336}
    changes |= {"segmenter_config": PAPER.segmenter_config, "max_new_tokens": 99}
    changes |= {"prompt_template": PAPER.prompt_template, "evaluation_batch": 3, "dtype": "float64"}
    identities = [runs.identity(run), runs.identity(Run(row))]
    identities += [Runs(replace(SMOKE, **{k: v})).identity(run) for k, v in changes.items()]
    same = Runs(replace(SMOKE, checkpoint_every=7, published="elsewhere"))
    assert same.identity(run) == identities[0]
    _, (asked, *_) = runs.samples("validation")
    file = SMOKE.samples_file("train")
    # The plates that are asked about count as those that are learnt from do.
    changed = [replace(s, question="Why?") if s == asked else s for s in load_samples(file)]
    save_samples(changed, file)
    identities.append(Runs(SMOKE).identity(run))
    assert all(identity not in identities[:i] for i, identity in enumerate(identities))


def test_no_signal_is_a_result_and_another_error_is_raised_and_tried_again(
    runs, stand_ins, monkeypatch
):
    run = Run(DAPO_ROW)

    def fail(*_):
        raise RuntimeError("the norm is not finite")

    def nested(*_):  # and two processes do not share a run
        with pytest.raises(DataError, match="another process is at it"):
            one.execute(runs, run)
        raise NoSignalError("3 of 8 groups")

    monkeypatch.setattr(one, "train", fail)
    with pytest.raises(RuntimeError, match="not finite"):
        one.execute(runs, run)
    assert runs.outcome(run)["failure"] == "RuntimeError: the norm is not finite"
    assert not runs.finished(run)
    monkeypatch.setattr(one, "train", nested)
    outcome = one.execute(runs, run)
    assert outcome["failure"] == "NoSignalError: 3 of 8 groups" and runs.finished(run)


def test_a_place_that_cannot_be_written_is_named_in_one_sentence(home, capsys):
    (home / "runs").write_text("a file where a folder should be")
    for arguments in (["dapo", "--preset", "smoke"], ["--rows", "dapo", "--preset", "smoke"]):
        assert main(arguments) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if "ablations: " in line]
        assert len(said) == 1 and f"{home / 'runs'}" in said[0]
        assert "it can't be written" in said[0] and "start again" in said[0]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["dapo", "--seed", "-1"], "SEEDS: -1 repeats one or has one below 0"),
        (["--rows", "dapo", "--jobs", "-1"], "--jobs -1: nothing would ever start; give 1"),
    ],
)
def test_numbers_below_what_can_be_are_refused_in_one_sentence(home, capsys, arguments, words):
    assert main([*arguments, "--preset", "smoke"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"ablations: {words}")


CHILD = """
import json, os, signal, sys, time
from pathlib import Path
folder, what = Path(sys.argv[1]), sys.argv[2]
with open(folder.parent / "times", "a") as times:
    times.write(f"{time.time()} 1 {folder.name}" + chr(10))
print("hello from", folder.name)
(folder / "pid").write_text(str(os.getpid()))
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
while what == "pair" and (folder.parent / "times").read_text().count(" 1 ") < 2:
    time.sleep(0.05)
time.sleep(60 if what == "long" else 0.05)
outcome = json.loads((folder / "ready.json").read_text())
if what == "fails":
    outcome |= {"failure": "NoSignalError: 3 of 8 groups"}
(folder / "outcome.json").write_text(json.dumps(outcome))
with open(folder.parent / "times", "a") as times:
    times.write(f"{time.time()} -1 {folder.name}" + chr(10))
"""


def stand_in_command(**behaviour):
    """A process that takes a run's place: it ends well, "fails", is "killed", or is "long".

    A "pair" ends when two have been started.
    """

    def command(runs: Runs, run: Run) -> list[str]:
        folder = runs.folder(run)
        finish(runs, run)
        os.replace(folder / "outcome.json", folder / "ready.json")
        what = behaviour.get(run.name.replace("-", "_"), "ends")
        return [sys.executable, "-c", CHILD, str(folder), what]

    return command


def events(runs: Runs) -> list[tuple[float, int, str]]:
    lines = (runs.folder(Run(BASE)).parent / "times").read_text().splitlines()
    return sorted((float(t), int(d), name) for t, d, name in map(str.split, lines))


def test_large_weights_leave_memory_for_fewer_runs(tmp_path, monkeypatch):
    machine = {"SC_PHYS_PAGES": 6, "SC_PAGE_SIZE": 1000}
    monkeypatch.setattr(table, "BYTES_OF_A_RUN", 1000)
    monkeypatch.setattr(os, "sysconf", machine.get)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    for weights, runs in ((0, 4), (500, 3), (1000, 2), (10_000, 1)):  # 4 cores, 6,000 bytes
        (tmp_path / "model.safetensors").write_bytes(bytes(weights))
        assert runs_at_once(replace(KITCHEN, mllm=str(tmp_path))) == runs
    assert runs_at_once(replace(KITCHEN, device="cuda")) == 1


def test_the_time_that_is_left_by_hand():
    assert seconds_left([], waiting=2, running=[10.0], jobs=2) is None
    # Trainings took 100 on average: (100 + 100 + 90) / 2.
    assert seconds_left([80.0, 120.0], waiting=2, running=[10.0], jobs=2) == 145
    # No run is quicker than itself, however many processes there are.
    assert seconds_left([100.0], waiting=0, running=[10.0], jobs=64) == 90


def test_a_run_that_a_notebook_trained_counts_its_training():
    assert seconds_of({"wall_seconds": 12.0, "seconds": 160.0}) == 160
    assert seconds_of({"wall_seconds": 190.0, "seconds": 160.0}) == 190
    assert seconds_of({"wall_seconds": 190.0, "failure": "NoSignalError: none"}) == 190


def test_as_many_runs_at_once_as_asked_for_and_each_once(runs, capsys):
    wanted = runs_of([GRPO_ROW, DAPO_ROW], [0, 1])
    command = stand_in_command(grpo_seed0="pair", dapo_seed0="pair")
    assert run_all(runs, wanted, jobs=2, command=command) == []
    log = events(runs)
    assert sorted(name for _, d, name in log if d > 0) == sorted(run.name for run in wanted)
    assert max(np.cumsum([change for _, change, _ in log])) == 2
    told = capsys.readouterr().out
    assert told.count("gIoU 0.500") == 4 and "GRPO, seed 1" in told
    assert (runs.folder(wanted[0]) / "output.txt").read_text() == "hello from grpo-seed0\n"
    run_all(runs, [*wanted, Run(BASE)], jobs=2, command=stand_in_command())
    assert [name for _, _, name in events(runs)[8:]] == ["base", "base"]
    run_all(runs, wanted, jobs=2, command=None)  # nothing to start


def test_eight_seeds_come_seed_by_seed_with_a_table_after_each(runs, monkeypatch):
    seeds = parse_seeds(parse(["--seeds", "0,1,2,3,4,5,6,7"]).seeds)
    wanted = runs_of([BASE, GRPO_ROW, DAPO_ROW], seeds)
    assert [run.seed for run in wanted[1:]] == [seed for seed in range(8) for _ in range(2)]
    written = []
    monkeypatch.setattr(table, "write_results", lambda *given: written.append(given[2]) or "")
    options = {"jobs": 1, "command": stand_in_command()}
    assert run_table(runs, [BASE, GRPO_ROW, DAPO_ROW], seeds, **options) == 0
    assert written == [list(range(ended)) for ended in range(1, 9)]
    assert run_table(runs, [BASE, GRPO_ROW, DAPO_ROW], seeds, jobs=1) == 0  # nothing to run
    assert written[8:] == [seeds]


def test_an_interrupted_table_has_what_ended_and_is_left_if_nothing_has(runs, interruptible):
    command = stand_in_command(grpo_seed0="long", grpo_seed1="long")
    for seeds, begun in (([0], 0), ([2, 1], 1)):  # seed 2 ends before seed 1 begins
        pid = runs.folder(Run(GRPO_ROW, begun)) / "pid"
        interrupt_when(lambda pid=pid: pid.exists() and pid.read_text())
        assert outputs.read_table(runs.preset) is None
        with pytest.raises(KeyboardInterrupt):
            run_table(runs, [GRPO_ROW], seeds, jobs=1, command=command)
    assert outputs.read_table(runs.preset).loc["grpo", ["seeds", "of"]].tolist() == [1, 2]


def test_a_failure_is_told_and_stops_nothing(home, runs, capsys):
    wanted = runs_of([GRPO_ROW, DAPO_ROW], [0, 1])
    command = stand_in_command(grpo_seed0="fails", dapo_seed0="killed")
    failed = run_all(runs, wanted, jobs=1, command=command)
    assert [run.name for run in failed] == ["grpo-seed0", "dapo-seed0"]
    assert all(runs.finished(run) for run in wanted if run.name != "dapo-seed0")
    assert "signal 9" in runs.outcome(failed[1])["failure"]
    told = capsys.readouterr().out
    assert "GRPO, seed 0: failed" in told and "3 of 8 groups" in told
    assert str(home) not in told
    again = run_all(runs, wanted, jobs=1, command=stand_in_command())
    assert again == [] and runs.finished(failed[1])


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where a shell started the tests in the background and had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_when(begun) -> None:
    """Ctrl-C, sent once `begun()` is true."""

    def interrupt():
        while not begun():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


def test_an_interrupt_ends_the_children(runs, interruptible, monkeypatch):
    pid = runs.folder(Run(GRPO_ROW)) / "pid"
    interrupt_when(lambda: pid.exists() and pid.read_text())
    monkeypatch.setattr(subprocess.Popen, "kill", lambda child: pytest.fail("had to be killed"))
    with pytest.raises(KeyboardInterrupt):
        run_all(runs, [Run(GRPO_ROW)], jobs=1, command=stand_in_command(grpo_seed0="long"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert runs.outcome(Run(GRPO_ROW)) is None


def test_a_child_that_will_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(table, "SECONDS_TO_END", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"
    script = f"{deaf}; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        process.stdout.readline()  # from here on it hears no SIGTERM
        table._stop([SimpleNamespace(process=process)])
        assert process.returncode == -signal.SIGKILL


def test_how_one_row_ends_is_told(runs, monkeypatch, capsys):
    name = "foodseg.ablations.__main__.execute"
    for outcome, said in (
        ({"giou": 0.5, "ciou": 0.25}, "gIoU 0.500, cIoU 0.250\n"),
        ({"failure": "NoSignalError: none"}, "NoSignalError: none\n"),
    ):
        monkeypatch.setattr(name, lambda *_, outcome=outcome: outcome)
        assert main(["grpo", "--preset", "smoke"]) == 0 and capsys.readouterr().out == said

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(name, interrupt)
    assert main(["grpo", "--preset", "smoke"]) == 130
    assert capsys.readouterr().err == "ablations: interrupted; start it again to go on.\n"


def test_rows_that_a_split_does_not_have_are_named(runs, capsys):
    assert main(["--preset", "smoke", "--rows", "bound", "--split", "validation"]) == 1
    said = "ablations: rows: none of these is asked on the validation plates; choose others.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("seconds", "closed", "status"), [(60, True, 1), (0.2, False, 0)])
def test_a_child_ends_when_its_stdin_is_closed_or_its_work_is_done(seconds, closed, status):
    script = (
        "import threading, time; from foodseg.ablations.__main__ import end_with_stdin\n"
        "threading.Thread(target=end_with_stdin, daemon=True).start()\n"
        f"print('ready', flush=True); time.sleep({seconds})"
    )
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout.readline() == b"ready\n"
        if closed:
            child.stdin.close()
        assert child.wait(15) == status


def frame_of(runs: Runs, *rows: Row, seeds=(0,)) -> pd.DataFrame:
    return ablations_frame(runs, rows, list(seeds))


def test_the_table_by_hand(runs):
    # IoU 1.0, 0.0 and 0.5, 0.0: GRPO's seeds average 0.75 and 0; DAPO has 0.5 and 0.
    finish(runs, Run(GRPO_ROW, 0), (10, 0), seconds=3)
    finish(runs, Run(GRPO_ROW, 1), (5, 0), seconds=5)
    finish(runs, Run(DAPO_ROW, 0), (5, 0))
    frame = frame_of(runs, BASE, GRPO_ROW, DAPO_ROW, seeds=(0, 1))
    grpo = frame.loc["grpo"]
    assert grpo.giou == pytest.approx(0.375) and grpo.giou_sd == pytest.approx(0.1768, abs=1e-4)
    assert grpo.ciou == pytest.approx(0.375) and grpo.giou_low == 0 < 0.375 < grpo.giou_high
    assert (grpo.foods_right, grpo.parse_rate) == (0.5, 1.0)
    assert (grpo.seconds, grpo.peak_memory_mb, grpo.seeds, grpo.of) == (4, 101, 2, 2)
    assert grpo.command == "python -m foodseg.ablations grpo --seed 0 --preset smoke"
    # One seed of DAPO doesn't tell how its seeds scatter, so the gain has no interval.
    assert grpo.gain == pytest.approx(0.125) and np.isnan([grpo.gain_low, grpo.gain_high]).all()
    assert frame.loc[["base", "dapo"], "gain"].isna().all()
    lines = outputs.readable(frame)
    assert lines.loc["GRPO", "gIoU"] == "0.375 ± 0.177"
    assert outputs.costs(frame).loc["GRPO", ["seconds, quickest seed", "command"]].tolist() == [
        "3",
        "`python -m foodseg.ablations grpo --seed 0 --preset smoke`",
    ]
    gains = lines["less DAPO's"]
    assert gains["GRPO"] == "+0.125 (one seed)" and gains["DAPO"] == "–"
    finish(runs, Run(DAPO_ROW, 1), (5, 1))
    finish(runs, Run(BASE), (0, 0))
    frame = frame_of(runs, BASE, GRPO_ROW, DAPO_ROW, seeds=(0, 1))
    # The base has no seeds, so one run of it is enough.
    assert frame.loc[["base", "grpo"], list(numbers.GAIN)].notna().all(axis=None)
    assert frame.loc["grpo", "gain_low"] < 0 < frame.loc["grpo", "gain_high"]
    assert outputs.readable(frame).loc["GRPO", "a difference"] == "not shown"


def test_completions_sampled_and_learnt_from_are_counted(runs):
    finish(runs, Run(GRPO_ROW, 0))
    sentence = outputs.rollouts_sentence(frame_of(runs, GRPO_ROW))
    assert sentence == "Rollouts: the runs of recipes sampled 192 completions each."
    finish(runs, Run(DAPO_ROW, 0), steps=2)
    sentence = outputs.rollouts_sentence(frame_of(runs, GRPO_ROW, DAPO_ROW))
    assert sentence.endswith("sampled 192 completions each and learnt from 128 to 192.")


def test_what_is_missing_failed_or_stale_is_said(runs, capsys):
    finish(runs, Run(GRPO_ROW, 0))
    failure = {"failure": "NoSignalError: no group", "identity": {}}
    write_json(runs.folder(Run(DAPO_ROW, 1)) / "outcome.json", failure)
    frame = frame_of(runs, GRPO_ROW, DAPO_ROW, seeds=(0, 1))
    said = outputs.missing_sentence(frame)
    assert "seeds that ended: 1 of 2: grpo." in said
    assert said.endswith("ablations --rows grpo --seeds 0,1 --preset smoke` runs them.")
    assert main([*said.split("`")[1].split()[3:], "--jobs", "0"]) == 1
    assert "--jobs 0: nothing would" in capsys.readouterr().err  # all before it was understood
    text = "\n".join(outputs.sections(frame))
    assert "DAPO failed. seed 1: NoSignalError: no group" in text and "0 of 2, failed" in text
    stale = frame_of(Runs(replace(runs.preset, steps=9)), GRPO_ROW)
    assert "Of other settings or code than today's: grpo." in outputs.missing_sentence(stale)
    assert outputs.missing_sentence(frame_of(runs, GRPO_ROW)) == ""
    # Three seeds are those of `make ablations`: more were asked for, and others may have them.
    for seed in (1, 2):
        finish(runs, Run(GRPO_ROW, seed))
    frame_of_eight = frame_of(runs, GRPO_ROW, seeds=range(8))
    assert outputs.missing_sentence(frame_of_eight) == ""
    assert outputs.readable(frame_of_eight).loc["GRPO", "seeds"] == "3"
    assert outputs.not_in_table(None, [GRPO_ROW, DAPO_ROW]) == "None of 2 rows is measured."
    said = outputs.not_in_table(frame, [GRPO_ROW, DAPO_ROW])
    assert said == "Not measured: dapo. With fewer seeds than asked for: 1."
    said = outputs.not_in_table(frame_of(runs, GRPO_ROW), [GRPO_ROW, DAPO_ROW])
    assert said == "Not measured: dapo."
    assert outputs.not_in_table(frame_of(runs, GRPO_ROW), [GRPO_ROW]) == "Every row is measured."


def test_naming_is_told_of_questions_for_several_foods_alone(runs):
    finish(runs, Run(GRPO_ROW, 0))
    assert outputs.readable(frame_of(runs, GRPO_ROW)).loc["GRPO", "of several"] == "–"  # none asked
    asked = runs.samples("test")[1]
    several = [sample for sample in asked if len(sample.foods) > 1]
    assert 1 < len(several) < len(asked)
    right = {sample.sample_id for sample in asked} - {several[0].sample_id}
    file = runs.preset.predictions_folder("grpo-seed0") / "predictions.jsonl"
    made = [prediction(i, 5, sample_id=one.sample_id) for i, one in enumerate(asked)]
    made = [replace(one, foods_right=one.sample_id in right) for one in made]
    write_lines(file, [asdict(one) for one in made])
    (row,) = frame_of(runs, GRPO_ROW).itertuples()
    assert row.foods_right_several == pytest.approx(1 - 1 / len(several))
    assert row.foods_right == pytest.approx(1 - 1 / len(asked))


def test_the_teacher_forced_score_stands_beside_and_is_named_so(runs):
    finish(runs, Run(LISA_ROW, 0), (5, 5))
    write_predictions(runs, "lisa-teacher-forced-seed0", (9, 9))
    frame = frame_of(runs, LISA_ROW)
    forced = frame.loc["lisa-teacher-forced"]
    assert (frame.loc["lisa"].giou, forced.giou) == pytest.approx((0.5, 0.9))
    assert "another protocol" in forced.title
    assert np.isnan(forced.parse_rate) and np.isnan(forced.learnt_least)


def test_the_files_are_written_and_read_back(home, runs):
    finish(runs, Run(GRPO_ROW, 0))
    finish(runs, Run(BASE))
    finish(runs, Run(DAPO_ROW, 0))
    said = outputs.write_results(runs, [GRPO_ROW], [0])
    path = outputs.figure_path(runs.preset)
    assert "3 of 3 rows measured" in said  # the base and DAPO have results, so it stays in
    text = path.with_suffix(".md").read_text()
    command = "`python -m foodseg.ablations grpo --seed 0 --preset smoke`"
    assert all(words in text for words in ("## Not trained", command, "a1", "EPYC"))
    assert str(home) not in text
    with Image.open(path.with_suffix(".png")) as image:
        assert image.format == "PNG"
    frame, again = frame_of(runs, BASE, GRPO_ROW, DAPO_ROW), outputs.read_table(runs.preset)
    assert outputs.sections(again) == outputs.sections(frame)
    assert outputs.rollouts_sentence(again) == outputs.rollouts_sentence(frame)
    assert outputs.read_table(runs.preset, "validation") is None
    assert frame["stepwise"].tolist()[1:] == [0, 0]
    assert frame["hasty_giou"].tolist()[1:] == frame["giou"].tolist()[1:]
    assert frame["step_by_step_most"].tolist()[1:] == [0, 0]  # the stand-ins' answers are empty


def gains_frame(*gains: tuple[float, float, float]) -> pd.DataFrame:
    names = [f"row-{i}" for i in range(len(gains))]
    frame = pd.DataFrame(gains, columns=list(numbers.GAIN), index=names)
    families = [f"Family {i // 10}" for i in range(len(gains))]
    return frame.assign(title=[f"A rather long title, number {n}" for n in names], family=families)


def test_a_difference_is_called_one_only_if_its_interval_excludes_0():
    nan = float("nan")
    gains = [(0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (0.02, -0.01, 0.05), (0.3, nan, nan)]
    frame = gains_frame(*gains, (nan, nan, nan))
    words = [difference_word(row) for row in frame.itertuples()]
    assert words == ["above", "below", "not shown", "–", "–"]
    said = differences_sentence(frame)
    assert said.startswith("2 of 3 trained rows differ from DAPO over plates and seeds.")
    assert "Above: A rather long title, number row-0 +0.020 (+0.010 to +0.030)." in said
    assert said.endswith(" Of the other 1 no difference is shown.") and "row-3" not in said
    assert differences_sentence(frame.iloc[3:]) == ""


def test_rows_are_told_apart_by_how_their_answers_think():
    # seeds, those that go step by step, gIoU of these, of the others, of all
    modes = [(8, 8, 0.7, np.nan, 0.7), (4, 1, 0.6, 0.5, 0.525), (3, 0, np.nan, 0.4, 0.4)]
    columns = ["seeds", "stepwise", "stepwise_giou", "hasty_giou", "giou"]
    frame = pd.DataFrame(modes, columns=columns).assign(family="GRPO")
    other = frame.assign(family=SUPERVISED)
    said = modes_sentence(pd.concat([frame, other]))
    assert said.startswith("Of 15 trainings by rewards 9 end") and "(mean gIoU 0.689), 6" in said
    assert said.endswith("(0.450).")  # (8 x 0.7 + 0.6) / 9 and (3 x 0.5 + 3 x 0.4) / 6
    assert modes_sentence(frame.iloc[:1]) == modes_sentence(other) == ""


def test_a_dot_is_filled_where_it_is_a_difference(tmp_path):
    near = [(0.02, 0.01, 0.03), (-0.01, -0.05, 0.03)] * 15
    frame = gains_frame(*near, (-0.7, -0.8, -0.6), (np.nan,) * 3)
    assert scale_limit(frame) == pytest.approx(1.1 * 0.05)
    assert scale_limit(frame.iloc[30:]) == NEAR
    figure = difference_dots(frame)
    (ax,) = figure.axes
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    filled = [dot.get_markerfacecolor() != "white" for dot in dots]
    assert filled == [True, False] * 15 and dots[0].get_xdata()[0] == 0.02
    arrows = [line for line in ax.lines if line.get_marker() == "<" and len(line.get_xdata())]
    assert len(arrows) == 1 and abs(arrows[0].get_xdata()[0]) < scale_limit(frame)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 31 + 4 and labels[0] == "Family 0"
    assert sum(text.get_text().startswith("-0.700") for text in ax.texts) == 1
    save(figure, tmp_path / "dots")
