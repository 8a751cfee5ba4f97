"""The Makefile's rules with stand-ins for the notebooks, and the lock file as it stands.

A stand-in for the environment's Python takes the runner's place: it notes what it was asked to
run, and leaves the files that the notebook would leave. No kernel starts.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest

from foodseg.common.errors import DataError
from foodseg.common.files import sha256
from foodseg.models.sam2_checkpoints import SAM2_TINY
from foodseg.presets import KITCHEN, PAPER, REVISIONS, get_preset

PROJECT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (PROJECT / "notebooks").glob("*.ipynb"))
ALL = [f"{number:02}" for number in range(1, 11)]
RUNNER = """#!{python}
import sys, time
from pathlib import Path

project = Path({project!r})
with (project / "log").open("a") as log:
    if sys.argv[2] != "foodseg.common.run_notebook":
        log.write(" ".join(sys.argv[1:]) + chr(10))
        sys.exit()
    source, target = Path(sys.argv[3]), Path(sys.argv[4])
    log.write(source.stem[:2] + chr(10))
values = dict(text.split("=") for text in sys.argv[5:])
if unknown := set(values) - set({parameters!r}[source.stem]):
    sys.exit(f"{{source.stem}} has no parameter {{unknown}}")
preset, seeds = values["PRESET"], values.get("SEEDS", "").split(",")
if (project / "side_by_side").exists() and source.stem[:2] in ("04", "05"):
    (project / source.stem[:2]).touch()
    deadline = time.time() + float((project / "side_by_side").read_text() or 20)
    while not ((project / "04").exists() and (project / "05").exists()):
        time.sleep(0.01)
        if time.time() > deadline:
            sys.exit("the other training did not start")
target.parent.mkdir(parents=True, exist_ok=True)
if (project / "fail").exists() and (project / "fail").read_text() == source.stem[:2]:
    target.unlink(missing_ok=True)
    target.with_suffix(".failed.ipynb").touch()
    sys.exit(1)
runs = "runs/" + preset
published = {{"kitchen": "figures", "paper": "figures/paper"}}
figures = published.get(preset, f"build/{{preset}}/figures")
products = {{
    "01": [f"datasets/{{preset}}/foodreasonseg_single_{{s}}.parquet" for s in ("train", "test")],
    "02": [f"{{runs}}/predictions/base/result.json"],
    "03": [f"{{figures}}/shared_prefix.png"],
    "04": [f"{{runs}}/predictions/grpo-seed{{seed}}/result.json" for seed in seeds],
    "05": [f"{{runs}}/predictions/dapo-seed{{seed}}/result.json" for seed in seeds],
    "06": [f"{{figures}}/results_table.{{kind}}" for kind in ("md", "tex", "csv")],
    "07": [f"{{figures}}/segmentation_results.{{kind}}" for kind in ("png", "pdf")],
    "08": [f"{{figures}}/ablations.csv"] if values.get("ROWS") else [],
}}
for path in products.get(source.stem[:2], []):
    (project / path).parent.mkdir(parents=True, exist_ok=True)
    (project / path).touch()
target.write_text("[a](../docs/a.md)")
"""


def parameters_of(name: str) -> list[str]:
    """What the notebook's own parameters cell sets: the runner refuses anything else."""
    cells = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return re.findall(r"^(\w+) =", cell.source, re.MULTILINE)


PARAMETERS = {name: parameters_of(name) for name in NAMES}


# What the Makefile reads.
OF_MAKE = ("MAKE", "MFLAGS", "PRESET", "SEEDS", "VENV", "FOODSEG_", "DRY_RUN", "ROWS", "MLLM")
OF_MAKE += ("SEGMENTER", "PREDICTIONS", "PROTOCOL", "SYSTEM", "READING", "NAME")


