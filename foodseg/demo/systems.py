"""The systems that the page can ask: the base, and every trained adapter of the preset's runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.models.mllm import ADAPTER_WEIGHTS
from foodseg.models.segmenter import MASK_HEAD
from foodseg.presets import Preset
from foodseg.segment.answer import System, load_system

BASE = "base"
HELD = 3  # loaded at once; the one that was asked longest ago makes room


class Systems:
    """One system at a time, for one caller at a time: two users wait for each other."""

    def __init__(self, preset: Preset):
        self.preset = preset
        self.runs = preset.runs_folder
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, int], System] = OrderedDict()

    def names(self) -> list[str]:
        """The base, then the runs whose adapter answers with boxes and points, by name."""
        weights = sorted(self.runs.glob(f"*/adapter/{ADAPTER_WEIGHTS}"))
        adapters = [path.parent for path in weights if not (path.parent / MASK_HEAD).exists()]
        return [BASE, *(adapter.parent.name for adapter in adapters)]

    def first(self) -> list[str]:
        """The base and, if there is one, a trained run: what the page asks unless told otherwise.

        Of several the one that was trained last.
        """
        trained = self.names()[1:]
        return [BASE, *sorted(trained, key=lambda name: _changed(self._adapter(name)))[-1:]]

    @contextmanager
    def use(self, name: str) -> Iterator[System]:
        """The system of that name, for the caller alone until the block ends.

        Raises DataError for a name that is not among `names`, and as `load_system`.
        """
        with self._lock:
            yield self._loaded(name)

    def _loaded(self, name: str) -> System:
        if name not in self.names():
            raise DataError(f"{name}: there is no such run in {self.runs}; choose another.")
        adapter = None if name == BASE else self._adapter(name)
        # A run that is trained again while the page is open is loaded again.
        key = name, _changed(adapter)
        system = self._held.pop(key, None)
        if system is None:
            while len(self._held) >= HELD:
                self._held.popitem(last=False)
            system = load_system(self.preset, adapter)
        self._held[key] = system
        return system

    def _adapter(self, name: str) -> Path:
        return self.runs / name / "adapter"


def _changed(adapter: Path | None) -> int:
    return (adapter / ADAPTER_WEIGHTS).stat().st_mtime_ns if adapter else 0
