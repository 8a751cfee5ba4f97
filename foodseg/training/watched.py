"""What a log row keeps of some steps so that a run can be seen again: `foodseg.replay` draws it.

- watched: what the policy answers, greedily, to the same few questions: {sample_id, text, reward},
  reward by the paper's terms. It is the policy that sampled this step, before its updates. Steps
  1, 2, 3, 5, 8, 13 ... have it, since most changes early, and a look costs a tenth of a step;
- watched_after: the same after the updates of a run's last step;
- group, of the last step too: one of its groups, as it was learnt from: its sample_id, its place
  in group_rewards, and for each completion its text, its points by the recipe's terms and its
  advantage (the mean over its tokens, where they differ);
- group_ratios: of each of its completions the lowest and the highest token's ratio, as clipped in
  the group's gradient step; None if it was in none;
- group_rewards: of each group that this process sampled, kept or not, the rewards.

Nothing here changes a bit of the run: greedy decoding draws no random number that anything else
draws, and so this file is no part of a run's identity (`training.identity`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from foodseg.common.processes import ALONE, Processes
from foodseg.data.samples import Sample
from foodseg.models.mllm import Mllm
from foodseg.presets import Preset
from foodseg.rl.dynamic_sampling import has_signal
from foodseg.rl.evidence import gather_evidence
from foodseg.rl.groups import Group
from foodseg.system import read_photos, roll_out
from foodseg.training.log import TERMS
from foodseg.training.sampler import Batch
from foodseg.training.updates import mini_batches

if TYPE_CHECKING:  # a training loads only the methods that its recipe uses
    from foodseg.recipes import Recipe

FOODS = (1, 2, 3)  # asked for by the watched questions; the last one: so many or more


class Watcher:
    """Looks at the policy every few steps. Of several processes only the main one looks."""

    def __init__(
        self,
        mllm: Mllm,
        preset: Preset,
        recipe: Recipe,
        samples: Sequence[Sample],
        processes: Processes = ALONE,
    ) -> None:
        self.mllm, self.preset, self.recipe = mllm, preset, recipe
        self.samples = watched_samples(samples) if processes.main else []

    def due(self, index: int) -> bool:
        """Whether step `index`, from 0, is looked at: its number, from 1, is one of Fibonacci's."""
        number, following = 1, 2
        while number <= index:
            number, following = following, number + following
        return bool(self.samples) and number == index + 1

    def answers(self) -> list[dict]:
        """What the policy as it is answers to the watched questions."""
        rollouts = roll_out(self.mllm, self.preset, self.samples, 1, 0.0, photos=self._photos)
        pairs = zip(self.samples, rollouts, strict=True)
        return [self._answer(sample, rollout.texts[0]) for sample, rollout in pairs]

    def before(self, index: int) -> dict:
        """The log's fields that are known before step `index` samples; none if it is not due."""
        if not self.due(index):
            return {}
        start = time.perf_counter()
        answers = self.answers()
        return {"watched": answers, "seconds_watched": time.perf_counter() - start}

    def after(self, row: dict) -> dict:
        """The row of the run's last step with what the trained policy answers."""
        if not self.samples:
            return row
        start = time.perf_counter()
        answers = self.answers()
        seconds = row.get("seconds_watched", 0.0) + time.perf_counter() - start
        return row | {"watched_after": answers, "seconds_watched": seconds}

    def choose(self, batch: Batch, index: int, last: bool) -> Group | None:
        """The group that step `index` logs, if it is due or the last: the first with signal.

        The first of the last mini-batch: there the policy is furthest from the one that sampled.
        """
        if not self.samples or not (last or self.due(index)):
            return None
        parts = list(mini_batches(batch.groups, self.preset.groups_per_update))
        ordered = [group for part in reversed(parts) for group in part if group]
        return next((g for g in ordered if has_signal(g.rewards)), (ordered or batch.seen)[0])

    def group_fields(self, batch: Batch, group: Group) -> dict:
        """The log's fields of the chosen group and of all that were sampled."""
        (advantages,) = self.recipe.advantages([group], self.mllm.tokenizer)
        # A true answer that joined the group made another of it, whose completions are the same.
        same = (seen.evidence[0] is group.evidence[0] for seen in batch.seen)
        fields = {
            "sample_id": group.sample.sample_id,
            "place": list(same).index(True),
            "texts": list(group.rollout.texts),
            "points": list(group.points),
            "advantages": [float(np.mean(one)) for one in advantages],
        }
        return {"group": fields, "group_rewards": [seen.rewards for seen in batch.seen]}

    @cached_property
    def _photos(self) -> dict[str, Image.Image]:
        return read_photos(self.mllm, self.preset, self.samples)

    def _answer(self, sample: Sample, text: str) -> dict:
        side, thresholds = self.preset.image_side, self.preset.thresholds
        read = {"thresholds": thresholds, "labelled": self.recipe.labelled_points}
        read |= {"nothing": self.recipe.nothing}
        (evidence,) = gather_evidence(sample, [text], side, **read)
        reward = {term: getattr(evidence.score, term) for term in TERMS}
        return {"sample_id": sample.sample_id, "text": text, "reward": reward}


def watched_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The first question for one food, the first for two, the first for more, of as many plates."""
    chosen: list[Sample] = []
    for count in FOODS:
        taken = {sample.image for sample in chosen}
        fitting = (s for s in samples if min(len(s.foods), FOODS[-1]) == count)
        chosen += [sample for sample in fitting if sample.image not in taken][:1]
    return chosen
