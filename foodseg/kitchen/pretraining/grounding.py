"""How stages 2 and 3 of the curriculum read a batch, and their losses.

Besides next-token prediction, linear heads regress a food's box and point from the language
model's middle layers at the food's name and at the brackets that open its coordinates: without
them a model of this size learns the answers' words and no places. The heads are dropped at the end.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from foodseg.kitchen.pretraining.lessons import Batch
from foodseg.kitchen.pretraining.mllm import GRID
from foodseg.kitchen.pretraining.vision import WIDTH

# Hidden states after so many of the four layers; the later layers turn them into digits.
HEAD_LAYERS = {"name": 2, "box": 3, "point": 3, "value": 3}
HEAD_SIZES = {"name": 6, "box": 6, "point": 6, "value": 1}


class GroundingHeads(nn.Module):
    """A reference's box and point, or one of its numbers, read off the states at its anchors."""

    def __init__(self) -> None:
        super().__init__()
        heads = {kind: nn.Linear(WIDTH, size) for kind, size in HEAD_SIZES.items()}
        self.heads = nn.ModuleDict(heads)

    def losses(self, hidden_states: tuple[torch.Tensor, ...], batch: Batch) -> dict:
        """Mean absolute errors by kind of anchor, in units of the image's side."""
        losses = {}
        for kind, (rows, places) in batch.anchors.items():
            hidden = hidden_states[HEAD_LAYERS[kind]][rows, places].float()
            hidden = F.rms_norm(hidden, (WIDTH,))
            losses[kind] = F.l1_loss(self.heads[kind](hidden), batch.references[kind])
        return losses


def prefix_positions(
    model: Qwen2_5_VLForConditionalGeneration, prefix: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """M-RoPE positions (3, P) of a prompt up to its image's end, and the next token's position."""
    grid = torch.tensor([[1, GRID, GRID]], device=prefix.device)
    types = (prefix == model.config.image_token_id).int()[None]
    positions, _ = model.model.get_rope_index(prefix[None], types, image_grid_thw=grid)
    return positions[:, 0], int(positions.max()) + 1


def read_batch(
    model: Qwen2_5_VLForConditionalGeneration, seen: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, ...]:
    """Hidden states (E, L, 256) of the exercises, after the embedding and after each layer.

    seen: visual tokens (B, 36, 256). Each plate's prefix is read once and its keys and values are
    repeated for its exercises; right padding needs no mask because nothing looks ahead.
    """
    decoder, embed = model.model.language_model, model.get_input_embeddings()
    plates, copies = len(seen), len(batch.tokens) // len(seen)
    prompt = embed(batch.prefix).to(seen.dtype).repeat(plates, 1, 1)
    prompt[:, batch.prefix == model.config.image_token_id] = seen
    positions, start = prefix_positions(model, batch.prefix)
    cache = DynamicCache(config=model.config.text_config)
    decoder(
        inputs_embeds=prompt,
        position_ids=positions[:, None].expand(-1, plates, -1),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(copies)
    line = torch.arange(start, start + batch.tokens.shape[1], device=seen.device)
    return decoder(
        inputs_embeds=embed(batch.tokens),
        position_ids=line.expand(3, len(batch.tokens), -1),
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=True,
    ).hidden_states


def answer_losses(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: GroundingHeads,
    seen: torch.Tensor,
    batch: Batch,
) -> dict[str, torch.Tensor]:
    """Losses by name: "words" (next tokens, weighted), "name", "box", "point", "value" (heads)."""
    hidden_states = read_batch(model, seen, batch)
    counted = batch.weights[:, 1:] > 0
    logits = model.lm_head(hidden_states[-1][:, :-1][counted]).float()
    losses = F.cross_entropy(logits, batch.tokens[:, 1:][counted], reduction="none")
    weights = batch.weights[:, 1:][counted]
    words = (losses * weights).sum() / weights.sum()
    return {"words": words, **heads.losses(hidden_states, batch)}