class Project:
    """A checkout with the real Makefile, code and notebooks, and the stand-in."""

    def __init__(self, root: Path):
        self.root = root
        code_only = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(PROJECT / "foodseg", root / "foodseg", ignore=code_only)
        self.write("foodseg/weights/kitchen_mllm/a")
        for name in NAMES:
            self.write(f"notebooks/{name}.ipynb")
            shutil.copy(PROJECT / f"notebooks/{name}.ipynb", root / "notebooks")
        self.write("requirements.lock", "setuptools==1 \\\n    --hash=sha256:0\n    # via torch\n")
        shutil.copy(PROJECT / "Makefile", root)
        code = RUNNER.format(python=sys.executable, project=str(root), parameters=PARAMETERS)
        for program in ("python", "pip"):
            self.write(f".venv/bin/{program}", code)
            (root / ".venv/bin" / program).chmod(stat.S_IRWXU)
        self.write(".venv/.installed")

    def write(self, path: str, text: str = "") -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def change(self, path: str) -> None:
        time.sleep(0.02)  # file times advance in ticks of up to 10 ms
        with (self.root / path).open("a") as file:
            file.write("\n")

    def make(self, *arguments: str) -> subprocess.CompletedProcess:
        # A make that runs these tests must not pass its own flags and variables on.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OF_MAKE)}
        command = ["make", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, text=True, capture_output=True, timeout=60
        )

    def ran(self, *arguments: str) -> list[str]:
        """Numbers of the notebooks that this make ran, in order; it must succeed."""
        before = len(self.log())
        done = self.make(*arguments)
        assert done.returncode == 0, done.stderr
        return self.log()[before:]

    def log(self) -> list[str]:
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []

    def refused(self, *arguments: str, goal: str, words: str = "choose another folder") -> None:
        done = self.make(goal, *arguments)
        assert done.returncode == 2 and words in done.stderr and self.log() == []


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


def test_make_runs_each_notebook_once_and_after_its_inputs(project):
    order = project.ran()
    assert sorted(order) == ALL
    for before, after in ("12", "14", "15", "26", "46", "56", "67", "78", "59", "98"):
        assert order.index(f"0{before}") < order.index(f"0{after}")
    copies = sorted((project.root / "notebooks/executed").iterdir())
    assert [path.stem for path in copies] == NAMES
    assert {path.read_text() for path in copies} == {"[a](../../docs/a.md)"}  # one folder deeper
    again = project.make()
    assert "Nothing to be done" in again.stdout and len(project.log()) == len(ALL)


def test_the_two_trainings_run_side_by_side(project):
    project.write("side_by_side")
    assert sorted(project.ran()) == ALL


def test_a_fresh_clone_runs_all_although_results_are_committed(project):
    for path in ("figures/results_table.md", "notebooks/executed/01_x.ipynb"):
        project.write(path)
        future = time.time() + 1000
        os.utime(project.root / path, (future, future))
    assert len(project.ran()) == len(ALL)


def test_a_failure_stops_what_depends_on_it_and_is_tried_again(project):
    project.write("fail", "05")
    failed = project.make()
    assert failed.returncode != 0
    assert not {"06", "07", "08", "09"} & set(project.log())
    assert (project.root / "build/kitchen/05_train_dapo.failed.ipynb").exists()
    assert not (project.root / "build/kitchen/05_train_dapo.ipynb").exists()
    assert not (project.root / "notebooks/executed/05_train_dapo.ipynb").exists()
    (project.root / "fail").unlink()
    rest = project.ran()
    assert rest[-1] == "08" and [n for n in rest if n in ("05", "06", "07")] == ["05", "06", "07"]
    assert "09" in rest and not {"01", "04"} & set(rest)


def test_table_and_figures_run_only_what_they_need(project):
    assert sorted(project.ran("table")) == ["01", "02", "04", "05", "06"]
    assert project.ran("figures") == ["07"]
    assert sorted(project.ran()) == ["03", "08", "09", "10"]
    project.write("figures/ablations.csv")  # what ablations left is shown again, also in the table
    assert project.ran() == ["06", "07", "08"]
    project.write("runs/kitchen/predictions/lisa-seed0/result.json")
    assert project.ran("table") == ["06"]


def test_at_the_papers_size_the_bound_is_looked_at_before_anything_is_trained(project):
    _, *notebooks = project.ran("PRESET=paper")  # the doctor is asked first
    assert notebooks[:3] == ["01", "02", "03"]


