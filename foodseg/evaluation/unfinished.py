"""What an evaluation has done so far, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foodseg.common.files import append_line, sha256, write_atomically
from foodseg.common.imports import VALUES, code_hash, import_closure
from foodseg.common.progress import tqdm
from foodseg.common.provenance import provenance
from foodseg.data.samples import Sample, samples_hash
from foodseg.presets import Preset

if TYPE_CHECKING:
    from foodseg.models.mllm import Mllm
    from foodseg.models.segmenter import Segmenter

FILE = "unfinished.jsonl"
# The preset's fields that an evaluation reads; rows that aren't trained have no others. The batch
# counts because it decides how prompts are padded, and so how sums are rounded.
EVALUATION_FIELDS = (
    "segmenter_config image_side prompt_template max_new_tokens evaluation_batch dtype device"
).split()


class Unfinished:
    """The values that one row's evaluation has made, kept in FILE of its folder until it ends.

    seconds: what making those took that were read back.
    """

    def __init__(self, folder: Path, depends_on: dict) -> None:
        """depends_on: all that decides the values; what was kept under another is forgotten."""
        self.path, first = folder / FILE, json.loads(json.dumps(depends_on))
        rows = list(_whole_rows(self.path))
        rows = rows if rows[:1] == [first] else [first]
        # Without what a kill has left half written.
        write_atomically(self.path, *(_line(row).encode() for row in rows))
        self.values = {name: value for name, value, _ in rows[1:]}
        self.seconds = sum(seconds for *_, seconds in rows[1:])
        if self.values:
            tqdm.write(f"{folder.name}: it goes on after {len(self.values)} parts.")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The JSON value of that name: what `make` returns, or has returned before a kill."""
        if name not in self.values:
            start, value = time.perf_counter(), make()
            append_line(self.path, _line([name, value, time.perf_counter() - start]))
            self.values[name] = value
        return self.values[name]


def depends_on(
    preset: Preset,
    samples: Sequence[Sample],
    module: str,
    mllm: Mllm | None = None,
    segmenter: Segmenter | None = None,
) -> dict:
    """What decides the values of an evaluation by `module`, as JSON values."""
    machine = provenance(preset.device)
    return {
        "preset": {name: repr(getattr(preset, name)) for name in EVALUATION_FIELDS},
        **preset.weights,
        "questions": samples_hash(samples),
        "base": mllm and mllm.name,
        "adapter": mllm and mllm.adapter_hash,
        "template": mllm and mllm.template,
        "decoder": segmenter and segmenter.decoder_hash,
        "code": code_hash(import_closure([module], without=VALUES)),
        **{name: machine[name] for name in ("versions", "device", "processor")},
    }


def _line(row: Any) -> str:
    text = json.dumps(row)
    return f"{sha256(text.encode())} {text}\n"


def _whole_rows(path: Path) -> Iterator[Any]:
    """The rows up to the first line that was cut or changed."""
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        seal, _, text = line.partition(b" ")
        if seal != sha256(text.removesuffix(b"\n")).encode() or not text.endswith(b"\n"):
            return
        yield json.loads(text)
