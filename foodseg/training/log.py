"""A step's log row, from which every curve is drawn. A field with nothing to average is None.

Of all that was sampled, kept or not:

- reward_*: the paper's terms, in every recipe's log (labelled points, SAM-R1's form, are no points
  to them); points_*: the recipe's own, which it learns from;
- parse_rate, ended, length (tokens), zero_variance (groups with equal rewards), rounds of
  sampling, sampled (completions of all rounds), groups (that are learnt from);
- failure_* and habit_*: the shares of `rl.habits`; parse_rate and all failures add up to 1;
- accuracy_given_parse: the mean accuracy reward of what parses; accuracy_several: that of questions
  with several references, parsed or not;
- completeness: min(M, N) / max(M, N) of M predictions and N > 1 references, of what parses;
- mean_pass: the share of completions of which every box matches, R_IoU = 1; pass_at_g: that of
  groups with such a completion;
- distinct_foods: a group's different sets of foods named in a conclusion, the empty one aside.

Of the gradient steps, over the tokens that were trained on:

- loss, gradient_norm: means over the rollout's `gradient_steps` mini-batches, the norm before
  clipping; gradient_norm_max: the largest; skipped_steps: mini-batches whose gradient was NaN or
  infinite, left out;
- clip_low_fraction, clip_high_fraction, kl, ratio: see `rl.objectives.PolicyLoss`. Without a KL
  term `kl` is that of the policy that sampled, over the first group that learns;
- entropy, sampler_gap: of the first mini-batch, whose policy is the one that sampled; sampler_gap
  is the mean distance between the sampler's log-probs and the forward's;
- gain_p0_10, gain_p10_50, gain_p50_90, gain_p90_100: how much more probable the earlier
  mini-batches' steps made the tokens of the later ones: the mean of ratio - 1 where A > 0, by the
  probability when sampled, in percent; clip_high_p*: the share of these tokens above the clip
  range; gain_tokens_p*: how many there are.

What some steps have so that the run can be seen again is explained in `training.watched`.

seconds_*: this process's, by phase. peak_memory_mb: the step's on a GPU, on a CPU the process's so
far; the largest of all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from foodseg.common.processes import ALONE, Processes
from foodseg.rl.dynamic_sampling import has_signal
from foodseg.rl.evidence import Evidence
from foodseg.rl.groups import Group
from foodseg.rl.habits import FAILURES, HABITS, failure_kind, habits
from foodseg.rl.named_foods import food_names, named_in_conclusion
from foodseg.rl.rewards import Score
from foodseg.training.diagnostics import mean
from foodseg.training.sampler import Batch

TERMS = "total thinking_format segmentation_format accuracy iou box_l1 point_l2 non_repeat".split()


@dataclass(frozen=True)
class _Completion:
    """What the log keeps of one; predicted, true: numbers of references."""

    score: Score
    failure: str
    habits: dict[str, bool]
    foods: frozenset[str]
    predicted: int
    true: int

    @classmethod
    def of(cls, evidence: Evidence, names: tuple[str, ...]) -> _Completion:
        answer, sample = evidence.answer, evidence.sample
        foods = frozenset(named_in_conclusion(answer, sample, names))
        kinds = failure_kind(answer), habits(answer.completion)
        return cls(evidence.score, *kinds, foods, len(answer.objects), len(sample.references))

    @property
    def passed(self) -> bool:
        return self.score.iou >= 1

    @property
    def completeness(self) -> float:
        return min(self.predicted, self.true) / max(self.predicted, self.true)


@dataclass(frozen=True)
class _Seen:
    """A group's loggable values, without tensors, to be gathered from all processes."""

    completions: tuple[_Completion, ...]
    ended: tuple[bool, ...]
    points: tuple[dict[str, float], ...]
    rewards: list[float]
    lengths: list[int]
    question: str
    completion: str

    @classmethod
    def of(cls, group: Group, names: tuple[str, ...]) -> _Seen:
        rollout = group.rollout
        completions = tuple(_Completion.of(evidence, names) for evidence in group.evidence)
        lengths = [len(tokens) for tokens in rollout.tokens]
        own = (completions, rollout.ended, group.points, group.rewards, lengths)
        return cls(*own, group.sample.question, rollout.texts[0])


def step_row(batch: Batch, update: dict, processes: Processes = ALONE) -> dict:
    """A step's log row: what was sampled and what the updates did, over all processes."""
    names = food_names([group.sample for group in batch.seen])
    seen = processes.gather([_Seen.of(group, names) for group in batch.seen])
    completions = [completion for group in seen for completion in group.completions]
    return (
        {f"reward_{term}": fmean(getattr(c.score, term) for c in completions) for term in TERMS}
        | _mean_points(seen)
        | {
            "parse_rate": fmean(not c.failure for c in completions),
            "zero_variance": fmean(not has_signal(group.rewards) for group in seen),
            "rounds": batch.rounds,
            "sampled": batch.sampled,
            "groups": len(batch.groups),
            "length": fmean(length for group in seen for length in group.lengths),
            "ended": fmean(end for group in seen for end in group.ended),
        }
        | _form(completions)
        | _substance(completions)
        | _groups(seen)
        | update
        | {f"seconds_{phase}": seconds for phase, seconds in batch.seconds.items()}
        | {"question": seen[0].question, "completion": seen[0].completion}
    )


def _mean_points(seen: Sequence[_Seen]) -> dict[str, float]:
    points = [one for group in seen for one in group.points]
    means = {f"points_{term}": fmean(one[term] for one in points) for term in points[0]}
    return {"points_total": fmean(r for group in seen for r in group.rewards)} | means


def _form(completions: Sequence[_Completion]) -> dict[str, float]:
    failures = {kind: fmean(c.failure == kind for c in completions) for kind in FAILURES}
    shown = {habit: fmean(c.habits[habit] for c in completions) for habit in HABITS}
    return {f"failure_{_safe(kind)}": share for kind, share in failures.items()} | {
        f"habit_{_safe(habit)}": share for habit, share in shown.items()
    }


def _safe(name: str) -> str:
    return name.replace(" ", "_")


def _substance(completions: Sequence[_Completion]) -> dict[str, float | None]:
    parsed = [c for c in completions if not c.failure]
    return {
        "accuracy_given_parse": mean([c.score.accuracy for c in parsed]),
        "accuracy_several": mean([c.score.accuracy for c in completions if c.true > 1]),
        "completeness": mean([c.completeness for c in parsed if c.true > 1]),
        "mean_pass": fmean(c.passed for c in completions),
    }


def _groups(seen: Sequence[_Seen]) -> dict[str, float]:
    named = [{c.foods for c in group.completions if c.foods} for group in seen]
    return {
        "pass_at_g": fmean(any(c.passed for c in group.completions) for group in seen),
        "distinct_foods": fmean(map(len, named)),
    }
