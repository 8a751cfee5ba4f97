"""The folder of one training run, which may be killed anywhere and started again.

config.json (what decides the run's bits), log.jsonl (a row a step), state.pt (all that the next
step needs), and at the end adapter/ and result.json, which is written last.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from foodseg.common.files import write_atomically, write_json, write_lines
from foodseg.common.progress import tqdm


def claim(folder: Path, config: dict) -> dict | None:
    """Make the folder this configuration's; returns its result if the run is finished.

    A run of another configuration is moved aside.
    """
    config_file, result_file = folder / "config.json", folder / "result.json"
    if config_file.exists() and json.loads(config_file.read_text()) != config:
        aside = folder.with_name(f"{folder.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(folder, aside)
        tqdm.write(f"{folder.name}: other settings than before; the old run is in {aside.name}.")
    if not config_file.exists():
        write_json(config_file, config)
    if result_file.exists() and (folder / "adapter").exists():
        return json.loads(result_file.read_text())
    return None


def append_row(folder: Path, row: dict) -> None:
    """Add a step's row to the log."""
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")


def save_state(folder: Path, rows: list[dict], state: dict) -> None:
    """Checkpoint: the log's rows so far, and tensors and plain values."""
    buffer = io.BytesIO()
    torch.save({"rows": rows, "state": state}, buffer)
    write_atomically(folder / "state.pt", buffer.getvalue())


def load_state(folder: Path) -> tuple[list[dict], dict | None]:
    """The last checkpoint: the log's rows up to it, and the state; ([], None) without one."""
    path = folder / "state.pt"
    if not path.exists():
        return [], None
    saved = torch.load(path, weights_only=True, map_location="cpu")
    return saved["rows"], saved["state"]


def start_log(folder: Path, rows: list[dict]) -> None:
    """Cut the log to a checkpoint's rows.

    Rows after it belong to steps that are taken again; the last of them may be half written.
    """
    write_lines(folder / "log.jsonl", rows)


def save_adapter(folder: Path, save: Callable[[Path], None]) -> Path:
    """Let `save` write into a new folder, which then becomes adapter/ at once; returns that."""
    partial, adapter = folder / "adapter.partial", folder / "adapter"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial)
    shutil.rmtree(adapter, ignore_errors=True)
    os.replace(partial, adapter)
    return adapter
