"""How all stages of the curriculum but the first read a batch, and their losses.

Besides next-token prediction, linear heads regress a food's box and point from the language
model's middle layers at the food's name and at the brackets that open its coordinates: without
them a model of this size learns the answers' words and no places. The heads are dropped at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, PretrainedConfig, Qwen2_5_VLForConditionalGeneration

from foodseg.kitchen.pretraining.lessons import Batch
from foodseg.kitchen.pretraining.mllm import GRID
from foodseg.kitchen.pretraining.vision import WIDTH

# Hidden states after so many of the four layers; the later layers turn them into digits.
HEAD_LAYERS = {"name": 2, "box": 3, "point": 3, "value": 3}
CHUNKS = 4  # of a batch, by length
HEAD_SIZES = {"name": 6, "box": 6, "point": 6, "value": 1}


class GroundingHeads(nn.Module):
    """A reference's box and point, or one of its numbers, read off the states at its anchors."""

    def __init__(self) -> None:
        super().__init__()
        heads = {kind: nn.Linear(WIDTH, size) for kind, size in HEAD_SIZES.items()}
        self.heads = nn.ModuleDict(heads)

    def errors(
        self, hidden_states: tuple[torch.Tensor, ...], batch: Batch, rows: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Sums of absolute errors by kind of anchor, in units of the image's side.

        hidden_states: of these rows of the batch alone.
        """
        sums, place_of = {}, torch.full((len(batch.tokens),), -1, device=rows.device)
        place_of[rows] = torch.arange(len(rows), device=rows.device)
        for kind, (owners, places) in batch.anchors.items():
            here = (place_of[owners] >= 0).nonzero()[:, 0]
            owners, places = place_of[owners[here]], places[here]
            hidden = hidden_states[HEAD_LAYERS[kind]][owners, places].float()
            read = self.heads[kind](F.rms_norm(hidden, (WIDTH,)))
            sums[kind] = F.l1_loss(read, batch.references[kind][here], reduction="sum")
        return sums


@dataclass(frozen=True)
class Prefix:
    """Keys and values of P plates' prompts up to the image's end, and the next position.

    layers: (keys, values) of each layer, (P, heads, length, 64) each.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    next_position: int

    def repeat(self, plates: torch.Tensor, config: PretrainedConfig) -> DynamicCache:
        """A cache of one row for each of these plates."""
        cache = DynamicCache(config=config)
        for layer, (keys, values) in enumerate(self.layers):
            cache.update(keys[plates], values[plates], layer)
        return cache


def prefix_positions(
    model: Qwen2_5_VLForConditionalGeneration, prefix: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """M-RoPE positions (3, P) of a prompt up to its image's end, and the next token's position."""
    grid = torch.tensor([[1, GRID, GRID]], device=prefix.device)
    types = (prefix == model.config.image_token_id).int()[None]
    positions, _ = model.model.get_rope_index(prefix[None], types, image_grid_thw=grid)
    return positions[:, 0], int(positions.max()) + 1


def read_prefix(
    model: Qwen2_5_VLForConditionalGeneration, seen: torch.Tensor, tokens: torch.Tensor
) -> Prefix:
    """Read each plate's prompt once; seen: visual tokens (P, 36, 256)."""
    decoder, embed = model.model.language_model, model.get_input_embeddings()
    prompt = embed(tokens).to(seen.dtype).repeat(len(seen), 1, 1)
    prompt[:, tokens == model.config.image_token_id] = seen
    positions, start = prefix_positions(model, tokens)
    cache = DynamicCache(config=model.config.text_config)
    decoder(
        inputs_embeds=prompt,
        position_ids=positions[:, None].expand(-1, len(seen), -1),
        past_key_values=cache,
        use_cache=True,
    )
    return Prefix([(layer.keys, layer.values) for layer in cache.layers], start)


def read_rows(
    model: Qwen2_5_VLForConditionalGeneration, prefix: Prefix, batch: Batch, rows: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Hidden states (R, L, 256) of some exercises, after the embedding and after each layer.

    L: the longest of them. Right padding needs no mask because nothing looks ahead.
    """
    tokens = batch.tokens[rows, : int(batch.lengths[rows].max())]
    copies = len(batch.tokens) // len(prefix.layers[0][0])
    first = prefix.next_position
    line = torch.arange(first, first + tokens.shape[1], device=tokens.device)
    return model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(tokens),
        position_ids=line.expand(3, len(tokens), -1),
        past_key_values=prefix.repeat(rows // copies, model.config.text_config),
        use_cache=True,
        output_hidden_states=True,
    ).hidden_states


def answer_losses(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: GroundingHeads,
    prefix: Prefix,
    batch: Batch,
    temperature: float = 1.0,
) -> dict[str, torch.Tensor]:
    """Losses by name: "words" (next tokens, weighted), "name", "box", "point", "value" (heads).

    temperature: at which the batch's facts are learnt: above 1, samples at 1 are surer of them.
    Exercises of like length are read together, so that little is read for padding.
    """
    sums: dict[str, torch.Tensor] = {}
    for rows in batch.lengths.argsort(stable=True).chunk(CHUNKS):
        hidden_states = read_rows(model, prefix, batch, rows)
        length = hidden_states[0].shape[1]
        weights = batch.weights[rows, 1:length]
        counted = weights > 0
        logits = model.lm_head(hidden_states[-1][:, :-1][counted]).float()
        facts = batch.facts[rows, 1:length][counted]
        logits = torch.where(facts[:, None], logits / temperature, logits)
        tokens = batch.tokens[rows, 1:length][counted]
        words = F.cross_entropy(logits, tokens, reduction="none") @ weights[counted]
        parts = {"words": words} | heads.errors(hidden_states, batch, rows)
        sums = {name: sums.get(name, 0.0) + part for name, part in parts.items()}
    counts = {kind: batch.references[kind].numel() for kind in batch.anchors}
    counts["words"] = batch.weights[:, 1:].sum()
    return {name: total / counts[name] for name, total in sums.items()}
