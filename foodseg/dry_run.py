"""Random weights in the paper's sizes: `make PRESET=paper DRY_RUN=1` before a download of 8 GB.

    python -m foodseg.dry_run      say what this machine lacks, or write the weights (8.4 GB)

The dry run's notebooks read these files as they would read the real ones, so it shows whether
code, memory and disk suffice, and what a step takes; its scores mean nothing. Qwen's tokenizer is
a download too: the kitchen's takes its place, filled up to Qwen's 151,643 plain tokens so that
whatever is sampled has a text.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig

from foodseg.common.machine_memory import physical_bytes
from foodseg.models.random_mllm import qwen2_5_vl_3b, random_mllm
from foodseg.models.sam2 import build_sam2
from foodseg.models.sam2_checkpoints import SegmenterConfig
from foodseg.presets import KITCHEN, Preset, dry_run_preset

# A training peaked at 15.2 GB on a CPU; on a GPU it plans its memory, here for a card of 24 GB.
MEMORY_BYTES = {"cuda": 23 * 10**9, "cpu": 17 * 10**9}
# 8.4 for the weights, 1.9 for each training, and an old checkpoint while a new one is written.
DISK_BYTES = 15 * 10**9
PLAIN_TOKENS = 151_643  # Qwen2.5's, before its special ones


def missing(device: str, memory_bytes: int, disk_bytes: int) -> list[str]:
    """What a machine lacks for the dry run, a sentence each; [] if nothing."""
    kind, where = ("GPU memory", "GPU") if device == "cuda" else ("memory", "machine")
    lacks = [
        (kind, memory_bytes, MEMORY_BYTES[device], f"take a larger {where}"),
        ("free disk", disk_bytes, DISK_BYTES, "make room, or set FOODSEG_HOME to another disk"),
    ]
    return [
        f"{name}: {has / 1e9:.1f} GB, and the dry run needs {needs / 1e9:.0f} GB; {remedy}."
        for name, has, needs, remedy in lacks
        if has < needs
    ]


def write_weights(preset: Preset, config: Qwen2_5_VLConfig, sam2: SegmenterConfig) -> None:
    """Random weights of these configurations where `preset` looks for them, in its dtype."""
    folder = Path(preset.mllm)
    shutil.rmtree(folder, ignore_errors=True)
    tokens = min(PLAIN_TOKENS, config.text_config.vocab_size)
    _write_tokenizer(folder, tokens)
    dtype = getattr(torch, preset.dtype)
    mllm = random_mllm(config, folder, preset.image_side, preset.device, dtype)
    mllm.model.save_pretrained(folder)
    mllm.image_processor.save_pretrained(folder)
    torch.manual_seed(0)
    # In the layout of the official file.
    torch.save({"model": build_sam2(sam2).state_dict()}, preset.segmenter)


def _write_tokenizer(folder: Path, tokens: int) -> None:
    """The kitchen's tokenizer with words w0, w1, ... added up to so many tokens."""
    folder.mkdir(parents=True)
    for path in Path(KITCHEN.mllm).glob("*.json*"):
        if path.name.startswith("tokenizer"):
            shutil.copy(path, folder)
    shutil.copy(Path(KITCHEN.mllm) / "chat_template.jinja", folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    # No merge makes one of these, so a prompt's tokens stay as they are. "\u0120" is a space.
    vocabulary |= {f"\u0120w{i}": i for i in range(len(vocabulary), tokens)}
    path.write_text(json.dumps(content))


def _found(preset: Preset) -> tuple[int, int]:
    """(bytes of memory, bytes of free disk where the weights go)."""
    if preset.device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = physical_bytes()
    folder = Path(preset.segmenter).parent
    folder.mkdir(parents=True, exist_ok=True)
    return memory, shutil.disk_usage(folder).free


def main() -> int:
    """Exit status: 0 with the weights in place, 1 with what is missing."""
    preset = dry_run_preset()
    done = Path(preset.segmenter).with_name("complete")
    if done.exists():
        return 0
    if lacking := missing(preset.device, *_found(preset)):
        print("dry run: " + " ".join(lacking), file=sys.stderr)
        return 1
    print(f"Writing random weights of the paper's models to {done.parent}", flush=True)
    write_weights(preset, qwen2_5_vl_3b(), preset.segmenter_config)
    done.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
