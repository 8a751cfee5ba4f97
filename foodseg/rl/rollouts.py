"""G completions of each prompt, sampled from one shared prefix.

Each prompt is encoded and prefilled once; its key-value cache is then expanded to G rows, which
decode together. Rows that have ended leave the batch. All randomness is one uniform number for
each row and position, drawn up front, so no row's random numbers depend on when others end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from foodseg.models.mllm import Mllm, Prompt

# Compacting the cache copies it: worth it only once this share of the rows has ended.
COMPACT_BELOW = 0.75


@dataclass(frozen=True, eq=False)
class Rollout:
    """The G completions of one prompt.

    tokens: G tensors (L_i,) int64, L_i >= 1, with the end token where it was reached.
    log_probs: G tensors (L_i,), of each sampled token under the sampling distribution.
    texts: the completions decoded, special tokens removed.
    ended: whether each completion reached its end token within the length limit.
    """

    prompt: Prompt
    tokens: tuple[torch.Tensor, ...]
    log_probs: tuple[torch.Tensor, ...]
    texts: tuple[str, ...]
    ended: tuple[bool, ...]


@torch.no_grad()
def sample_rollouts(
    mllm: Mllm,
    prompts: Sequence[Prompt],
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[Rollout]:
    """Sample `group_size` completions of each prompt; temperature 0 decodes greedily.

    The same seed, prompts, weights and number of threads give the same completions on a CPU.
    """
    rows = len(prompts) * group_size
    cache, hidden, keys = _prefill(mllm, prompts)
    cache.batch_repeat_interleave(group_size)
    hidden, keys = (x.repeat_interleave(group_size, 0) for x in (hidden, keys))
    starts = torch.tensor([p.next_position for p in prompts], device=mllm.device)
    positions = starts.repeat_interleave(group_size)
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(rows, max_new_tokens, generator=generator, dtype=torch.float64)
    tokens, log_probs = _decode(
        mllm, cache, hidden, keys, positions, uniforms.to(mllm.device), temperature
    )
    return _collect(mllm, prompts, group_size, tokens, log_probs)


def _prefill(mllm: Mllm, prompts: Sequence[Prompt]):
    """Left-padded forward over the prompts: cache, last hidden state (B, D), key mask (B, P)."""
    width = max(p.length for p in prompts)
    first = prompts[0].embeddings
    embeddings = first.new_zeros(len(prompts), width, first.shape[1])
    position_ids = torch.zeros(3, len(prompts), width, dtype=torch.long, device=mllm.device)
    keys = torch.zeros(len(prompts), width, dtype=torch.bool, device=mllm.device)
    for row, prompt in enumerate(prompts):
        embeddings[row, width - prompt.length :] = prompt.embeddings
        position_ids[:, row, width - prompt.length :] = prompt.position_ids
        keys[row, width - prompt.length :] = True
    causal = torch.ones(width, width, dtype=torch.bool, device=mllm.device).tril()
    # A padding row must look at something, or its softmax is 0/0.
    itself = torch.eye(width, dtype=torch.bool, device=mllm.device)
    mask = (causal & keys[:, None, :]) | itself
    cache = DynamicCache(config=mllm.language_model.config)
    hidden = mllm.hidden_states(embeddings, mask[:, None], position_ids, cache)
    return cache, hidden[:, -1], keys


def _decode(mllm, cache, hidden, keys, positions, uniforms, temperature):
    """Decode every row to its end: tokens (R, L) padded with -1, log-probs (R, L) padded with 0."""
    tokens = torch.full(uniforms.shape, -1, dtype=torch.long, device=uniforms.device)
    log_probs = torch.zeros(uniforms.shape, device=uniforms.device, dtype=torch.float32)
    rows = torch.arange(len(uniforms), device=uniforms.device)
    live = torch.ones_like(rows, dtype=torch.bool)
    for step in range(uniforms.shape[1]):
        distribution = mllm.log_probabilities(hidden, temperature or 1.0)
        token = _pick(distribution, uniforms[rows, step], greedy=temperature == 0)
        chosen = distribution.gather(1, token[:, None])[:, 0]
        tokens[rows[live], step] = token[live]
        log_probs[rows[live], step] = chosen[live].to(log_probs.dtype)
        live = live & (token != mllm.eos_token_id)
        if not live.any():
            break
        if live.float().mean() < COMPACT_BELOW:
            cache.batch_select_indices(live.nonzero()[:, 0])
            rows, keys, positions, token, live = (
                x[live] for x in (rows, keys, positions, token, live)
            )
        keys = torch.cat([keys, keys.new_ones(len(keys), 1)], 1)
        hidden = mllm.hidden_states(
            mllm.embed_tokens(token)[:, None],
            keys[:, None, None],
            (positions + step).expand(3, -1)[..., None],
            cache,
        )[:, -1]
    return tokens, log_probs


def _pick(distribution: torch.Tensor, uniforms: torch.Tensor, greedy: bool) -> torch.Tensor:
    """The most likely token, or the one whose slice of the cumulative distribution u falls in."""
    if greedy:
        return distribution.argmax(-1)
    cumulative = distribution.double().exp().cumsum(-1)
    # The sum may fall a rounding short of 1; scaling keeps u inside the last possible slice.
    target = uniforms[:, None] * cumulative[:, -1:]
    return (cumulative <= target).sum(-1)


def _collect(mllm, prompts, group_size, tokens, log_probs) -> list[Rollout]:
    lengths = (tokens != -1).sum(1).tolist()
    rows = [tokens[i, :n] for i, n in enumerate(lengths)]
    texts = mllm.tokenizer.batch_decode(rows, skip_special_tokens=True)
    ended = [bool(row[-1] == mllm.eos_token_id) for row in rows]
    scores = [log_probs[i, :n] for i, n in enumerate(lengths)]
    rollouts = []
    for index, prompt in enumerate(prompts):
        group = slice(index * group_size, (index + 1) * group_size)
        rollouts.append(
            Rollout(
                prompt,
                tuple(rows[group]),
                tuple(scores[group]),
                tuple(texts[group]),
                tuple(ended[group]),
            )
        )
    return rollouts
