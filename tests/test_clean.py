"""`make clean` removes what the kit wrote, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from foodseg import presets
from foodseg.clean import DRAWN, clean, main
from foodseg.presets import PACKAGE
from foodseg.training.run_folder import claim, restore, save_adapter, save_checkpoint

CONFIG = {"preset": {}, "recipe": {}, "seed": 0}
MERGED = "merged/sft-seed0-0123456789abcdef"
BUILT = (
    *("seeds-0,1,2", "04_train.ipynb", "04_train.running.ipynb", "04_train.failed.ipynb"),
    *("figures/results_table.tex", "figures/ablations.png.partial", "weights/complete"),
    *("weights/mllm/model-00001-of-00002.safetensors", "weights/mllm/tokenizer.json"),
    *("replay.html", "figures/blind_answers.md", "figures/rounding.csv"),
)
DATA = (
    *("foodreasonseg_single_train.parquet", "foodreasonseg_single_test.unchecked.part"),
    *("foodreasonseg_single_test.report.json", "FoodSeg103/category_id.txt"),
    *("FoodSeg103.lock", "FoodSeg103/Images/ann_dir/test/05000000.png"),
    "FoodSeg103.partial/Images/img_dir/train/01000000.jpg",
)
RAN = (
    *("grpo-seed0/log.jsonl", "grpo-seed0/state.pt.partial", "grpo-seed0/tool.jsonl"),
    *("grpo-seed0/adapter/README.md", "grpo-seed0/adapter.partial/adapter_config.json"),
    *("predictions/lisa-7b/result.json", "predictions/base/predictions.jsonl"),
    *("ablations/dapo-seed0/outcome.json", "ablations/base.lock", "grpo-seed0.lock"),
    *("ablations/base/output.txt", f"{MERGED}/model.safetensors", f"{MERGED}/tokenizer.json"),
    *(f"{MERGED}/README.md", f"{MERGED}/prompt_template.txt", f"{MERGED}.partial/config.json"),
)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


@pytest.fixture()
def checkout(tmp_path) -> Path:
    """A checkout in which every preset has left something."""
    root = tmp_path / "checkout"
    write(root / "notebooks/04_train.ipynb")
    for preset in ("smoke", "kitchen", "dry-run", "kitchen-nothing", "paper"):
        for room, files in (("build", BUILT), ("datasets", DATA), ("runs", RAN)):
            for path in files:
                write(root / room / preset / path)
        write(root / "runs" / preset / "grpo-seed0/config.json", json.dumps(CONFIG))
    return root


def test_it_removes_what_all_presets_but_paper_wrote(checkout):
    # A dataset card goes unless it became its reader's own.
    mark = "<!-- Written by `python -m foodseg.report.cards.dataset`. Remove this line -->"
    write(checkout / "datasets/kitchen/README.md", f"---\n---\n{mark}\n# Kitchen")
    paper = {path for path in everything(checkout) if "paper" in path}
    said = clean(checkout, checkout)
    rooms = {"build", "datasets", "runs", "notebooks", "notebooks/04_train.ipynb"}
    assert everything(checkout) == paper | rooms
    counts = {len(BUILT), len(DATA), len(DATA) + 1, len(RAN) + 1}
    assert len(said) == 12
    assert {sentence.split(": ")[1] for sentence in said} == {f"{n} files." for n in counts}
    assert clean(checkout, checkout) == []


def test_it_knows_every_preset_whose_plates_are_drawn():
    assert set(DRAWN) == {preset.name for preset in presets.DRAWN} | {presets.DRY_RUN}


def test_a_home_elsewhere_is_cleaned_and_the_checkouts_data_stays(checkout, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(checkout, home)
    clean(checkout, home)
    for room in ("datasets/kitchen", "runs/smoke", "runs/dry-run"):
        assert (checkout / room).exists() and not (home / room).exists()
    assert not list(checkout.glob("build/[!p]*")) and (home / "build/kitchen").exists()
    for preset in ("smoke", "dry-run", "kitchen-nothing"):
        assert not (home / "build" / preset).exists()


def test_the_built_site_is_removed_and_a_strangers_is_not(checkout):
    site = checkout / "build/site"
    for path in ("index.html", "docs/kitchen.html", "_static/styles/furo.css"):
        write(site / path)
    assert f"Left {site}: the kit did not write it." in clean(checkout, checkout)
    assert len(everything(site)) == 6
    write(site / "searchindex.js")
    assert f"Removed from {site}: 4 files." in clean(checkout, checkout)
    assert not site.exists()


@pytest.mark.parametrize(
    "path",
    [
        "build/kitchen/04_train-mine.ipynb",
        "build/smoke/figures/thesis.png",
        "datasets/kitchen/holiday.jpg",
        "datasets/kitchen/README.md",
        "datasets/kitchen/FoodSeg103/Images/img_dir/train/holiday.jpg",
        "runs/kitchen/grpo-seed0/notes.txt",
        "runs/kitchen/grpo-seed0/adapter/notes.txt",
        "runs/kitchen/predictions/mine/mask.png",
        "runs/dry-run/model/config.json",
        "runs/kitchen/merged/mine/config.json",
    ],
)
def test_a_strangers_file_stays_and_is_named(checkout, path):
    write(checkout / path, '{"model_type": "bert"}')
    said = clean(checkout, checkout)
    assert (checkout / path).read_text() == '{"model_type": "bert"}'
    (left,) = [sentence for sentence in said if sentence.startswith("Left")]
    named = left.removeprefix("Left ").split(":")[0]
    assert (checkout / path).is_relative_to(named) and left.endswith("the kit did not write it.")
    room = checkout.joinpath(*Path(path).parts[:2])
    assert [p for p in room.rglob("*") if p.is_file()] == [checkout / path]


def test_a_strangers_folder_stays_though_its_names_are_the_kits(checkout):
    model = checkout / "runs/kitchen/model"
    write(model / "adapter/adapter_model.safetensors")
    (model / "empty").mkdir()
    for config in ("[]", "no JSON", '{"seed": 0}'):
        write(model / "config.json", config)
        before = everything(model)
        assert f"Left {model}: the kit did not write it." in clean(checkout, checkout)
        assert everything(model) == before


@pytest.mark.parametrize(
    "place",
    [
        *("runs", "datasets/kitchen", "datasets/kitchen/FoodSeg103", "runs/kitchen/predictions"),
        *("runs/kitchen/grpo-seed0", "runs/kitchen/grpo-seed0/adapter"),
        *("runs/kitchen/grpo-seed0/config.json", "build/kitchen/seeds-0,1,2"),
    ],
)
def test_a_link_stays_and_what_it_leads_to_is_untouched(checkout, tmp_path, place):
    link = checkout / place
    elsewhere = link.rename(tmp_path / "elsewhere")
    link.symlink_to(elsewhere)
    before = everything(elsewhere)
    said = clean(checkout, checkout)
    assert link.is_symlink() and elsewhere.exists() and everything(elsewhere) == before
    left = f"Left {link}: it is a link."
    if place.endswith("config.json"):  # without its own, the folder is no run
        left = f"Left {link.parent}: the kit did not write it."
    assert left in said


def test_a_clean_that_was_interrupted_goes_on(checkout, monkeypatch):
    def interrupt(path: Path) -> None:
        if path.name.startswith("state.pt"):
            raise KeyboardInterrupt
        os.unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            clean(checkout, checkout)
    assert not (checkout / "runs/kitchen/grpo-seed0/log.jsonl").exists()
    clean(checkout, checkout)
    assert not (checkout / "runs/kitchen").exists()


def test_the_tables_have_all_that_the_writers_write(home, kitchen_mllm):
    """The dataset as notebook 01 draws it, and a run's folder."""
    run = home / "runs/smoke/grpo-seed0"
    claim(run, CONFIG)
    restore(run, learner := SimpleNamespace(state_dict=dict))
    save_checkpoint(run, [], learner)
    kitchen_mllm.add_lora(4, 8, 0)
    save_adapter(run, partial(kitchen_mllm.save_adapter, preset="smoke"))
    claim(run, CONFIG | {"seed": 1})  # moves the first aside
    said = clean(home, home)
    assert len(said) == 2 and everything(home) == {"datasets", "runs"}


