"""G completions of each prompt, sampled from one shared prefix.

Each prompt is encoded and prefilled once; its G rows decode together and share its keys and
values. All randomness is one uniform number for each row and position, drawn up front, so no
row's random numbers depend on when others end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from foodseg.models.fast.decoding import SlicedCache, StaticCache, capture
from foodseg.models.fast.layers import lean_layers
from foodseg.models.mllm import Mllm, Prompt

TEMPERATURE = 1.0  # of sampling for training
# On CUDA the host looks this often, in steps, whether every row has ended: looking waits.
LOOK_EVERY = 8
# Tokens in a block of the cumulative distribution; it divides Qwen2.5's vocabulary, 151,936.
BLOCK = 128


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
    first_prompt: int = 0,
    repetition_penalty: float = 1.0,
) -> list[Rollout]:
    """Sample `group_size` completions of each prompt; temperature 0 decodes greedily.

    The same seed, prompts, weights and number of threads give the same completions on a CPU.
    first_prompt: index of the first of these in its round, so that random numbers don't depend on
    which process samples a prompt. repetition_penalty: of greedy decoding, as in `transformers`.
    """
    generator = torch.Generator().manual_seed(seed)
    # As if the round's earlier prompts were sampled here too.
    rows, skipped = (first_prompt + len(prompts)) * group_size, first_prompt * group_size
    uniforms = torch.rand(rows, max_new_tokens, generator=generator, dtype=torch.float64)[skipped:]
    cuda = mllm.device.type == "cuda"
    kind, decode = (StaticCache, decode_captured) if cuda else (SlicedCache, decode_shrinking)
    with lean_layers(mllm.language_model):
        uniforms = uniforms.to(mllm.device)
        decoder = start(mllm, prompts, uniforms, temperature, kind, repetition_penalty)
        decode(decoder)
    return _collect(mllm, prompts, group_size, decoder)


def start(
    mllm: Mllm,
    prompts: Sequence[Prompt],
    uniforms: Tensor,
    temperature: float,
    kind: type[SlicedCache] | type[StaticCache],
    repetition_penalty: float = 1.0,
) -> Decoder:
    """Prefill the prompts and choose each row's first token.

    uniforms: (R, max_new_tokens), where R is a multiple of the number of prompts. kind: of cache.
    """
    prefix, hidden = _prefill(mllm, prompts)
    group_size = len(uniforms) // len(prompts)
    cache = kind(prefix, [p.length for p in prompts], group_size, uniforms.shape[1])
    starts = torch.tensor([p.next_position for p in prompts], device=mllm.device)
    hidden, starts = (x.repeat_interleave(group_size, 0) for x in (hidden, starts))
    seen = None
    if repetition_penalty != 1.0:
        seen = _seen(mllm, prompts).repeat_interleave(group_size, 0), repetition_penalty
    return Decoder(mllm, cache, hidden, starts, uniforms, temperature, seen)


def _seen(mllm: Mllm, prompts: Sequence[Prompt]) -> Tensor:
    """(B, vocabulary) bool: the tokens that each prompt holds."""
    vocabulary = len(mllm.model.lm_head.weight)
    seen = torch.zeros(len(prompts), vocabulary, dtype=torch.bool, device=mllm.device)
    for row, prompt in zip(seen, prompts, strict=True):
        row[prompt.input_ids] = True
    return seen


def _prefill(mllm: Mllm, prompts: Sequence[Prompt]) -> tuple[DynamicCache, Tensor]:
    """A causal forward over the prompts: their cache and last hidden states (B, D)."""
    # Padding on the right: under a causal mask no real token sees it.
    embeddings = torch.nn.utils.rnn.pad_sequence([p.embeddings for p in prompts], True)
    positions = torch.nn.utils.rnn.pad_sequence([p.position_ids.T for p in prompts], True)
    cache = DynamicCache(config=mllm.language_model.config)
    hidden = mllm.hidden_states(embeddings, None, positions.permute(2, 0, 1), cache)
    last = torch.tensor([p.length - 1 for p in prompts], device=mllm.device)
    return cache, hidden[torch.arange(len(prompts), device=mllm.device), last]


class Decoder:
    """Rows that decode together; `step` writes their next token and never waits for the device.

    tokens, log_probs: (all rows, max_new_tokens), float32 log-probs; after a row's end token come
    more end tokens. ended: (R,) bool, of the rows still in the batch.
    """

    def __init__(
        self,
        mllm: Mllm,
        cache,
        hidden,
        starts,
        uniforms: Tensor,
        temperature: float,
        seen: tuple[Tensor, float] | None = None,
    ):
        """hidden (R, D) and starts (R,): each row's last prompt state and first position.

        seen: (R, vocabulary) bool, the tokens of each row's prompt, and the penalty of repeating.
        """
        self.mllm, self.cache, self.temperature = mllm, cache, temperature
        self.seen, self.penalty = seen or (None, 1.0)
        self.uniforms, self.starts = uniforms, starts
        self.tokens = torch.full(
            uniforms.shape, mllm.eos_token_id, dtype=torch.long, device=uniforms.device
        )
        self.log_probs = torch.zeros(uniforms.shape, device=uniforms.device)
        self.rows = torch.arange(len(uniforms), device=uniforms.device)
        self.token = torch.empty_like(starts)
        self.ended = torch.zeros_like(starts, dtype=torch.bool)
        self._choose(hidden)

    def step(self) -> None:
        """Feed every row its last token and choose its next; on CUDA, every write is in place."""
        hidden = self.mllm.hidden_states(
            self.mllm.embed_tokens(self.token)[:, None],
            None,
            (self.starts + self.cache.step).expand(3, -1)[..., None],
            decoding=self.cache,
        )
        self.cache.advance(self.ended)
        self._choose(hidden[:, 0])

    def _choose(self, hidden: Tensor) -> None:
        # Greedy decoding notes down the log-probs at temperature 1.
        distribution = self.mllm.log_probabilities(hidden, self.temperature or 1.0)
        if self.temperature:
            # In float64: sums over a whole vocabulary must not round a token's slice away.
            token = pick(distribution.exp().double(), self.uniforms[self.rows, self.cache.step])
        elif self.seen is None:
            token = distribution.argmax(-1)
        else:
            token = self._penalised(hidden).argmax(-1)
            self.seen.scatter_(1, token[:, None], True)
        log_prob = distribution.gather(1, token[:, None])[:, 0]
        token = token.masked_fill(self.ended, self.mllm.eos_token_id)
        self.tokens[self.rows, self.cache.step] = token
        self.log_probs[self.rows, self.cache.step] = log_prob.float()
        self.ended.logical_or_(torch.isin(token, self.mllm.end_token_ids))
        self.token.copy_(token)

    def _penalised(self, hidden: Tensor) -> Tensor:
        """Logits in which a token that was seen is worse (Keskar et al. 2019, arXiv:1909.05858)."""
        logits = self.mllm.logits(hidden)
        worse = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return torch.where(self.seen, worse, logits)

    def drop_ended(self) -> None:
        """Take the rows that have ended out of the batch; the last ones fill their places."""
        live = (~self.ended).nonzero()[:, 0]
        # A row that stays in its place needs no copy of its keys and values.
        keep = torch.arange(len(live))
        keep[self.ended[: len(live)]] = live[live >= len(live)]
        self.cache.keep(keep)
        self.rows, self.starts, self.token, self.ended = (
            x[keep] for x in (self.rows, self.starts, self.token, self.ended)
        )
        self.seen = None if self.seen is None else self.seen[keep]


def decode_shrinking(decoder: Decoder) -> None:
    """Decode on a CPU: a step costs what its rows cost, so those that have ended leave at once."""
    for _ in range(1, decoder.tokens.shape[1]):
        if decoder.ended.all():
            break
        if decoder.ended.any():
            decoder.drop_ended()
        decoder.step()


def decode_captured(decoder: Decoder) -> None:
    """Decode on CUDA: a step costs its kernels and weights, whatever the rows, so all rows stay.

    The first step runs uncaptured, which loads what its kernels need; the others replay a graph.
    """
    step = decoder.step
    for done in range(1, decoder.tokens.shape[1]):
        if done % LOOK_EVERY == 0 and decoder.ended.all():
            break
        if done == 2:
            step = capture(decoder.step)
        step()


def pick(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Token (R,) in whose slice of the cumulative distribution u falls: inverse transform sampling.

    probabilities (R, vocabulary) float64, which need not sum to 1; uniforms (R,) float64 in [0, 1).
    """
    # Two levels, blocks and tokens: a scan along a whole vocabulary is slow on a GPU.
    if padding := -probabilities.shape[1] % BLOCK:
        probabilities = torch.nn.functional.pad(probabilities, (0, padding))
    blocks = probabilities.unflatten(1, (-1, BLOCK))
    sums = blocks.sum(-1)
    block, rest = _find(sums, uniforms * sums.sum(-1))
    tokens = blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK))[:, 0]
    return block * BLOCK + _find(tokens, rest)[0]


