"""The runner leaves a whole result or none, and runs the kernel that it should."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from foodseg.common.files import PROJECT
from foodseg.common.run_notebook import main, run_notebook


def write(path: Path, *sources: str) -> Path:
    """A notebook with a heading, a parameters cell and these code cells."""
    heading = nbformat.v4.new_markdown_cell("# Rollout\nSome words.")
    parameters = nbformat.v4.new_code_cell('PRESET = "kitchen"  # which\nSEEDS = "0,1"')
    parameters.metadata["tags"] = ["parameters"]
    code = [nbformat.v4.new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[heading, parameters, *code], metadata=metadata)
    nbformat.write(notebook, path)
    return path


def left(folder: Path) -> list[str]:
    """The files in a folder, without locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)


def start(source: Path) -> subprocess.Popen:
    """A process that runs the notebook into the folder `out` beside it."""
    target = source.parent / "out" / source.name
    command = [sys.executable, "-m", "foodseg.common.run_notebook", str(source), str(target)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_parameters_folder_and_interpreter_are_the_ones_asked_for(tmp_path, capsys):
    source = write(
        tmp_path / "toy.ipynb",
        "import json, os, sys",
        "print(json.dumps([PRESET, SEEDS, sys.executable, os.getcwd()]))",
    )
    assert main([str(source), str(tmp_path / "out" / "toy.ipynb"), "PRESET=smoke", "SEEDS=0"]) == 0
    assert left(tmp_path / "out") == ["toy.ipynb"]
    executed = nbformat.read(tmp_path / "out" / "toy.ipynb", as_version=4)
    said = json.loads(executed.cells[-1].outputs[0].text)
    assert said == ["smoke", "0", sys.executable, str(tmp_path)]
    # In their own cell, and no second one below it.
    assert executed.cells[1].source == 'PRESET = "smoke"  # which\nSEEDS = "0"'
    assert len(executed.cells) == 4
    assert "toy: Rollout" in capsys.readouterr().out


def test_no_folder_of_the_users_is_in_the_way(tmp_path, monkeypatch):
    """A long TMPDIR, where a socket's path would not fit, and another Python's python3 kernel."""
    foreign = tmp_path / "share" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    source = write(tmp_path / "toy.ipynb", "import sys; print(sys.executable, end='')")
    assert main([str(source), str(tmp_path / "out.ipynb")]) == 0
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == sys.executable and left(long) == []


def test_the_notebooks_own_progress_bar_is_told_now_and_then(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("foodseg.common.run_notebook.SECONDS_BETWEEN_REPORTS", 0)
    bar = "from IPython.display import display\ndisplay({'text/plain': 'GRPO: 40%|##'}, raw=True)"
    assert main([str(write(tmp_path / "toy.ipynb", bar)), str(tmp_path / "out.ipynb")]) == 0
    assert "toy: GRPO: 40%|##" in capsys.readouterr().out


def test_a_failed_run_is_kept_apart_and_replaces_an_older_result(tmp_path, capsys):
    source = write(tmp_path / "toy.ipynb", "print('so far')", "1 / 0", "print('never')")
    target = tmp_path / "out" / "toy.ipynb"
    target.parent.mkdir()
    target.write_text("an older result")
    assert main([str(source), str(target)]) == 1
    assert left(target.parent) == ["toy.failed.ipynb"]
    text = target.with_suffix(".failed.ipynb").read_text()
    assert "so far" in text and "ZeroDivisionError" in text
    said = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in said and "toy.failed.ipynb" in said
    write(source, "print('mended')")
    assert main([str(source), str(target)]) == 0
    assert left(target.parent) == ["toy.ipynb"]


def test_a_run_that_is_killed_leaves_no_result(tmp_path):
    waiting = "open('ready', 'w').close()\ntime.sleep(60)"
    with start(write(tmp_path / "toy.ipynb", "import time", waiting)) as process:
        wait_for(tmp_path / "ready", process)
        process.terminate()
        assert process.wait(30) != 0
    assert left(tmp_path / "out") == ["toy.failed.ipynb"]


def test_a_second_run_is_refused_and_a_kernel_ends_with_its_runner(tmp_path, capsys):
    """As where make alone is killed, so that its notebook lives on, and is started again."""
    waiting = "open('ready', 'w').close()\ntime.sleep(600)"
    source = write(tmp_path / "toy.ipynb", "import time", waiting)
    with start(source) as process:
        wait_for(tmp_path / "ready", process)
        assert main([str(source), str(tmp_path / "out" / "toy.ipynb")]) == 1
        assert "toy.ipynb: another process is at it; wait for it or" in capsys.readouterr().err
        assert process.poll() is None and left(tmp_path / "out") == ["toy.running.ipynb"]
        kernels = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert kernels and psutil.wait_procs(kernels, timeout=30)[1] == []


def test_a_training_notebook_is_killed_anywhere_and_ends_with_the_same_bits(home, campaign):
    kills = campaign("a training's notebook killed by kill -9: the same bits, no kernel left", 0, 4)
    if not kills:
        pytest.skip("make torture kills notebooks")
    source = PROJECT / "notebooks" / "04_train_grpo.ipynb"
    target = home / "build" / source.name
    command = [sys.executable, "-m", "foodseg.common.run_notebook", str(source), str(target)]
    command += ["PRESET=smoke", "SEEDS=0"]
    whole, seconds = training_of(home, command)
    dice = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0, seconds))
        kernels = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert psutil.wait_procs(kernels, timeout=30)[1] == []
    assert training_of(home, command)[0] == whole


