"""From the hidden state behind a [SEG] to a mask: an MLP and SAM2's mask decoder (LISA).

As LISA's code has it: the MLP has one hidden layer of the language model's width and ReLU, its
output is the mask decoder's only prompt (one token, no point, no box), and the decoder is asked
for its single mask. LISA's decoder is SAM's; ours is SAM2's, with the two finer feature levels.
The image encoder, which makes those, is frozen together with the two convolutions that prepare
them (`conv_s0`, `conv_s1`, which lie in the decoder's module).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foodseg.common.files import file_hash
from foodseg.models.segmenter import MASK_HEAD, ImageEmbedding, Segmenter, cut_masks

FROZEN = ("conv_s0.", "conv_s1.")
# Masks in one decoder call: a completion may hold as many [SEG] as it has tokens.
MASKS_AT_ONCE = 16


class MaskHead(nn.Module):
    """The MLP, new, and the mask decoder of `segmenter`, which this object owns and trains."""

    def __init__(self, segmenter: Segmenter, width: int, seed: int):
        """width: D, of the language model's hidden states. seed: of the MLP's first weights."""
        super().__init__()
        self.segmenter = segmenter
        self.weights_hash: str | None = None  # of a loaded file
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            mlp = nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, segmenter.config.neck_dim)
            )
        self.mlp = mlp.to(segmenter.device)
        self.decoder = segmenter.model.sam_mask_decoder
        for name, parameter in self.decoder.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))

    def trained(self) -> list[nn.Parameter]:
        """The tensors that may learn, in the module's own order.

        What predicts the masks' quality, and SAM2's three other masks, gets no gradient: one mask
        is asked for, and there is nothing to choose.
        """
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, embedding: ImageEmbedding, states: Tensor) -> Tensor:
        """Mask logits (N, height, width) in pixels of the original image, from states (N, D)."""
        width, height = embedding.size
        logits = self._decode(embedding, states)
        return F.interpolate(logits[:, None], (height, width), mode="bilinear")[:, 0]

    def _decode(self, embedding: ImageEmbedding, states: Tensor) -> Tensor:
        model = self.segmenter.model
        prompts = self.mlp(states.float())[:, None]
        _, dense = model.sam_prompt_encoder(points=None, boxes=None, masks=None)
        return self.decoder(
            image_embeddings=embedding.features,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=True,
            high_res_features=list(embedding.high_resolution),
        )[0][:, 0]

    @torch.no_grad()
    def predict(self, embedding: ImageEmbedding, states: Tensor) -> np.ndarray:
        """Masks, bool (N, height, width), cut at logit 0; N may be 0."""
        width, height = embedding.size
        if not len(states):
            return np.zeros((0, height, width), dtype=bool)
        parts = (self._decode(embedding, part) for part in states.split(MASKS_AT_ONCE))
        return np.stack([mask for part in parts for mask in cut_masks(part, embedding.size)])

    def save(self, folder: Path) -> None:
        """Write MLP and decoder into the folder."""
        weights = {name: x.contiguous() for name, x in self.state_dict().items()}
        save_file(weights, folder / MASK_HEAD)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; raises RuntimeError if a weight is missing or unknown."""
        self.load_state_dict(load_file(folder / MASK_HEAD))
        self.weights_hash = file_hash(folder / MASK_HEAD)
