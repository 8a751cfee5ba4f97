"""Answer a question about any photo, the way the evaluation does.

The model's greedy completion, its boxes and points scaled to the photo, SAM2's best mask for each.
All pixels are those of the upright photo (`read_photo`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foodseg.common.errors import DataError
from foodseg.data.foodseg103 import is_said
from foodseg.data.photos import Photo
from foodseg.data.question_text import MARK_FIX, find_mark
from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import sample_rollouts
from foodseg.models.segmenter import Segmenter
from foodseg.presets import Preset
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import to_original
from foodseg.system import (
    check_files,
    find_decoder,
    load_adapter,
    load_policy,
    load_segmenter,
    one_thread,
)


@dataclass(frozen=True, eq=False)
class System:
    """A preset's two models, loaded; seconds: what loading them took."""

    preset: Preset
    mllm: Mllm
    segmenter: Segmenter
    seconds: float


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A question about a photo, answered.

    text: all that the model wrote; thinking: its words before the answer. references: its boxes
    and points in pixels of `photo.image`; empty if no answer could be parsed. masks: SAM2's for
    each of them, bool (N, H, W). seconds: by phase. nothing: it says `[]`, that nothing fits.
    """

    photo: Photo
    question: str
    text: str
    thinking: str
    references: tuple[Reference, ...]
    masks: np.ndarray
    seconds: dict[str, float]
    nothing: bool = False

    @property
    def parsed(self) -> bool:
        return bool(self.references) or self.nothing

    @property
    def mask(self) -> np.ndarray:
        """The union of the masks, bool (H, W); empty without an answer."""
        return self.masks.any(axis=0)


def load_system(preset: Preset, adapter: Path | str | None = None) -> System:
    """Load the preset's two models and, if given, a run's adapter folder, with GRTO's decoder.

    Raises DataError if the adapter is incomplete or made for another preset, or if the preset's
    weights or GPU are missing.
    """
    start = time.perf_counter()
    adapter = None if adapter is None else Path(adapter)
    if adapter:
        check_files(adapter)
    if torch.device(preset.device).type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"preset {preset.name}: it needs a CUDA GPU, and there is none here.")
    try:
        mllm = load_policy(preset)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"preset {preset.name}: {preset.mllm} can't be loaded: {reason}") from None
    if adapter:
        load_adapter(mllm, adapter, preset)
    segmenter = load_segmenter(preset, find_decoder(adapter) if adapter else None)
    return System(preset, mllm, segmenter, time.perf_counter() - start)


def segment(system: System, photo: Photo, question: str) -> Segmentation:
    """Ask one question about one photo; on a CPU it is answered in one thread.

    Raises DataError for a question that can't be asked.
    """
    question = check_question(question)
    with one_thread(system.preset.device):
        return _segment(system, photo, question)


def _segment(system: System, photo: Photo, question: str) -> Segmentation:
    seconds = {"load": system.seconds}
    mllm, preset, segmenter = system.mllm, system.preset, system.segmenter
    with _timed(seconds, "prompt", mllm.device):
        prompts = mllm.embed_prompts([question], mllm.embed_images([photo.image]))
    with _timed(seconds, "answer", mllm.device):
        greedy = {"max_new_tokens": preset.max_new_tokens, "temperature": 0.0}
        (rollout,) = sample_rollouts(mllm, prompts, group_size=1, **greedy)
    # Adapters of SAM-R1 write labelled points, of NOTHING_HERE `[]`; others don't by themselves.
    answer = parse_answer(rollout.texts[0], labelled=True, nothing=True)
    # A sample without ground truth.
    sample = Sample("", "", "", photo.name, *photo.image.size, question, "", (), (), (), ())
    references = to_original(answer, sample, preset.image_side)
    with _timed(seconds, "embedding", segmenter.device):
        embedding = segmenter.embed_image(photo.image)
    with _timed(seconds, "masks", segmenter.device):
        masks = segmenter.predict(embedding, references)
    words = answer.completion, answer.thinking
    return Segmentation(photo, question, *words, references, masks, seconds, answer.nothing)


def check_question(question: str) -> str:
    """The question in one line.

    Raises DataError if it is empty, no UTF-8, or holds one of the model's own tokens.
    """
    question = " ".join(question.split())
    if not question:
        raise DataError("question: it is empty; ask for a food in the photo.")
    if not is_said(question):  # half a surrogate pair: a byte of the command line, or of JSON
        raise DataError("question: it is no UTF-8; write it in UTF-8.")
    if mark := find_mark(question):
        raise DataError(f"question: {mark}: {MARK_FIX}.")
    return question


@contextmanager
def _timed(seconds: dict[str, float], phase: str, device: torch.device) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[phase] = time.perf_counter() - start