def _find(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The slice of the cumulative sum in which target (R,) falls, and how far it reaches into it.

    A slice of weight 0 is never found, however the sums are rounded.
    """
    cumulative = weights.cumsum(-1)
    end = cumulative[:, -1]
    # A target that was rounded up to the end would lie in no slice.
    target = target.minimum(torch.nextafter(end, torch.zeros_like(end)))
    index = (cumulative <= target[:, None]).sum(-1)
    start = (cumulative - weights).gather(1, index[:, None])[:, 0]
    return index, (target - start).clamp(min=0)


def _collect(mllm, prompts, group_size: int, decoder: Decoder) -> list[Rollout]:
    at_end = torch.isin(decoder.tokens, mllm.end_token_ids).cpu()
    ended = at_end.any(1)
    lengths = torch.where(ended, at_end.int().argmax(1) + 1, at_end.shape[1]).tolist()
    tokens, log_probs = (
        [row[:n] for row, n in zip(rows, lengths, strict=True)]
        for rows in (decoder.tokens, decoder.log_probs)
    )
    texts = mllm.tokenizer.batch_decode([row.tolist() for row in tokens], skip_special_tokens=True)
    columns = (tokens, log_probs, texts, ended.tolist())
    return [
        Rollout(prompt, *(tuple(column[first : first + group_size]) for column in columns))
        for first, prompt in zip(range(0, len(texts), group_size), prompts, strict=True)
    ]