def test_other_seeds_run_again_what_uses_them(project):
    project.ran()
    for seeds in (["SEEDS=0"], []):
        assert sorted(project.ran(*seeds)) == ALL[3:9]
        assert project.ran(*seeds) == []


def test_presets_are_kept_apart(project):
    project.ran("PRESET=smoke", "table")
    assert not (project.root / "notebooks/executed").exists()
    assert not (project.root / "figures").exists()
    assert len(project.ran()) == len(ALL)
    assert project.ran("PRESET=smoke", "table") == []
    shutil.rmtree(project.root / "build")  # a goal in the build folder names its preset
    assert project.ran(f"build/smoke/{NAMES[3]}.ipynb") == ["01", "04"]
    assert (project.root / f"build/smoke/{NAMES[3]}.ipynb").exists()


def test_each_notebook_gets_its_own_parameters_whichever_is_asked_for(project):
    for name in reversed(NAMES):  # a goal's inputs are made for it, and must not get its parameters
        shutil.rmtree(project.root / "build", ignore_errors=True)
        assert project.ran(f"build/kitchen/{name}.ipynb")[-1] == name[:2]


def test_a_rehearsal_of_the_paper_preset_writes_its_weights_first(project):
    project.write("side_by_side", "1")
    refused = project.make("PRESET=paper", "DRY_RUN=1")
    # One at a time, so that a GPU's memory is one training's.
    assert refused.returncode != 0 and "the other training did not start" in refused.stderr
    (project.root / "side_by_side").unlink()
    project.write("log")
    steps = project.ran("PRESET=paper", "DRY_RUN=1")
    assert steps[0] == "-m foodseg.dry_run" and len(steps[1:]) == len(ALL) - len({"01", "03"})
    assert (project.root / "build/dry-run/09_use_it.ipynb").exists()
    assert not (project.root / "notebooks/executed").exists()
    assert not (project.root / "runs/paper").exists()


@pytest.mark.parametrize(
    ("path", "again"),
    [
        ("notebooks/07_segmentation_results.ipynb", ["07", "08"]),
        ("foodseg/ablations/rows.py", ["08"]),
        ("foodseg/report/style.py", ALL[5:]),
        ("foodseg/segment/answer.py", ["09"]),
        ("foodseg/kitchen/plates.py", ALL[:9]),
        ("foodseg/rl/rewards.py", ALL[1:]),
        ("foodseg/training/updates.py", ALL[3:9]),
        ("foodseg/weights/kitchen_mllm/a", ALL[1:]),
        ("foodseg/bench/run.py", []),
        ("foodseg/doctor/__init__.py", []),
        ("foodseg/doctor/verdict.py", []),
        ("foodseg/kitchen/pretraining/curriculum.py", []),
        ("README.md", []),
    ],
)
def test_a_change_runs_again_what_depends_on_it(project, path, again):
    project.ran()
    project.change(path)
    assert sorted(project.ran()) == again


@pytest.mark.parametrize(
    ("path", "again"),
    [
        ("figures/shared_prefix.png", ["03"]),
        ("figures/results_table.csv", ["06", "07", "08"]),
        ("figures/segmentation_results.pdf", ["07", "08"]),
        ("runs/kitchen/predictions/grpo-seed1/result.json", ["04", "06", "07", "08"]),
    ],
)
def test_a_deleted_product_is_made_again(project, path, again):
    project.ran()
    (project.root / path).unlink()
    assert project.ran() == again
    assert project.ran() == []


def test_clean_leaves_the_environment_and_the_paper_preset(project):
    project.ran()
    rooms = ("runs", "datasets", "build")
    for room in rooms:
        project.write(f"{room}/paper/x")
    project.ran("clean")
    left = {path.relative_to(project.root).as_posix() for path in project.root.glob("*/*")}
    assert {*(f"{room}/paper" for room in rooms), ".venv/.installed"} <= left
    assert not {f"{room}/kitchen" for room in rooms} & left


