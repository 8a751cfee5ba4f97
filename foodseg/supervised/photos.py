"""What the frozen encoders make of a photo, kept: a supervised run meets each photo several times.

Photos are embedded one at a time, so that the bits do not depend on which others were met before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from PIL import Image

from foodseg.data.photos import read_photo
from foodseg.models.mllm import Mllm
from foodseg.models.segmenter import ImageEmbedding, Segmenter
from foodseg.presets import Preset

# On a model's device. The kitchen's 400 photos take a quarter of it, one paper-sized photo 20 MB.
# Every photo comes once an epoch, so to drop the oldest would drop what is needed soonest: what
# does not fit any more is computed again each time.
KEPT_BYTES = 2**30

Features = TypeVar("Features", torch.Tensor, ImageEmbedding)


class PhotoFeatures:
    """Visual tokens of the MLLM and, with a segmenter, its image embeddings, by `Sample.image`."""

    def __init__(self, mllm: Mllm, preset: Preset, segmenter: Segmenter | None = None) -> None:
        self.mllm, self.preset, self.segmenter = mllm, preset, segmenter
        self.kept: dict[tuple[str, str], torch.Tensor | ImageEmbedding] = {}
        self.free = KEPT_BYTES

    def visual_tokens(self, image: str) -> torch.Tensor:
        """(V, D), in the MLLM's dtype, without a gradient."""
        return self._find(("tokens", image), lambda photo: self.mllm.embed_images([photo])[0])

    def embedding(self, image: str) -> ImageEmbedding:
        """The segmenter's, without a gradient."""
        return self._find(("embedding", image), self.segmenter.embed_image)

    def _find(self, key: tuple[str, str], embed: Callable[[Image.Image], Features]) -> Features:
        if key in self.kept:
            return self.kept[key]
        features = embed(read_photo(self.preset.dataset / key[1]).image)
        size = _bytes(features)
        if size <= self.free:
            self.kept[key], self.free = features, self.free - size
        return features


def _bytes(features: torch.Tensor | ImageEmbedding) -> int:
    if isinstance(features, torch.Tensor):
        return features.nbytes
    return features.features.nbytes + sum(level.nbytes for level in features.high_resolution)
