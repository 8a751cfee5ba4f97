"""Photos of a training: read ahead of the questions, and their features kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import torch
from PIL import Image

from foodseg.data.photos import read_photo
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.models.segmenter import ImageEmbedding, Segmenter
from foodseg.presets import Preset
from foodseg.system import load_segmenter, read_photos

# On a model's device. The kitchen's 400 photos take a quarter of it, one paper-sized photo 20 MB.
# A supervised run meets every photo once an epoch, so to drop the oldest would drop what is needed
# soonest: what does not fit any more is computed again each time.
KEPT_BYTES = 2**30

Features = TypeVar("Features", torch.Tensor, ImageEmbedding)


class PhotoReader:
    """Reads photos of coming questions in a thread while this round's are learnt from."""

    def __init__(self, mllm: Mllm, preset: Preset) -> None:
        self.mllm, self.preset = mllm, preset
        self.thread = ThreadPoolExecutor(1, "photos")
        self._ahead: tuple[list[Sample], Future] | None = None

    def photos(self, samples: list[Sample], following: list[Sample]) -> dict[str, Image.Image]:
        """What `read_photos` returns for these samples; starts to read for those that follow."""
        # A run that is continued begins with questions that nobody has read ahead for, and dynamic
        # sampling asks fewer than were read for.
        ahead = self._ahead and self._ahead[0][: len(samples)] == samples
        reading = self._ahead[1] if ahead else self._read(samples)
        photos = reading.result()
        self._ahead = following, self._read(following)
        return {sample.image: photos[sample.image] for sample in samples}

    def _read(self, samples: list[Sample]) -> Future:
        return self.thread.submit(read_photos, self.mllm, self.preset, samples)


class PhotoFeatures:
    """What the frozen encoders make of a photo, by `Sample.image`, without a gradient.

    Photos are embedded one at a time, so that the bits do not depend on which others were met
    before. sha256: of the photo's file; DataError if it has become another, "" checks nothing.
    segmenter: the preset's by default, which is then loaded when it is first needed.
    """

    def __init__(self, mllm: Mllm, preset: Preset, segmenter: Segmenter | None = None) -> None:
        self.mllm, self.preset = mllm, preset
        if segmenter:
            self.segmenter = segmenter
        self.clear()

    @cached_property
    def segmenter(self) -> Segmenter:
        return load_segmenter(self.preset)

    def clear(self) -> None:
        """Forget all features."""
        self.kept: dict[tuple[str, str], torch.Tensor | ImageEmbedding] = {}
        self.free = KEPT_BYTES

    def visual_tokens(self, image: str, sha256: str = "") -> torch.Tensor:
        """(V, D), in the MLLM's dtype."""

        def embed(photo: Image.Image) -> torch.Tensor:
            return self.mllm.embed_images([photo])[0]

        return self._find(("tokens", image), sha256, embed)

    def embedding(self, image: str, sha256: str = "") -> ImageEmbedding:
        """The segmenter's."""
        return self._find(("embedding", image), sha256, self.segmenter.embed_image)

    def _find(
        self, key: tuple[str, str], sha256: str, embed: Callable[[Image.Image], Features]
    ) -> Features:
        if key in self.kept:
            return self.kept[key]
        features = embed(read_photo(self.preset.dataset / key[1], sha256).image)
        size = _bytes(features)
        if size <= self.free:
            self.kept[key], self.free = features, self.free - size
        return features


def _bytes(features: torch.Tensor | ImageEmbedding) -> int:
    if isinstance(features, torch.Tensor):
        return features.nbytes
    return features.features.nbytes + sum(level.nbytes for level in features.high_resolution)
