"""What reinforcement sees: one question, G completions at temperature 1, and what each is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.demo.ask import Judgement, judge_evidence
from foodseg.demo.systems import Systems
from foodseg.methods.sd_grpo import segmented, token_bytes
from foodseg.models.rollouts import TEMPERATURE
from foodseg.recipes import DAPO, GRPO
from foodseg.report.completions import why_unparsed
from foodseg.rl.dynamic_sampling import has_signal
from foodseg.rl.evidence import to_original
from foodseg.rl.groups import Group, score_group
from foodseg.segment.answer import System
from foodseg.segment.plates import Plate
from foodseg.system import one_thread, roll_out

GROUP_SIZE = 8
BLEND = 0.5  # SD-GRPO's: half of each token's advantage is its segment's own


@dataclass(frozen=True, eq=False)
class Completion:
    """One of the G.

    fault: why it does not parse, "" if it does. advantage: GRPO's, which is DAPO's too as long as
    the group is kept. tokens: each token's text, with SD-GRPO's advantage. references, mask (bool,
    (H, W)): in pixels of the photo; empty where nothing parses.
    """

    text: str
    fault: str
    judgement: Judgement
    advantage: float
    tokens: tuple[tuple[str, float], ...]
    references: tuple[Reference, ...]
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class SeenGroup:
    """A question's G completions. kept: whether dynamic sampling (DAPO) learns from them."""

    sample: Sample
    image: Image.Image
    completions: tuple[Completion, ...]
    kept: bool

    @property
    def rewards(self) -> list[float]:
        return [completion.judgement.total for completion in self.completions]


def sample_group(systems: Systems, name: str, plate: Plate, sample: Sample, seed: int) -> SeenGroup:
    """Let a system answer one of the plate's own questions G times, and judge it as training does.

    The same seed gives the same completions. Raises DataError as `Systems.use`.
    """
    photo, preset = plate.photo(), systems.preset
    with systems.use(name) as system, one_thread(preset.device):
        photos = {sample.image: system.mllm.resize(photo.image)}
        asked = system.mllm, preset, [sample], GROUP_SIZE, TEMPERATURE, seed, photos
        (rollout,) = roll_out(*asked)
        embedding = system.segmenter.embed_image(photo.image)
        group = score_group(
            sample,
            rollout,
            preset.image_side,
            GRPO.reward,
            lambda _, references: system.segmenter.predict(embedding, references),
            preset.thresholds,
            nothing=sample.no_target,
        )
        return _seen(group, photo.image, system)


def _seen(group: Group, image: Image.Image, system: System) -> SeenGroup:
    tokenizer = system.mllm.tokenizer
    (whole,) = GRPO.advantages([group], tokenizer)
    (by_token,) = segmented([group], tokenizer, weight=BLEND)
    completions = []
    for index, evidence in enumerate(group.evidence):
        mask = evidence.masks().any(axis=0)
        pieces = token_bytes(group.rollout.tokens[index].tolist(), tokenizer)
        completions.append(
            Completion(
                text=evidence.answer.completion,
                fault="" if evidence.answer.parsed else why_unparsed(evidence.answer.completion),
                judgement=judge_evidence(evidence, mask),
                advantage=float(whole[index]),
                tokens=token_texts(pieces, by_token[index]),
                references=to_original(evidence.answer, group.sample, evidence.side),
                mask=mask,
            )
        )
    return SeenGroup(group.sample, image, tuple(completions), has_signal(group.rewards))


def token_texts(
    pieces: Sequence[bytes], advantages: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """The tokens' texts with their advantages; tokens that share a character are one text."""
    texts, waiting = [], b""
    for piece, advantage in zip(pieces, advantages, strict=True):
        waiting += piece
        try:
            text, waiting = waiting.decode(), b""
        except UnicodeDecodeError:  # the character goes on in the next token
            continue
        texts.append((text, float(advantage)))
    if waiting:
        texts.append((waiting.decode(errors="replace"), float(advantages[-1])))
    return tuple(pair for pair in texts if pair[0])


def verdict(group: SeenGroup) -> str:
    """What GRPO and DAPO would do with the group, in a sentence or two."""
    rewards = group.rewards
    if group.kept:
        right = sum(reward > np.mean(rewards) for reward in rewards)
        return (
            f"Rewards from {min(rewards):.2f} to {max(rewards):.2f}: {right} of {len(rewards)} "
            f"completions are above the mean and become more probable. {GRPO.title} and "
            f"{DAPO.title} both learn from this group."
        )
    return (
        f"All {len(rewards)} rewards are {rewards[0]:.2f}, so every advantage is 0. {DAPO.title}'s "
        f"dynamic sampling drops the group and asks another question; {GRPO.title} keeps it and "
        "learns nothing from it but its KL term."
    )
