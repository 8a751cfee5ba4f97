"""SAM2 Hiera-L in other precisions: the time of a photo and a question, and whether masks stay.

A side that takes turns (`bench.paired_timing`). The weights are the hub's where they are on this
machine, else random ones, whose masks are ragged: more of their pixels lie at a logit of 0, so they
change more easily than a trained model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from foodseg.bench.paired_timing import Turns, clock
from foodseg.common.hub import is_here
from foodseg.data.photos import read_photo
from foodseg.data.samples import Sample
from foodseg.models.sam2_checkpoints import OFFICIAL
from foodseg.models.segmenter import Segmenter
from foodseg.presets import Preset

# "float32": without TensorFloat-32 anywhere, by which the others are judged. "default": as the kit
# runs, where PyTorch lets cuDNN's convolutions use it. "tf32": matrix products too.
PRECISIONS = ("float32", "default", "tf32", "bfloat16")


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Within this context PyTorch computes in this precision."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    allowed = {"float32": (False, False), "default": before}.get(name, (True, True))
    try:
        for flag, allow in zip(flags, allowed, strict=True):
            flag.allow_tf32 = allow
        with torch.autocast(device, torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        for flag, allow in zip(flags, before, strict=True):
            flag.allow_tf32 = allow


def some_segmenter(preset: Preset) -> tuple[Segmenter, str]:
    """The preset's SAM2 and what its weights are."""
    known = OFFICIAL.get(preset.segmenter)
    if known and is_here(preset.segmenter, None, known.file):
        return Segmenter.load(preset.segmenter, preset.segmenter_config, preset.device), "official"
    torch.manual_seed(0)
    segmenter = Segmenter(preset.segmenter_config, preset.device)
    for parameter in segmenter.model.sam_mask_decoder.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))  # masks of more than one kind
    return segmenter, "random"


def precisions(turns: Turns, rounds: int, preset: Preset, samples: Sequence[Sample]) -> None:
    """A row has, for each precision, seconds of all samples and the share of pixels that differ."""
    segmenter, weights = some_segmenter(preset)
    photos = [read_photo(preset.dataset / sample.image).image for sample in samples]
    turns.ready()
    for _ in range(rounds):
        turns.wait()
        seconds, masks = {}, {}
        for name in PRECISIONS:
            start = clock()
            with precision(name, preset.device):
                masks[name] = [
                    segmenter.predict(segmenter.embed_image(photo), sample.references)
                    for photo, sample in zip(photos, samples, strict=True)
                ]
            seconds[name] = clock() - start
        turns.report(seconds, weights=weights, differs=_differences(masks))


def _differences(masks: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Of each precision the share of mask pixels, true in either, that are not float32's."""
    exact = masks["float32"]
    either = {
        n: sum((a | b).sum() for a, b in zip(m, exact, strict=True)) for n, m in masks.items()
    }
    odd = {n: sum((a ^ b).sum() for a, b in zip(m, exact, strict=True)) for n, m in masks.items()}
    return {name: float(odd[name] / max(either[name], 1)) for name in masks}
