"""The embedded dataset: drawn plates with conversations, written as FoodSeg103 and FoodReasonSeg.

A plate follows from its seed alone, and these ranges of seeds never meet:

    training plates   1,000,000 + 100,000 * seed + i
    test plates       5,000,000 + 100,000 * seed + i
    plates that trained the shipped weights   10,000,000 and up (validation: 20,000,000 and up)

so that a test plate is in nobody's training, whatever the dataset's own seed (0 to 39).
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import writing
from foodseg.common.lock import alone
from foodseg.common.progress import tqdm
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.kitchen.plates import Plate, draw_plate
from foodseg.kitchen.questions import Split, ask_for_nothing, converse

FIRST_PLATE_SEEDS: dict[Split, int] = {"train": 1_000_000, "test": 5_000_000}
BASE_PLATE_SEEDS = 10_000_000
BASE_VALIDATION_SEEDS = 20_000_000
SEED_STRIDE = 100_000
SEEDS = (FIRST_PLATE_SEEDS["test"] - FIRST_PLATE_SEEDS["train"]) // SEED_STRIDE
JPEG_QUALITY = 95
# They keep a plate's words apart from its picture's random numbers, and these from each other.
_CONVERSATION_STREAM, _NO_TARGET_STREAM = 1, 2


def plate_seeds(split: Split, count: int, seed: int) -> range:
    """Seeds of a split's plates in the dataset of that `seed` (0 to 39), at most 100,000 of them.

    Raises ValueError outside these limits, where ranges would meet.
    """
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed={seed} is out of range; use 0 to {SEEDS - 1}.")
    if not 0 <= count <= SEED_STRIDE:
        raise ValueError(f"{count} {split} plates are out of range; use 0 to {SEED_STRIDE}.")
    first = FIRST_PLATE_SEEDS[split] + SEED_STRIDE * seed
    return range(first, first + count)


def write_kitchen(
    root: Path | str,
    train_plates: int,
    test_plates: int,
    seed: int,
    workers: int = 2,
    no_target_share: float = 0.0,
) -> None:
    """Draw the plates and write them to `root` in the official layout, with a progress bar.

    Images/img_dir/{train,test}/<plate seed, 8 digits>.jpg, Images/ann_dir/...png (class ids),
    category_id.txt, FoodReasonSeg_{train,test}.json. The same arguments give the same bytes,
    whatever the number of worker processes (1 draws in this process; a script that uses more
    needs the usual `if __name__ == "__main__":`). `root` exists only when it is complete; until
    then files go to `<root>.partial`. Raises DataError if `root` is there and isn't empty, or if
    another process draws it.

    no_target_share: of all questions, those for foods that aren't on the plate. They come after a
    plate's others, which they leave as they are.
    """
    counts = {"train": train_plates, "test": test_plates}
    seeds = {split: plate_seeds(split, count, seed) for split, count in counts.items()}
    with alone(Path(root)), writing(Path(root)):
        _write_kitchen(Path(root), seeds, workers, no_target_share)


def _write_kitchen(
    root: Path, seeds: dict[Split, range], workers: int, no_target_share: float
) -> None:
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise DataError(f"{root}: the dataset is there already; remove it to draw it again.")
    partial_root = root.with_name(root.name + ".partial")
    if partial_root.exists():
        shutil.rmtree(partial_root)
    for kind in ("img_dir", "ann_dir"):
        for split in seeds:
            (partial_root / "Images" / kind / split).mkdir(parents=True)
    lines = [f"{class_id}\t{name}\n" for class_id, name in sorted(CATEGORIES.items())]
    (partial_root / "category_id.txt").write_text("".join(lines), encoding="utf-8")
    jobs = [(split, plate_seed) for split in seeds for plate_seed in seeds[split]]
    write = partial(_write_plate, partial_root, no_target_share)
    entries = list(draw_all(write, jobs, workers))
    for split in seeds:
        conversations, entries = entries[: len(seeds[split])], entries[len(seeds[split]) :]
        text = json.dumps(conversations, indent=1) + "\n"
        (partial_root / f"FoodReasonSeg_{split}.json").write_text(text, encoding="utf-8")
    _check_count(partial_root, len(jobs))
    if root.exists():
        root.rmdir()
    partial_root.rename(root)


def _check_count(root: Path, plates: int) -> None:
    for kind in ("img_dir", "ann_dir"):
        found = sum(path.is_file() for path in (root / "Images" / kind).glob("*/*"))
        if found != plates:
            fix = "another program removed some or wrote there; draw them again"
            raise DataError(f"{root}: {found} files in {kind}, not {plates}: {fix}.")


def draw_all(draw: Callable, jobs: Sequence, workers: int) -> Iterator:
    """`draw` of each job, in order, by that many worker processes (1 is this one), with a bar."""
    bar = partial(tqdm, total=len(jobs), desc="Drawing plates", unit="plate")
    if workers <= 1:
        yield from bar(map(draw, jobs))
        return
    # Not fork: a notebook that has used torch holds threads, which a forked child would hang on.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_end_with_parent) as pool:
        yield from bar(pool.map(draw, jobs))


def _end_with_parent() -> None:
    """End this worker when the process that started it ends, even when that is killed."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_plate(root: Path, no_target_share: float, job: tuple[Split, int]) -> dict:
    """Write one plate's picture and mask; returns its FoodReasonSeg entry."""
    split, plate_seed = job
    plate = draw_plate(plate_seed)
    dish_id = f"{plate_seed:08d}"
    picture = root / "Images" / "img_dir" / split / f"{dish_id}.jpg"
    Image.fromarray(plate.image).save(picture, quality=JPEG_QUALITY)
    Image.fromarray(plate.mask).save(root / "Images" / "ann_dir" / split / f"{dish_id}.png")
    rng = np.random.default_rng([_CONVERSATION_STREAM, plate_seed])
    conversation = converse(plate.foods, split, rng)
    conversation += _ask_for_nothing(plate, split, plate_seed, conversation, no_target_share)
    return {"dish_id": dish_id, "conversations": conversation}


def _ask_for_nothing(
    plate: Plate, split: Split, plate_seed: int, conversation: list[dict], share: float
) -> list[dict]:
    """So many more questions that, over many plates, they are this share of all."""
    asked = sum("[SEG" in message["value"] for message in conversation)
    rng = np.random.default_rng([_NO_TARGET_STREAM, plate_seed])
    count = int(asked * share / (1 - share) + rng.random())
    return ask_for_nothing(plate.foods, split, rng, count)