def test_clean_needs_no_environment_and_cleans_the_home_that_is_named(project):
    shutil.rmtree(project.root / ".venv")
    for path in ("", "away/"):
        project.write(f"{path}datasets/kitchen/foodreasonseg_single_train.parquet")
        project.write(f"{path}build/smoke/seeds-0,1")
    project.write("away/datasets/kitchen/mine.txt")
    bare = f"PYTHON={sys.executable} -S"  # the standard library alone
    done = project.make("clean", bare, f"FOODSEG_HOME={project.root}/away")
    assert done.returncode == 0, done.stderr
    assert f"Left {project.root}/away/datasets/kitchen/mine.txt" in done.stdout
    kept = sorted(path.name for path in project.root.rglob("datasets/kitchen/*"))
    assert kept == ["foodreasonseg_single_train.parquet", "mine.txt"]
    assert not list(project.root.rglob("seeds-*"))


@pytest.mark.parametrize("goal", ["clean", "help", "data", "table"])
@pytest.mark.parametrize("name", ["FOODSEG_HOME", "VENV"])
def test_white_space_in_a_path_is_refused_for_every_goal(project, goal, name):
    # To make, these are two paths, and the first is a stranger's.
    project.write("my/album")
    project.write("my photos/.installed")
    refused = project.make(goal, f"{name}={project.root}/my photos")
    assert refused.returncode == 2 and refused.stdout == "" and project.log() == []
    (sentence,) = refused.stderr.splitlines()
    assert f"{name}={project.root}/my photos has white space" in sentence
    assert (project.root / "my/album").exists()


@pytest.mark.parametrize("character", "$:%;&|<>()[]*?'\\\"`")
def test_a_character_that_make_or_the_shell_would_read_is_refused(project, character):
    for name in ("FOODSEG_HOME", "VENV"):
        project.refused(f"{name}={project.root}/a{character}b", goal="clean")


def test_a_checkout_in_a_folder_with_white_space_serves(tmp_path):
    (tmp_path / "my").mkdir()
    (tmp_path / "my/album").touch()
    (tmp_path / "my kit").mkdir()
    project = Project(tmp_path / "my kit")
    assert len(project.ran()) == len(ALL) and project.ran() == []
    project.ran("clean")
    assert not (project.root / "build/kitchen").exists() and (tmp_path / "my/album").exists()


def test_a_dry_run_reads_as_a_list_of_steps(project):
    (project.root / ".venv/.installed").unlink()
    lines = project.make("-n").stdout.splitlines()
    assert sum("run_notebook" in line for line in lines) == len(ALL) and len(lines) <= 33
    assert max(map(len, lines)) < 220 and project.log() == []


def test_the_environment_is_installed_once_and_again_when_the_lock_changes(project):
    (project.root / ".venv/.installed").unlink()
    steps = [line.split(" --")[0] for line in project.ran(".venv/.installed")]
    assert steps == ["-m pip install"] * 3 + ["-c import matplotlib.font_manager"]
    assert project.ran(".venv/.installed") == []
    project.change("requirements.lock")
    assert len(project.ran(".venv/.installed")) == len(steps)


def test_ablations_run_for_hours_only_when_asked_for(project):
    line = "-m foodseg.ablations --preset kitchen --seeds"
    assert project.ran("ablations") == ["01", f"{line} 0,1,2 --rows "]  # alone it needs the data
    assert not [line for line in project.ran() if "ablations" in line]
    some = project.ran("ablations", "ROWS=grpo,dapo", "SEEDS=1")
    assert some == [f"{line} 1 --rows grpo,dapo"]
    (quick,) = project.ran("ablations", "PRESET=smoke")[1:]  # one seed and few rows
    assert quick.startswith("-m foodseg.ablations --preset smoke --seeds 0 --rows base,")


def test_ablations_with_other_doors_come_last(project):
    together = project.ran("table", "ablations")
    assert together[-1].startswith("-m foodseg.ablations") and "08" in together


def test_claims_come_after_ablations_and_take_seeds_of_their_own(project):
    assert project.ran("claims", "SEEDS=0") == ["01", "-m foodseg.claims --preset kitchen"]
    together = project.ran("claims", "ablations")
    assert [line.split()[1] for line in together] == ["foodseg.ablations", "foodseg.claims"]
    assert not [line for line in project.ran() if "claims" in line]


