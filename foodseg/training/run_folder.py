"""The folder of one training run, which may be killed anywhere and started again.

config.json (what decides the run's bits), log.jsonl (a row a step), state.pt (all that the next
step needs, below a line with its SHA-256), and at the end adapter/ and result.json, which is
written last and has a hash of every file that it stands for.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from foodseg.common.errors import DataError
from foodseg.common.files import (
    append_line,
    file_hash,
    load_json,
    read_sealed,
    sha256,
    sync,
    write_json,
    write_lines,
    write_sealed,
    writing,
)
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.models.mllm import ADAPTER_WEIGHTS
from foodseg.models.segmenter import DECODER
from foodseg.presets import Preset
from foodseg.rl.dynamic_sampling import NoSignalError

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


def claim(
    folder: Path, config: dict, goes_on: Callable[[dict, dict, list[dict]], bool] | None = None
) -> dict | None:
    """Make the folder this configuration's; returns its result if the run is finished.

    A run of another configuration, or of one that can't be read, is moved aside. A finished run of
    which a file was changed is none: it goes on from its last checkpoint and writes it again.

    goes_on: whether the run in the folder is the beginning of this configuration's, from its own
    configuration, the new one and its log's rows; then it is continued. Raises DataError for a
    checkpoint that was cut or changed.
    """
    config_file, result_file = folder / "config.json", folder / "result.json"
    for partial in folder.glob("*.partial"):  # a killed process's; the folder's lock is ours
        if partial.is_file():
            with writing(partial):
                partial.unlink()
    problem, before = _not_ours(folder, config)
    if problem and before and goes_on and (saved := _load(folder)):
        if goes_on(before, config, saved["rows"]):
            with writing(result_file):
                result_file.unlink(missing_ok=True)
            write_json(config_file, config)
            tqdm.write(f"{folder.name}: it goes on after step {len(saved['rows'])}.")
            return None
    if problem:
        aside = folder.with_name(f"{folder.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
        with writing(aside):
            os.replace(folder, aside)
        tqdm.write(f"{folder.name}: {problem}; the old run is in {aside.name}.")
    if not config_file.exists():
        write_json(config_file, config)
    if not result_file.exists():
        return None
    if problem := _not_whole(folder, config):
        tqdm.write(f"{folder.name}: {problem}; it goes on from its last checkpoint.")
        with writing(result_file):
            result_file.unlink()
        return None
    return load_json(result_file)


def _not_ours(folder: Path, config: dict) -> tuple[str, dict]:
    """Why the folder's run is not this configuration's, empty if it is; and its configuration."""
    file = folder / "config.json"
    if not file.exists():
        kept = [name for name in ("state.pt", "result.json") if (folder / name).exists()]
        return f"config.json is missing beside {kept[0]}" if kept else "", {}
    try:
        before = load_json(file)
    except DataError:
        return "config.json is broken", {}
    return "" if before == config else "other settings than before", before


def _not_whole(folder: Path, config: dict) -> str:
    """Why a finished run is none: the file of it that is not as it was; empty if all are."""
    try:
        result = load_json(folder / "result.json")
        whole = result.pop("sha256") == _digest(result) and result | config == result
        files = result["files"]
    except (DataError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        return "result.json is broken"
    changed = [name for name, known in files.items() if _hash(folder / name) != known]
    return f"{changed[0]} is missing or was changed" if changed else ""


def _digest(result: dict) -> str:
    return sha256(json.dumps(result).encode())


def _hash(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None


def restore(folder: Path, learner: Learner, writes: bool = True) -> list[dict]:
    """Load the last checkpoint, if there is one; returns the log's rows up to it.

    writes: whether this process writes the folder. Rows after the checkpoint belong to steps that
    are taken again, and the last of them may be half written: the log is cut to the checkpoint's.
    Raises DataError for a checkpoint that was cut or changed.
    """
    saved = _load(folder)
    if saved:
        learner.load_state_dict(saved["state"])
    rows = saved["rows"] if saved else []
    if writes:
        write_lines(folder / "log.jsonl", rows)
    return rows


def _load(folder: Path) -> dict | None:
    """The last checkpoint's rows and state; None before the first."""
    path = folder / "state.pt"
    if not path.exists():
        return None
    fix = "put a copy back, or remove it to train from the first step on"
    content = io.BytesIO(read_sealed(path, fix))
    return torch.load(content, weights_only=True, map_location="cpu")


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
    expects, the preset's by default. Raises NoSignalError, which says what helps, after a
    checkpoint of the step before and its adapter.
    """
    log = folder / "log.jsonl"
    with tqdm(None, title, steps or preset.steps, initial=len(rows), disable=not writes) as bar:
        while not learner.ends(len(rows)):
            try:
                row = learner.step(len(rows))
            except NoSignalError as error:
                if writes and rows:
                    save_checkpoint(folder, rows, learner)
                    save_adapter(folder, learner.save)
                raise NoSignalError(_what_helps(folder, len(rows), error)) from None
            rows.append({"step": len(rows) + 1} | row)
            bar.update()
            if writes:
                append_line(log, json.dumps(rows[-1]) + "\n")
            # At the end too: what comes after it may fail, or the run go on for more steps.
            due = len(rows) % preset.checkpoint_every == 0 or learner.ends(len(rows))
            if writes and due:
                save_checkpoint(folder, rows, learner)
            if writes and on_step:
                on_step(log)
        bar.total = len(rows)  # a run may end with fewer steps, as with dynamic sampling
        bar.refresh()
    return rows


def _what_helps(folder: Path, steps: int, error: NoSignalError) -> str:
    kept = f"; the adapter after step {steps} is in adapter/" if steps else ""
    return (
        f"{folder.name}: {error} With a larger max_rounds of its recipe the run goes on if each "
        f"step so far found all its groups; with other settings it begins again{kept}."
    )


def save_checkpoint(folder: Path, rows: list[dict], learner: Learner) -> None:
    """Write the log's rows so far and the learner's state to state.pt.

    Raises DataError for a state with a NaN or an infinite weight: the run could never recover.
    """
    state = learner.state_dict()
    if not _finite(state):
        raise DataError(
            f"{folder.name}: step {len(rows)} made a weight NaN or infinite, so it was not saved; "
            "lower the learning rate and start again."
        )
    buffer = io.BytesIO()
    torch.save({"rows": rows, "state": state}, buffer)
    write_sealed(folder / "state.pt", buffer.getbuffer())


def _finite(value: Any) -> bool:
    """Whether no tensor in a state has a NaN or plus infinity; what is no tensor is passed over."""
    if isinstance(value, torch.Tensor):
        return bool((value < torch.inf).all())  # minus infinity has a meaning in Dr. Seg's queue
    values = value.values() if isinstance(value, dict) else value
    return not isinstance(value, dict | list | tuple) or all(map(_finite, values))


def finish(folder: Path, config: dict, steps: int, rows: list[dict], learner: Learner) -> dict:
    """Write adapter/ and result.json; returns the result.

    rows: whose seconds count as the training's.
    """
    adapter = save_adapter(folder, learner.save)
    decoder = adapter / DECODER
    files = [*adapter.iterdir(), *folder.glob("*.jsonl")]
    seconds = sum(v for row in rows for k, v in row.items() if k.startswith("seconds_"))
    result = config | {
        "steps": steps,
        "sampled": learner.sampled,
        "seconds": round(seconds, 1),
        "adapter": file_hash(adapter / ADAPTER_WEIGHTS),
        "decoder": _hash(decoder),
        "files": {str(file.relative_to(folder)): file_hash(file) for file in sorted(files)},
        **provenance(config["preset"]["device"]),
    }
    result["sha256"] = _digest(result)
    write_json(folder / "result.json", result)
    return result


def save_adapter(folder: Path, save: Callable[[Path], None]) -> Path:
    """Let `save` write into a new folder, which then becomes adapter/ at once; returns that.

    It is on the disk by then: a result that is written next never stands beside less. Raises
    DataError as `files.writing`.
    """
    partial, adapter = folder / "adapter.partial", folder / "adapter"
    with writing(adapter):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save(partial)
        except SafetensorError as error:  # its words for a full disk, among others
            raise DataError(f"{adapter}: it can't be written ({error}); make room.") from error
        for path in (*partial.iterdir(), partial):
            sync(path)
        shutil.rmtree(adapter, ignore_errors=True)
        os.replace(partial, adapter)
        sync(folder)
    return adapter
