"""What the paper preset lacks here and will cost, before anything is fetched: `make doctor`.

    python -m foodseg.doctor [data] [--seeds 0,1,2]

Says what is there (GPU, memory, disk, network, weights, data), one sentence with the fix for each
thing that is not, and what remains in GB and hours. Exit status 1 if it can't work. `data`: only
what fetching and building the data needs. The smaller presets need none of this.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import torch
from huggingface_hub import constants

from foodseg.common.errors import DataError
from foodseg.common.files import home
from foodseg.common.hub import fetch_file, is_here
from foodseg.doctor.verdict import Facts, describe, fetch_problems, gpu_problems
from foodseg.models.mllm import MODEL_TYPE
from foodseg.models.sam2_checkpoints import OFFICIAL
from foodseg.presets import REVISIONS, Preset, get_preset, parse_seeds

TIMEOUT = 5  # seconds that the hub may take to answer


def look(preset: Preset) -> Facts:
    """The facts of this machine. Asks the hub whether it answers, for a few seconds."""
    found = torch.cuda.is_available()
    card = torch.cuda.get_device_properties(0) if found else None
    mllm = is_here(preset.mllm, preset.mllm_revision)
    hub = _ask_hub()
    config = _config(preset, mllm, not hub)
    known, test = OFFICIAL.get(preset.segmenter), preset.samples_file("test")
    cache = Path(constants.HF_HUB_CACHE)
    return Facts(
        gpu=card.name if card else "",
        capability=(card.major, card.minor) if card else (0, 0),
        gpu_bytes=card.total_memory if card else 0,
        free_bytes=torch.cuda.mem_get_info(0)[0] if card else 0,
        driver=_driver(),
        home_free=shutil.disk_usage(_existing(home())).free,
        cache_free=shutil.disk_usage(_existing(cache)).free,
        one_disk=_existing(home()).stat().st_dev == _existing(cache).stat().st_dev,
        mllm=mllm,
        segmenter=is_here(preset.segmenter, None, known.file) if known else True,
        data=test.exists() or _data_is_here(preset.dataset),
        trained=sum(f.stat().st_size for f in preset.runs_folder.rglob("*") if f.is_file()),
        model_type=config.get("model_type", ""),
        hidden=config.get("text_config", config).get("hidden_size", 0),
        hub=hub,
        questions=pq.read_metadata(test).num_rows if test.exists() else None,
    )


def _config(preset: Preset, here: bool, online: bool) -> dict:
    """The MLLM's config.json as far as it can be had without its weights."""
    if not here and preset.mllm in REVISIONS:
        return {"model_type": MODEL_TYPE, "hidden_size": 2048 if "3B" in preset.mllm else 3584}
    if not here and not online:
        return {}
    folder = Path(preset.mllm)
    if not folder.is_dir():
        by_hand = "download the model and name its folder as MLLM="
        file = fetch_file(preset.mllm, "config.json", by_hand, preset.mllm_revision)
        return json.loads(file.read_text())
    file = folder / "config.json"
    return json.loads(file.read_text()) if file.is_file() else {"model_type": "not given"}


def _data_is_here(folder: Path) -> bool:
    """Both files of questions, and the folders that photos and masks are unpacked to."""
    parts = []
    for split in ("train", "test"):
        images = (folder / "Images" / kind / split for kind in ("img_dir", "ann_dir"))
        parts += [folder / f"FoodReasonSeg_{split}.json", *images]
    return all(part.exists() for part in parts)


def _driver() -> str:
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text().split() if file.exists() else []
    return next((word for word in words if word[:1].isdigit()), "")


def _ask_hub() -> str:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub"
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return ""  # it answered
    except OSError as error:
        return f"{constants.ENDPOINT} can't be reached ({getattr(error, 'reason', error)})"
    return ""


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 with the problems on stderr."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.doctor", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("door", nargs="?", choices=("all", "data"), default="all")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args(arguments)
    try:
        preset, seeds = get_preset("paper"), len(parse_seeds(options.seeds))
        facts = look(preset)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(*describe(preset, facts, seeds), sep="\n", flush=True)
    problems, later = fetch_problems(preset, facts, options.door, seeds), []
    (later if options.door == "data" else problems).extend(gpu_problems(preset, facts))
    print(*(f"later: {one}" for one in later), sep="\n", end="\n" * bool(later))
    print(*problems, sep="\n", file=sys.stderr, end="\n" * bool(problems))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