def test_another_systems_masks_are_scored_and_then_in_the_table(project, monkeypatch):
    project.ran()
    typed = ("score", "PREDICTIONS=a b", "PROTOCOL=teacher-forced")
    line = "-m foodseg.evaluation.external a b --preset kitchen --protocol teacher-forced --name"
    named = "NAME=lisa-7b", "SYSTEM=LISA 7B", "READING=unit,last"
    assert project.ran(*typed, *named) == [f"{line} lisa-7b --system LISA 7B --reading unit,last"]
    monkeypatch.setenv("NAME", "my-computer")  # a shell's own name names no row
    assert project.ran(*typed) == [f"{line}  --system  --reading "]
    for ours in ("base-validation", "knowledge", "grpo-rank-8-seed0"):
        project.write(f"runs/kitchen/predictions/{ours}/result.json")
    assert project.ran("table") == []
    for row in ("lisa-7b", "other"):
        project.write(f"runs/kitchen/predictions/{row}/result.json")
        assert project.ran("table") == ["06"] and project.ran("table") == []
    for row in ("other", "lisa-7b"):  # to take a row out, remove its folder
        shutil.rmtree(project.root / f"runs/kitchen/predictions/{row}")
        assert project.ran("table") == ["06"] and project.ran("table") == []


def test_the_official_sets_are_fetched_for_the_paper_preset(project):
    line = "-m foodseg.data.fetch"
    folder = "datasets/paper/FoodSeg103"
    first = "-m foodseg.doctor data"
    for chosen in ((), ("PRESET=paper",), ("PRESET=smoke",)):
        assert project.ran("data", *chosen) == [first, f"{line} {folder}"]
    away = project.root / "é,=+@~{}#"  # characters that serve
    assert project.ran("data", f"FOODSEG_HOME={away}") == [first, f"{line} {away}/{folder}"]
    for goal, offline in (("data", False), ("table", True)):  # the hub's client obeys it
        assert ("HF_HUB_OFFLINE := 1" in project.make("-pn", goal).stdout) == offline


BIG, OLD = "Qwen/Qwen2.5-VL-7B-Instruct", "facebook/sam2-hiera-large"


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ({}, "paper"),
        ({"MLLM": PAPER.mllm, "SEGMENTER": PAPER.segmenter}, "paper"),
        ({"MLLM": BIG}, "paper--Qwen--Qwen2.5-VL-7B-Instruct"),
        ({"SEGMENTER": OLD}, "paper--facebook--sam2-hiera-large"),
        (
            {"MLLM": "some/one@abc", "SEGMENTER": OLD},
            "paper--some--one@abc--facebook--sam2-hiera-large",
        ),
        ({"MLLM": "weights"}, "paper--weights-{hash}"),  # never this machine's path
    ],
)
def test_other_models_have_folders_of_their_own(project, monkeypatch, chosen, name):
    """Which make and the preset name alike."""
    project.write("weights/config.json")
    name = name.format(hash=sha256(str(project.root / "weights").encode())[:8])
    words = [f"{key}={value}" for key, value in chosen.items()]
    made = project.make("-pn", "PRESET=paper", *words).stdout
    for variable, folder in (("OUT", "build/"), ("RUNS", "runs/"), ("FIGURES_paper", "figures/")):
        assert f"{variable} := {folder}{name}\n" in made.replace(" " * 9, " ")
    assert "DATASET := datasets/paper\n" in made  # all read the same questions
    for key in ("MLLM", "SEGMENTER"):
        value = re.search(f"^(?:export )?FOODSEG_{key} := (.*)$", made, re.MULTILINE)[1]
        whole = chosen.get(key, "").replace("weights", str(project.root / "weights"))
        assert value == whole
        monkeypatch.setenv(f"FOODSEG_{key}", value)
    preset = get_preset("paper")
    assert preset.name == name and get_preset(name) == preset
    assert preset.run_folder("dapo", 0).parts[-2:] == (name, "dapo-seed0")
    assert preset.predictions_folder("base").parts[-3] == name
    assert preset.figures.name == preset.build_folder.name == name
    assert preset.dataset == PAPER.dataset
    assert preset.samples_file("test") == PAPER.samples_file("test")
    assert (preset == PAPER) == (name == "paper")


