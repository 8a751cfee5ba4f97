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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock, Timeout

from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, write_atomically, write_json, write_lines
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.models.mllm import ADAPTER_WEIGHTS
from foodseg.models.segmenter import DECODER
from foodseg.presets import Preset

OnStep = Callable[[Path], None]


class Learner(Protocol):
    """What a run trains: it takes numbered steps and can be saved after any of them.

    sampled: completions so far, including those that nothing was learnt from.
    """

    sampled: int

    def ends(self, steps: int) -> bool:
        """Whether the run ends with so many steps."""

    def step(self, index: int) -> dict:
        """Step `index`, from 0; returns its log row."""

    def state_dict(self) -> dict:
        """All that the next step needs: tensors and plain values."""

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""

    def save(self, folder: Path) -> None:
        """Write what was learnt."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `<folder>.lock` until the block ends, or the process, however it ends.

    The file lies beside the folder, which may be moved aside meanwhile. Raises DataError if another
    process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(f"{folder.name}: another process is at this run; wait for it.") from None
    try:
        yield
    finally:
        lock.release()


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


def restore(folder: Path, learner: Learner, writes: bool = True) -> list[dict]:
    """Load the last checkpoint, if there is one; returns the log's rows up to it.

    writes: whether this process writes the folder. Rows after the checkpoint belong to steps that
    are taken again, and the last of them may be half written: the log is cut to the checkpoint's.
    """
    rows, path = [], folder / "state.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location="cpu")
        rows = saved["rows"]
        learner.load_state_dict(saved["state"])
    if writes:
        write_lines(folder / "log.jsonl", rows)
    return rows


def take_steps(
    folder: Path,
    title: str,
    preset: Preset,
    learner: Learner,
    rows: list[dict],
    on_step: OnStep | None = None,
    writes: bool = True,
    steps: int | None = None,
) -> list[dict]:
    """Take the steps that follow `rows`, each logged and some checkpointed; returns all rows.

    on_step: called after each step with the path of log.jsonl. steps: how many the progress bar
    expects, the preset's by default.
    """
    log = folder / "log.jsonl"
    with tqdm(None, title, steps or preset.steps, initial=len(rows), disable=not writes) as bar:
        while not learner.ends(len(rows)):
            rows.append({"step": len(rows) + 1} | learner.step(len(rows)))
            bar.update()
            if writes:
                _note(log, rows[-1])
            if writes and len(rows) % preset.checkpoint_every == 0:
                save_checkpoint(folder, rows, learner)
            if writes and on_step:
                on_step(log)
    return rows


def _note(log: Path, row: dict) -> None:
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")


def save_checkpoint(folder: Path, rows: list[dict], learner: Learner) -> None:
    """Write the log's rows so far and the learner's state to state.pt."""
    buffer = io.BytesIO()
    torch.save({"rows": rows, "state": learner.state_dict()}, buffer)
    write_atomically(folder / "state.pt", buffer.getvalue())


def finish(folder: Path, config: dict, steps: int, rows: list[dict], learner: Learner) -> dict:
    """Write adapter/ and result.json; returns the result.

    rows: whose seconds count as the training's.
    """
    adapter = save_adapter(folder, learner.save)
    decoder = adapter / DECODER
    seconds = sum(v for row in rows for k, v in row.items() if k.startswith("seconds_"))
    result = config | {
        "steps": steps,
        "sampled": learner.sampled,
        "seconds": round(seconds, 1),
        "adapter": file_hash(adapter / ADAPTER_WEIGHTS),
        "decoder": file_hash(decoder) if decoder.exists() else None,
        **provenance(config["preset"]["device"]),
    }
    write_json(folder / "result.json", result)
    return result


def save_adapter(folder: Path, save: Callable[[Path], None]) -> Path:
    """Let `save` write into a new folder, which then becomes adapter/ at once; returns that."""
    partial, adapter = folder / "adapter.partial", folder / "adapter"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial)
    shutil.rmtree(adapter, ignore_errors=True)
    os.replace(partial, adapter)
    return adapter
