"""The segmenter: embed an image once, answer many references at once.

The image path is SAM2's official one (`sam2.sam2_image_predictor.SAM2ImagePredictor`), except that
no feature size is fixed to 1024-pixel images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, write_atomically
from foodseg.data.references import Reference, Size
from foodseg.models.sam2 import (
    PROMPT_LABELS,
    build_sam2,
    decode_prompts,
    encode_pixels,
    find_checkpoint,
    load_weights,
    read_weights,
)
from foodseg.models.sam2_checkpoints import SegmenterConfig

# In a run's adapter/, where its recipe trains one: GRTO's mask decoder, and the mask head of a
# baseline that writes [SEG] (foodseg.supervised).
DECODER = "decoder.safetensors"
MASK_HEAD = "mask_head.safetensors"

# In one decoder call without gradients; at SAM2's own size each takes some 40 MB meanwhile.
PROMPTS_AT_ONCE = 32
# Of logits at the photo's size: 256 MB. Those of 17 objects on 40 million pixels would be 2.7 GB.
PIXELS_AT_ONCE = 64_000_000

# ImageNet statistics on [0, 1] values, as in `sam2.utils.transforms.SAM2Transforms`.
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@dataclass(frozen=True)
class ImageEmbedding:
    """What the image encoder says of one image.

    `features` is (1, C, s/16, s/16) for a model image of side s; `high_resolution` holds
    (1, C/8, s/4, s/4) and (1, C/4, s/8, s/8); `size` is (width, height) of the original image.
    """

    features: Tensor
    high_resolution: tuple[Tensor, Tensor]
    size: Size


class Segmenter:
    """SAM2 as the kit uses it: image -> embedding -> one mask for each reference.

    `model` is the `SAM2Base`; it is in evaluation mode and needs no gradient. `decoder_hash` is
    that of the file whose mask decoder has replaced the model's own (`foodseg.methods.grto`).
    """

    def __init__(self, config: SegmenterConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self.model = build_sam2(config).to(self.device).eval().requires_grad_(False)
        self.decoder_hash: str | None = None

    @classmethod
    def load(
        cls, path: Path | str, config: SegmenterConfig, device: torch.device | str = "cpu"
    ) -> Segmenter:
        """Build the model of `config` with its weights; DataError if any is missing.

        path: a checkpoint's file, or a hub id of `OFFICIAL`.
        """
        path = find_checkpoint(path)
        segmenter = cls(config, device)
        load_weights(segmenter.model, read_weights(path), str(path))
        return segmenter

    @torch.no_grad()
    def embed_image(self, image: np.ndarray | Image.Image) -> ImageEmbedding:
        """Embed one RGB image, uint8 (H, W, 3) or PIL, of any size."""
        pixels = to_model_pixels(image, self.config.image_size)[None]
        features, levels = encode_pixels(self.model, normalise(pixels.to(self.device)))
        return ImageEmbedding(features, tuple(levels), np.asarray(image).shape[1::-1])

    @torch.no_grad()
    def predict(self, embedding: ImageEmbedding, references: Sequence[Reference]) -> np.ndarray:
        """Masks of all references, `PROMPTS_AT_ONCE` in a decoder call.

        References are in pixels of the original image (inclusive boxes). Of SAM2's three masks
        the one with the highest predicted IoU is kept, upsampled bilinearly to the original size
        and cut at logit 0. Returns bool (N, H, W).
        """
        width, height = embedding.size
        masks = np.zeros((len(references), height, width), dtype=bool)
        # The prompts of one call have as many points each: padding would be one more token to SAM2.
        for count in sorted({len(reference.more) for reference in references}):
            places = [i for i, reference in enumerate(references) if len(reference.more) == count]
            for first in range(0, len(places), PROMPTS_AT_ONCE):
                part = places[first : first + PROMPTS_AT_ONCE]
                logits = self._decode(embedding, [references[i] for i in part])
                for place, mask in zip(part, cut_masks(logits, embedding.size), strict=True):
                    masks[place] = mask
        return masks

    def _decode(self, embedding: ImageEmbedding, references: Sequence[Reference]) -> Tensor:
        corners = scale_prompts(references, embedding.size, self.config.image_size)
        logits, ious, _ = decode_prompts(
            self.model,
            embedding.features,
            embedding.high_resolution,
            corners.to(self.device),
            prompt_labels(references).to(self.device),
        )
        return logits[torch.arange(len(logits)), ious.argmax(dim=1)]


def cut_masks(logits: Tensor, size: Size) -> Iterator[np.ndarray]:
    """Logits (N, h, w) -> N masks, bool (H, W): brought to `size`, bilinearly, and cut at 0."""
    width, height = size
    for part in logits.split(max(PIXELS_AT_ONCE // (width * height), 1)):
        full = F.interpolate(part[:, None].float(), (height, width), mode="bilinear")[:, 0]
        yield from (full > 0).cpu().numpy()


def save_decoder(segmenter: Segmenter, path: Path | str) -> None:
    """Write the mask decoder's weights, and nothing else of SAM2, as safetensors, atomically."""
    weights = segmenter.model.sam_mask_decoder.state_dict()
    write_atomically(Path(path), save({n: w.cpu().contiguous() for n, w in weights.items()}))


def load_decoder(segmenter: Segmenter, path: Path | str) -> None:
    """Put a trained mask decoder in place of the segmenter's own; sets its `decoder_hash`.

    Raises DataError if the file is missing or is not a decoder of this configuration.
    """
    load_weights(segmenter.model.sam_mask_decoder, read_weights(path), str(path))
    segmenter.decoder_hash = file_hash(Path(path))


def to_model_pixels(image: np.ndarray | Image.Image, side: int) -> Tensor:
    """Resize an RGB image to (3, side, side) without keeping its aspect; values in 0..1."""
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise DataError(
            f"the segmenter's image has shape {array.shape} and type {array.dtype}; "
            "give it as RGB, uint8 (height, width, 3)"
        )
    pixels = torch.from_numpy(np.array(array)).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)[0]


def normalise(pixels: Tensor) -> Tensor:
    """Bring (..., 3, H, W) values in 0..1 to ImageNet's mean 0 and standard deviation 1."""
    return (pixels - _MEAN.to(pixels)) / _STD.to(pixels)


def scale_prompts(references: Sequence[Reference], size: Size, side: int) -> Tensor:
    """References in pixels of an image of `size` -> (N, P, 2) in pixels of the model image.

    P: two corners of the box, then as many points as each of them has.
    """
    corners = [
        [one.box[:2], one.box[2:], one.point, *(more[:2] for more in one.more)]
        for one in references
    ]
    return torch.tensor(corners, dtype=torch.float32) * (
        side / torch.tensor(size, dtype=torch.float32)
    )


def prompt_labels(references: Sequence[Reference]) -> Tensor:
    """(N, P) int32, SAM2's label of each of `scale_prompts`' places."""
    labels = [[*PROMPT_LABELS, *(label for *_, label in one.more)] for one in references]
    return torch.tensor(labels, dtype=torch.int32)