def test_a_chosen_model_brings_its_commit_or_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("FOODSEG_MLLM", BIG)
    monkeypatch.setenv("FOODSEG_SEGMENTER", "facebook/sam2-hiera-tiny")
    preset = get_preset("paper")
    assert (preset.mllm, preset.mllm_revision) == (BIG, REVISIONS[BIG])
    assert preset.weights["base"] != PAPER.weights["base"]
    assert (preset.segmenter, preset.segmenter_config) == ("facebook/sam2-hiera-tiny", SAM2_TINY)
    assert get_preset("kitchen") == KITCHEN and get_preset("dry-run").name == "dry-run"
    for wrong, words in (
        ("some/one", "no model that this kit knows; name a folder"),
        ("here", "no model that this kit knows"),
        (str(tmp_path / "gone"), "there is no such folder"),
    ):
        monkeypatch.setenv("FOODSEG_MLLM", wrong)
        with pytest.raises(DataError, match=f"MLLM={wrong}.*{words}"):
            get_preset("paper")


def test_the_doctor_is_asked_first_and_only_for_the_paper_preset(project):
    line = "-m foodseg.doctor --seeds"
    assert project.ran("doctor", "SEEDS=0") == [f"{line} 0"]
    assert project.ran("PRESET=paper")[:2] == [f"{line} 0,1,2 all", "01"]
    assert project.ran("PRESET=paper", "ablations")[0] == f"{line} 0,1,2 all"
    assert project.ran("PRESET=paper", "claims")[0] == f"{line} 0,1,2 all"
    shutil.rmtree(project.root / "build")  # the data alone can be built without a GPU
    data = project.ran(f"build/paper/{NAMES[0]}.ipynb", "SEEDS=0")
    assert data == [f"{line} 0 data", "01"]
    for others in ((), ("ablations",), ("PRESET=smoke", "claims"), ("PRESET=paper", "DRY_RUN=1")):
        assert not [step for step in project.ran(*others) if "doctor" in step]


def test_bench_installs_its_extra_once_and_needs_the_data_only(project):
    project.write("pyproject.toml")
    steps = [line.split(" --")[0] for line in project.ran("bench")]
    assert sorted(steps[:2]) == ["-m pip install", "01"] and steps[2:] == ["-m foodseg.bench"]
    assert project.ran("bench") == ["-m foodseg.bench"]


def test_the_site_installs_its_extra_once_and_runs_no_notebook(project):
    project.write("pyproject.toml")
    steps = project.ran("site")
    assert len(steps) == 2 and "--editable .[site]" in steps[0] and steps[1] == "-m foodseg.site"
    assert project.ran("site") == ["-m foodseg.site"]


def test_demo_installs_its_extra_once_and_needs_the_data_only(project):
    project.write("pyproject.toml")
    steps = project.ran("demo", "PRESET=smoke")
    installed = [step for step in steps if step.startswith("-m pip install")]
    assert len(installed) == 2 and "01" in steps and "04" not in steps
    assert steps[-1] == "-m foodseg.demo --preset smoke"
    assert project.ran("demo", "PRESET=smoke") == steps[-1:]


def test_replay_needs_the_data_only_and_trains_nothing(project):
    steps = project.ran("replay", "PRESET=smoke")
    assert steps == ["01", "-m foodseg.replay --preset smoke"]
    assert project.ran("replay", "PRESET=smoke") == steps[1:]


