"""Every door, killed or out of disk at any of its writes, ends as if nothing had happened.

Started again, it leaves the same files as a run that nothing disturbed, and no partial ones.
"""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import kitchen_folder
from faults import FAULTS, contents, run
from PIL import Image

from foodseg import presets
from foodseg.data.own.build import save_own
from foodseg.data.samples import load_samples
from foodseg.data.single import write_single
from foodseg.evaluation.evaluate import evaluate
from foodseg.evaluation.external.rows import ExternalRow
from foodseg.evaluation.external.score import score
from foodseg.kitchen.dataset import write_kitchen
from foodseg.recipes import B_GRTO, DAPO
from foodseg.supervised.targets import SFT
from foodseg.supervised.training import train_baseline
from foodseg.system import load_policy, load_segmenter
from foodseg.training.trainer import train

PRESET = replace(
    presets.SMOKE,
    steps=2,
    checkpoint_every=1,
    prompts_per_step=2,
    groups_per_update=1,
    group_size=4,
    max_new_tokens=60,
    learning_rate=1e-3,
)


MOST = 80  # cases of a door; test_run_folder.py has a training's every write, with a small learner


def training(method) -> None:
    learn = train if method is not SFT else train_baseline
    learn(PRESET, method, 0, load_samples(PRESET.samples_file("train"))[:8])


def evaluation() -> None:
    samples = load_samples(PRESET.samples_file("test"))[:4]
    evaluate(PRESET, "base", samples, load_policy(PRESET), load_segmenter(PRESET))


def drawing() -> None:
    root = presets.SMOKE.dataset.parent / "drawn"
    if not root.exists():
        write_kitchen(root, 3, 2, seed=0, workers=1)


def building() -> None:
    for split in ("train", "test"):
        write_single(PRESET.dataset, split, PRESET.dataset.parent / f"again_{split}.parquet")


def own() -> None:
    home = PRESET.dataset.parents[2]
    save_own(home / "photos", home / "datasets" / "mine")


def scoring() -> None:
    row = ExternalRow("theirs", "Theirs", "generate-then-segment")
    score(PRESET, PRESET.dataset.parents[2] / "masks", row)


DOORS: dict[str, Callable[[], None]] = {
    "training": partial(training, DAPO),
    "training of policy and decoder": partial(training, B_GRTO),
    "supervised training": partial(training, SFT),
    "evaluation": evaluation,
    "drawing plates": drawing,
    "building the data": building,
    "building own data": own,
    "scoring other masks": scoring,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """What every door finds: the smoke data, a folder of one's own, another system's masks."""
    folder = tmp_path_factory.mktemp("start")
    kitchen_folder(folder)
    for part in ("photos/images", "photos/masks/plate", "masks"):
        (folder / part).mkdir(parents=True)
    square = np.zeros((48, 64), dtype=bool)
    square[10:40, 10:40] = True
    Image.new("RGB", (64, 48), (90, 20, 30)).save(folder / "photos/images/plate.png")
    Image.fromarray(square).save(folder / "photos/masks/plate/fig.png")
    line = '{"image": "plate.png", "question": "Sweet?", "things": ["fig"], "split": "train"}\n'
    (folder / "photos/questions.jsonl").write_text(line)
    for sample in load_samples(folder / "datasets/smoke" / PRESET.samples_file("test").name)[:5]:
        Image.fromarray(sample.union_mask()).save(folder / f"masks/{sample.sample_id}.png")
    return folder


def at(door: Callable[[], None], home: Path) -> Callable[[], None]:
    """The door with this home, in the process that runs it."""

    def run_there() -> None:
        os.environ["FOODSEG_HOME"] = str(home)
        door()

    return run_there


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_door_survives_a_fault_at_any_write(door, start, tmp_path, campaign, request):
    shutil.copytree(start, tmp_path / "whole")
    whole = run(at(door, tmp_path / "whole"), tmp_path / "whole")
    assert whole.status == 0, whole.said
    wanted = contents(tmp_path / "whole")
    cases = [(fault, number) for fault in FAULTS for number in range(1, whole.writes + 1)]
    name = request.node.callspec.id
    tries = campaign(f"{name}: killed or out of disk at a write", 3, min(len(cases), MOST))
    for fault, number in random.Random(0).sample(cases, tries):
        home = tmp_path / f"{fault} {number}".replace(" ", "-")
        shutil.copytree(start, home)
        hurt = run(at(door, home), home, fault, number)
        told = f"{fault} at write {number} of {whole.writes}: {hurt.status} {hurt.said}"
        assert hurt.status <= 1, told  # killed, or one sentence; or the last write, unhurt
        assert fault != "disk full" or hurt.status == 0 or "\n" not in hurt.said, told
        again = run(at(door, home), home)
        assert again.status == 0, f"{told}; again: {again.said}"
        found = contents(home)
        others = {name for name in found | wanted if found.get(name) != wanted.get(name)}
        assert not others, f"{told}; not as in an undisturbed run: {sorted(others)}"
        shutil.rmtree(home)
