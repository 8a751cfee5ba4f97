"""From questions to scored groups: what one training step learns from.

The stream of questions and every random number derive from the seed and from two counters, so a
run can be continued from the counters (and, with Dr. Seg's ranks, the queue) alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from foodseg.common.processes import ALONE, Processes
from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE, Rollout
from foodseg.presets import Preset
from foodseg.rl.dynamic_sampling import GroupCollector, NoSignalError
from foodseg.rl.groups import Group, score_group
from foodseg.system import roll_out
from foodseg.training.photos import PhotoFeatures, PhotoReader
from foodseg.training.true_answers import join, true_rollout

if TYPE_CHECKING:  # a training loads only the methods that its recipe uses
    from foodseg.recipes import Recipe


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step sampled: `groups` to learn from, out of `seen`, in so many `rounds`.

    groups: in the order sampled, of all processes; None for what another process holds. seen: this
    process's. sampled: completions, of all processes. seconds: by phase.
    """

    groups: list[Group | None]
    seen: list[Group]
    rounds: int
    sampled: int
    seconds: dict[str, float]

    @property
    def mine(self) -> list[Group]:
        """Those of `groups` that this process holds."""
        return [group for group in self.groups if group]


class GroupSampler:
    """Draws batches of scored groups from the policy; `state_dict` is all its state.

    cursor: questions drawn so far; rounds: rounds of sampling so far; queue: Dr. Seg's ranks, only
    if recipe.ranking; features: SAM2's embeddings of this step's photos, for terms that ask for
    masks. Each round's questions are dealt out among the processes.
    """

    def __init__(
        self,
        mllm: Mllm,
        preset: Preset,
        recipe: Recipe,
        samples: Sequence[Sample],
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.mllm, self.preset, self.recipe = mllm, preset, recipe
        self.samples, self.seed, self.processes = samples, seed, processes
        self.cursor = self.rounds = 0
        self.queue = recipe.ranking() if recipe.ranking else None
        self.features = PhotoFeatures(mllm, preset)
        self.reader = PhotoReader(mllm, preset)

    def state_dict(self) -> dict:
        """What the next batch depends on, besides the policy."""
        queue = self.queue.state_dict() if self.queue else None
        return {"cursor": self.cursor, "rounds": self.rounds, "queue": queue}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.cursor, self.rounds = state["cursor"], state["rounds"]
        if self.queue:
            self.queue.load_state_dict(state["queue"])

    def next_batch(self) -> Batch:
        """Sample one step's groups; with dynamic sampling, until enough of them can teach.

        After `recipe.max_rounds` rollouts' questions the step learns from those that there are.
        Raises NoSignalError if there is none: then the batch can be asked for again.
        """
        self.features.clear()  # the last step's photos, on a GPU's memory
        seconds, before = {"rollout": 0.0, "scoring": 0.0}, self.sampled
        start = self.state_dict()
        size = self.preset.prompts_per_step
        if self.recipe.dynamic_sampling:
            try:
                groups, seen, rounds = self._refilled_batch(seconds)
            except NoSignalError:
                self.load_state_dict(start)
                raise
        else:
            seen, rounds = self._round(size, seconds), 1
            groups = self._in_order(seen, size)
        batch = Batch(groups, seen, rounds, self.sampled - before, seconds)
        if self.queue:
            self.queue.flush()
        return self._with_true_answers(batch) if self.recipe.true_answer else batch

    @property
    def sampled(self) -> int:
        """Completions so far, of all processes."""
        return self.cursor * self.preset.group_size

    def questions(self, cursor: int, count: int) -> list[Sample]:
        """This process's, of a round of `count` that begins at the `cursor`-th question."""
        mine = self.processes.part(count)
        return draw_samples(self.samples, self.seed, cursor + mine.start, len(mine))

    def _refilled_batch(
        self, seconds: dict[str, float]
    ) -> tuple[list[Group | None], list[Group], int]:
        """Groups with signal, all that were seen, and in how many rounds."""
        size = self.preset.prompts_per_step
        collector = GroupCollector(size, self.recipe.max_rounds * size)
        seen: list[Group] = []
        while count := collector.missing:
            groups = self._round(count, seconds)
            seen += groups
            # Of the groups that others hold, only the rewards count.
            rewards = self.processes.gather([group.rewards for group in groups])
            try:
                collector.add(self._in_order(groups, count), rewards)
            except NoSignalError:
                if not collector.kept:
                    raise
                break
        return collector.take(), seen, collector.rounds

    def _in_order(self, groups: list[Group], count: int) -> list[Group | None]:
        """A round's groups, of which these are this process's."""
        mine, everyone = self.processes.part(count), [None] * count
        everyone[mine.start : mine.stop] = groups
        return everyone

    def _round(self, count: int, seconds: dict[str, float]) -> list[Group]:
        """One round of `count` questions: a group of completions of each, scored."""
        start, samples = time.perf_counter(), self.questions(self.cursor, count)
        following = self.questions(self.cursor + count, self.preset.prompts_per_step)
        photos = self.reader.photos(samples, following)
        # A process has no question where fewer are asked than there are processes.
        rollouts = self._roll_out(samples, photos, count) if samples else []
        self.cursor += count
        self.rounds += 1
        sampled = time.perf_counter()
        waiting = len(self.queue.waiting) if self.queue else 0
        groups = [self._score(s, r) for s, r in zip(samples, rollouts, strict=True)]
        if self.queue:  # every process ranks against the same rows
            shared = self.processes.gather([self.queue.waiting[waiting:]])
            self.queue.waiting = np.concatenate([self.queue.waiting[:waiting], *shared])
        seconds["rollout"] += sampled - start
        seconds["scoring"] += time.perf_counter() - sampled
        return groups

    def _roll_out(
        self, samples: list[Sample], photos: dict[str, Image.Image], count: int
    ) -> list[Rollout]:
        return roll_out(
            self.mllm,
            self.preset,
            samples,
            self.preset.group_size,
            TEMPERATURE,
            round_seed(self.seed, self.rounds),
            photos,
            self.processes.part(count).start,
        )

    def _score(self, sample: Sample, rollout: Rollout) -> Group:
        preset, reward = self.preset, (*self.recipe.reward, *self.preset.extra_reward)
        asked = sample, rollout, preset.image_side, reward, self._segment, preset.thresholds
        group = score_group(*asked, self.recipe.labelled_points, self.recipe.nothing)
        if not self.queue:
            return group
        points = zip(group.points, self.queue.award(group.evidence), strict=True)
        return replace(group, points=tuple(one | {"ranked": rank} for one, rank in points))

    def _with_true_answers(self, batch: Batch) -> Batch:
        """What is learnt from gets the true answers; `seen`, for the log, is what was sampled."""
        start, groups = time.perf_counter(), list(batch.groups)
        for index, group in enumerate(groups):
            side = self.preset.image_side
            if text := self.recipe.true_answer(group.sample, side) if group else "":
                rollout = true_rollout(self.mllm, group, text)
                groups[index] = join(group, self._score(group.sample, rollout))
        seconds = batch.seconds["scoring"] + time.perf_counter() - start
        return replace(batch, groups=groups, seconds=batch.seconds | {"scoring": seconds})

    def _segment(self, sample: Sample, references: Sequence[Reference]) -> np.ndarray:
        embedding = self.features.embedding(sample.image)
        return self.features.segmenter.predict(embedding, references)


def round_seed(seed: int, index: int) -> int:
    """The seed of a run's round of sampling, numbered from 0."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def draw_samples(samples: Sequence[Sample], seed: int, cursor: int, count: int) -> list[Sample]:
    """`count` samples from the `cursor`-th on: epoch after epoch, each in an order of its own."""
    chosen = []
    for index in range(cursor, cursor + count):
        epoch, position = divmod(index, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        chosen.append(samples[order[position]])
    return chosen