def test_a_name_that_is_no_text_is_printed_all_the_same(checkout):
    for file in (
        *("__init__.py", "clean.py"),
        *(f"common/{name}.py" for name in ("__init__", "errors", "files")),
    ):
        write(checkout / "foodseg" / file, (PACKAGE / file).read_text())
    (checkout / os.fsdecode(b"runs/kitchen/\xff")).touch()
    command = [sys.executable, "-S", "-m", "foodseg.clean"]
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=checkout, env=strict, text=True, capture_output=True)
    assert done.returncode == 0 and "\\udcff: the kit did not write it." in done.stdout


@pytest.mark.parametrize("away", ["", "away", "my photos", "~/away"])
def test_a_home_that_is_no_absolute_path_is_no_other_folder(checkout, monkeypatch, capsys, away):
    """A relative one would be the caller's folder, an empty one is none."""
    stranger = checkout.parent / "stranger"
    mine = stranger / away / "datasets/kitchen/FoodSeg103/category_id.txt"
    write(mine, "1\tcandy")
    monkeypatch.setattr("foodseg.clean.PROJECT", checkout)
    monkeypatch.setattr("foodseg.common.files.PROJECT", checkout)
    monkeypatch.setenv("FOODSEG_HOME", away)
    monkeypatch.chdir(stranger)
    assert main() == bool(away)
    said = capsys.readouterr().err
    assert mine.exists() and said.count("\n") == bool(away)
    assert not away or f"FOODSEG_HOME={away} is no absolute path" in said


def test_what_cannot_be_removed_is_said_in_one_sentence(checkout, monkeypatch, capsys):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("foodseg.clean.PROJECT", checkout)
    monkeypatch.delenv("FOODSEG_HOME", raising=False)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert main() == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("clean: ") and "Permission denied" in sentence