def training_of(home: Path, command: list[str]) -> tuple[tuple[bytes, bytes], float]:
    """Run to the end and put aside: the adapter and the predictions, and the seconds."""
    started = time.monotonic()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    run = home / "runs" / "smoke"
    adapter = run / "grpo-seed0" / "adapter" / "adapter_model.safetensors"
    predictions = run / "predictions" / "grpo-seed0" / "predictions.jsonl"
    made = adapter.read_bytes(), predictions.read_bytes()
    shutil.rmtree(run)
    return made, time.monotonic() - started


def test_two_runs_at_once_in_one_folder_keep_apart(tmp_path):
    sources = []
    for name, other in (("one", "two"), ("two", "one")):
        # Each waits for the other's kernel, so neither could run alone.
        wait = f"while not os.path.exists('{other}'): time.sleep(0.05)"
        cells = (f"import os, time\nopen('{name}', 'w')", wait, f"'{name}'")
        sources.append(write(tmp_path / f"{name}.ipynb", *cells))
    assert [run.wait(100) for run in [start(source) for source in sources]] == [0, 0]
    for source in sources:
        last = nbformat.read(tmp_path / "out" / source.name, as_version=4).cells[-1]
        assert last.outputs[0].data["text/plain"] == f"'{source.stem}'"
    assert left(tmp_path) == ["one", "one.ipynb", "out", "two", "two.ipynb"]


def test_a_parameter_that_is_no_text_is_refused(tmp_path, capsys):
    source = write(tmp_path / "toy.ipynb")
    source.write_text(source.read_text().replace('SEEDS = \\"0,1\\"', "SEEDS = [0, 1]"))
    assert main([str(source), str(tmp_path / "out" / "toy.ipynb"), "SEEDS=0"]) == 1
    assert 'the parameters cell has no line SEEDS = "..."' in capsys.readouterr().err
    assert not (tmp_path / "out" / "toy.ipynb").exists()


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    source = write(tmp_path / "toy.ipynb")
    with pytest.raises(ValueError, match="has no parameter SEED; .* sets PRESET, SEEDS"):
        run_notebook(source, tmp_path / "out" / "toy.ipynb", {"SEED": "0"})
    assert not (tmp_path / "out").exists()
