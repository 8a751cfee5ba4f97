"""From questions to scored groups: what one training step learns from.

The stream of questions and every random number derive from the seed and from two counters, so a
run can be continued from the counters (and, with Dr. Seg's ranks, the queue) alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from foodseg.common.processes import ALONE, Processes
from foodseg.data.photos import read_photo
from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.methods.dr_seg import RankQueue, metrics
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE, Rollout
from foodseg.models.segmenter import ImageEmbedding, Segmenter
from foodseg.presets import Preset
from foodseg.rl.dynamic_sampling import GroupCollector

if TYPE_CHECKING:  # recipes name what is built upon groups
    from foodseg.recipes import Recipe


from foodseg.rl.groups import Group, score_group
from foodseg.system import read_photos, roll_out


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step sampled: `groups` to learn from, out of `seen`, in so many `rounds`.

    Of several processes each has its own groups.
    """

    groups: list[Group]
    seen: list[Group]
    rounds: int
    seconds: dict[str, float]


@dataclass
class GroupSampler:
    """Draws batches of scored groups from the policy; `state_dict` is all its state.

    cursor: questions drawn so far; rounds: rounds of sampling so far; queue: of a `ranked` recipe.
    While a round is sampled and learnt from, one thread reads the photos of the next, whose
    questions are known. segmenter: SAM2, for terms that ask for masks; without one the preset's is
    loaded when first needed. processes: among which each round's questions are dealt out.
    """

    mllm: Mllm
    preset: Preset
    recipe: Recipe
    samples: Sequence[Sample]
    seed: int
    cursor: int = 0
    rounds: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    segmenter: Segmenter | None = None
    processes: Processes = ALONE
    queue: RankQueue | None = field(default=None, init=False)
    _reader: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "photos"), init=False, repr=False
    )
    _ahead: dict[int, Future] = field(default_factory=dict, init=False, repr=False)
    # A step's photos, for its rewards and for what learns from it afterwards.
    _embeddings: dict[str, ImageEmbedding] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.queue = RankQueue() if self.recipe.ranked else None

    def state_dict(self) -> dict:
        """What the next batch depends on, besides the policy."""
        queue = self.queue.state_dict() if self.queue else None
        return {"cursor": self.cursor, "rounds": self.rounds, "queue": queue}

    def load_state_dict(self, state: dict) -> None:
        self.cursor, self.rounds = state["cursor"], state["rounds"]
        if self.queue:
            self.queue.load_state_dict(state["queue"])

    def next_batch(self) -> Batch:
        """Sample one step's groups; with dynamic sampling, until enough of them can teach.

        Raises NoSignalError when `recipe.max_rounds` rounds did not bring enough.
        """
        self.seconds = {"rollout": 0.0, "scoring": 0.0}
        batch = self._refilled_batch() if self.recipe.dynamic_sampling else self._plain_batch()
        if self.queue:
            self.queue.flush()
        return batch

    def _plain_batch(self) -> Batch:
        groups = self._round()
        return Batch(groups, groups, 1, self.seconds)

    def _refilled_batch(self) -> Batch:
        collector = GroupCollector(self.preset.prompts_per_step, self.recipe.max_rounds)
        seen: list[Group] = []
        while not collector.full:
            groups = self._round()
            seen += groups
            rewards = self.processes.gather([group.rewards for group in groups])
            # All processes' groups in order; of those that others hold, only the rewards count.
            everyone: list[Group | None] = [None] * len(rewards)
            everyone[self._mine.start : self._mine.stop] = groups
            collector.add(everyone, rewards)
        mine = [group for group in collector.take() if group]
        return Batch(mine, seen, collector.rounds, self.seconds)

    def _round(self) -> list[Group]:
        start = time.perf_counter()
        samples = self._samples(self.cursor)
        waiting = len(self.queue.waiting) if self.queue else 0
        rollouts = roll_out(
            self.mllm,
            self.preset,
            samples,
            self.preset.group_size,
            TEMPERATURE,
            self._round_seed(),
            self._photos(),
            self._mine.start,
        )
        self.cursor += self.preset.prompts_per_step
        self.rounds += 1
        sampled = time.perf_counter()
        groups = [self._score(s, r) for s, r in zip(samples, rollouts, strict=True)]
        if self.queue:
            shared = self.processes.gather([self.queue.waiting[waiting:]])
            self.queue.waiting = np.concatenate([self.queue.waiting[:waiting], *shared])
        self.seconds["rollout"] += sampled - start
        self.seconds["scoring"] += time.perf_counter() - sampled
        return groups

    def _score(self, sample: Sample, rollout: Rollout) -> Group:
        reward = (*self.recipe.reward, *self.preset.extra_reward)
        side = self.preset.image_side
        group = score_group(sample, rollout, side, reward, self._segment)
        if not self.queue:
            return group
        ranks = self.queue.points([metrics(evidence) for evidence in group.evidence])
        points = zip(group.points, ranks, strict=True)
        return replace(group, points=tuple(one | {"ranked": rank} for one, rank in points))

    def load_segmenter(self) -> Segmenter:
        """The sampler's SAM2, loaded by now."""
        if self.segmenter is None:
            preset = self.preset
            self.segmenter = Segmenter.load(
                preset.segmenter, preset.segmenter_config, preset.device
            )
        return self.segmenter

    def _segment(self, sample: Sample, references: Sequence[Reference]) -> np.ndarray:
        return self.load_segmenter().predict(self.embed(sample), references)

    def embed(self, sample: Sample) -> ImageEmbedding:
        """The segmenter's embedding of the sample's photo, kept for the rest of the step."""
        kept = self._embeddings
        if sample.image not in kept:
            if len(kept) == self.preset.prompts_per_step:
                del kept[next(iter(kept))]  # the oldest
            kept[sample.image] = self._embed(sample.image)
        return kept[sample.image]

    def _embed(self, image: str) -> ImageEmbedding:
        return self.load_segmenter().embed_image(read_photo(self.preset.dataset / image).image)

    def _photos(self) -> dict[str, Image.Image]:
        """This round's photos, read by now unless it is the first round; starts on the next's."""
        # The cursor says whose photos they are: `trainer` sets it when it goes on with a run.
        reading = self._ahead.pop(self.cursor, None) or self._read(self.cursor)
        photos = reading.result()
        following = self.cursor + self.preset.prompts_per_step
        self._ahead = {following: self._read(following)}
        return photos

    def _read(self, cursor: int) -> Future:
        return self._reader.submit(read_photos, self.mllm, self.preset, self._samples(cursor))

    @property
    def _mine(self) -> range:
        """This process's places in a round."""
        return self.processes.part(self.preset.prompts_per_step)

    def _samples(self, cursor: int) -> list[Sample]:
        first, count = cursor + self._mine.start, len(self._mine)
        return draw_samples(self.samples, self.seed, first, count)

    def _round_seed(self) -> int:
        return int(np.random.SeedSequence([self.seed, self.rounds]).generate_state(1)[0])


def draw_samples(samples: Sequence[Sample], seed: int, cursor: int, count: int) -> list[Sample]:
    """`count` samples from the `cursor`-th on: epoch after epoch, each in an order of its own."""
    chosen = []
    for index in range(cursor, cursor + count):
        epoch, position = divmod(index, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        chosen.append(samples[order[position]])
    return chosen
