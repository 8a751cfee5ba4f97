"""What a model takes in memory, counted: weights, adapter, cache, and what the backward needs.

What autograd keeps is not guessed: `ModelSizes.kept_bytes` is a formula in the model's sizes that
the tests hold against the tensors autograd really saves, for the true Qwen2.5-VL-3B and for the
kitchen's model (on fake devices, so without the memory).
"""

from __future__ import annotations

from dataclasses import dataclass

from foodseg.models.fast.attention import padded_length
from foodseg.models.fast.head import CHUNK_BYTES
from foodseg.models.mllm import Mllm


@dataclass(frozen=True)
class ModelSizes:
    """What decides a model's memory: its sizes, and the bytes of one number.

    hidden .. vocabulary: as in the configuration; rank: LoRA's; weight_bytes: of all frozen
    weights; adapter_bytes: of the adapter's; itemsize: bytes of a weight and of an activation.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    vocabulary: int
    rank: int
    weight_bytes: int
    adapter_bytes: int
    itemsize: int

    @classmethod
    def of(cls, mllm: Mllm) -> ModelSizes:
        """Those of a model with its adapter (which may be on the meta device)."""
        config = mllm.model.config.text_config
        adapter = mllm.lora_parameters()
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            vocabulary=config.vocab_size,
            rank=min(adapter[0].shape),
            weight_bytes=sum(p.nbytes for p in mllm.model.parameters() if not p.requires_grad),
            adapter_bytes=sum(p.nbytes for p in adapter),
            itemsize=mllm.model.lm_head.weight.itemsize,
        )

    @property
    def held_bytes(self) -> int:
        """Held throughout: the weights, and the adapter with its gradients and AdamW's moments."""
        return self.weight_bytes + 4 * self.adapter_bytes

    @property
    def key_width(self) -> int:
        return self.key_heads * self.hidden // self.heads

    def cache_bytes(self, tokens: int) -> int:
        """The key-value cache of so many tokens."""
        return 2 * self.layers * self.key_width * self.itemsize * tokens

    def kept_bytes(self) -> int:
        """What one decoder layer keeps of one token for the backward, within `training_layers`."""
        # Two norms keep their input, and its inverse root mean square in float32.
        norms = 2 * (self.hidden * self.itemsize + 4)
        # Query, key, value, output; log-sum-exp of every head in float32.
        attention = (2 * self.hidden + 2 * self.key_width) * self.itemsize + 4 * self.heads
        mlp = 2 * self.intermediate * self.itemsize  # the gate and what it multiplies
        # One input serves q, k, v and one gate, up; all seven have LoRA's inner numbers.
        adapter = (2 * self.hidden + 7 * self.rank) * self.itemsize
        return norms + attention + mlp + adapter

    def forward_bytes(self, tokens: int, scored: int, checkpointed: int) -> int:
        """The most that a forward and backward over a row takes on top of what is held.

        tokens: of the row's groups; scored: those of its completions; checkpointed: decoder layers
        that keep only their input.
        """
        tokens = padded_length(tokens)
        kept = (self.layers - checkpointed) * self.kept_bytes()
        kept += checkpointed * self.hidden * self.itemsize
        ends = 2 * self.hidden * self.itemsize + 4 * self.hidden  # embeddings, output, last norm
        # At its widest a layer's backward holds three tensors of the MLP and two others.
        backward = (3 * self.intermediate + 2 * self.hidden) * self.itemsize
        if checkpointed == self.layers:  # else the layers kept are gone before one is recomputed
            backward += self.kept_bytes()
        logits = self._logits_bytes(scored)
        scores = 2 * scored * self.hidden * self.itemsize
        return tokens * (kept + ends) + scores + max(tokens * backward, logits)

    def _logits_bytes(self, scored: int) -> int:
        """The head's: three copies of a chunk of logits."""
        return 3 * min(CHUNK_BYTES, 4 * scored * self.vocabulary)