def test_bench_holds_every_locked_package_where_it_is(project):
    shutil.copy(PROJECT / "requirements.lock", project.root)
    shutil.copy(PROJECT / "pyproject.toml", project.root)
    project.write(".venv/.installed")
    reader = f"#!{sys.executable}\nimport sys\nsys.stderr.write(sys.stdin.read())\n"
    (project.root / ".venv/bin/python").write_text(reader)
    constraints = project.make(".venv/.installed-bench").stderr.splitlines()
    locked = re.findall(r"^([a-z0-9-]+==\S+)", (PROJECT / "requirements.lock").read_text(), re.M)
    assert [line.split(" ;")[0] for line in constraints] == locked and len(locked) > 100
    assert not any("--hash" in line or line.endswith("\\") for line in constraints)


def test_an_old_python_is_refused_in_one_sentence(project):
    shutil.rmtree(project.root / ".venv")
    script = "import sys; sys.version_info = (3, 10, 1); $2"
    old = f'#!/bin/sh\ntest "$1" = -m || exec {sys.executable} -c "{script}"\n'
    project.write("old", old)
    (project.root / "old").chmod(stat.S_IRWXU)
    refused = project.make("PYTHON=./old")
    assert refused.returncode != 0 and "Python 3.11 or later is needed" in refused.stderr
    assert "Traceback" not in refused.stderr and not (project.root / ".venv").exists()


PRESETS = "smoke, kitchen or paper"


@pytest.mark.parametrize(
    ("goal", "arguments", "sentence"),
    [
        *(("all", [f"PRESET={name}"], PRESETS) for name in ("lunch", "smoke kitchen", "smoke ")),
        *(("all", [f"SEEDS={seeds}"], "0,1,2") for seeds in ("0 1", "0 ")),
        ("bench", ["PRESET=smoke"], "leave PRESET=smoke out"),
        *(("all", [f"{key}=a/b"], "add PRESET=paper") for key in ("MLLM", "SEGMENTER")),
        *(("all", ["PRESET=paper", f"MLLM={x}"], "has white space") for x in ("a b", "a$b", "a;b")),
        # Only the paper preset is rehearsed.
        ("all", ["DRY_RUN=1", "PRESET=kitchen"], "make PRESET=paper DRY_RUN=1"),
        ("all", ["DRY_RUN=1", "PRESET=smoke"], "make PRESET=paper DRY_RUN=1"),
        # Notebooks would find such a home elsewhere.
        *(
            (goal, [f"FOODSEG_HOME={path}"], "is no absolute path")
            for goal in ("clean", "help")
            for path in ("", "away", "~/away")
        ),
        ("help", ["VENV="], "is empty or begins with ~"),
        ("help", ["VENV=~/venv"], "is empty or begins with ~"),
    ],
)
def test_a_bad_choice_is_refused_in_one_sentence(project, goal, arguments, sentence):
    project.refused(*arguments, goal=goal, words=sentence)


def test_the_small_doors(project):
    assert project.ran("why", "PRESET=smoke")[-1] == "-m foodseg.ablations.why --preset smoke"
    assert project.ran("pages")[-1] == "-m foodseg.claims.pages"
    assert project.ran("torture")[-1].endswith("--torture")
    made = ("curriculum", "segmenter")
    assert sorted(project.ran("base")) == [f"-m foodseg.kitchen.pretraining.{n}" for n in made]


def test_help_names_every_door_and_ci_runs_the_test_command(project):
    text = project.make("help").stdout
    phony = re.search(r"^\.PHONY: (all .*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    doors = set(phony[1].split()) - {"base-mllm", "base-segmenter"}  # the two halves of base
    assert all(re.search(rf"^make {door} ", text, re.MULTILINE) for door in doors)
    script = PROJECT / ".ci/run"
    assert os.access(script, os.X_OK) and script.read_text().splitlines()[-1] == "exec make test"


def test_the_lock_holds_every_dependency_with_hashes_and_nothing_else():
    text = (PROJECT / "requirements.lock").read_text()
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    requirements = kept.replace("\\\n", " ").splitlines()
    for line in requirements:
        assert re.match(r"[a-z0-9-]+==[^ ;]+( ;[^\\]+?)? +(--hash=sha256:[0-9a-f]{64} *)+$", line)
    assert not re.search(r"https?:|file:|index|find-links", kept)
    locked = {line.split("==")[0] for line in requirements}
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[<>=]", name)[0] for name in declared} <= locked
