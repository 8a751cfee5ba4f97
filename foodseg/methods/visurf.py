"""ViSurf: the true answer joins each group as one more rollout, so that RL is supervised as well.

arXiv:2510.10606; we know its abstract and a note. Published: SFT's and RLVR's objectives become one
by that rollout, whose reward is controlled in three ways: it is written in the form that the policy
prefers, it earns nothing for thinking, and its reward is smoothed, so that it does not dominate;
reported above SFT, RLVR, and SFT then RLVR. The whole paper was not read. Our reading:

- The data has no true reasoning, so the true answer has none: `<answer>`, the JSON list as the
  policy writes it, `</answer>`. That form earns nothing for thinking by itself.
- Once a completion of the group earns as much, no supervision is needed: the true answer then gets
  the mean of the completions' rewards, and so an advantage of 0.
- It comes on top of the G completions that are sampled. Its old log-probs are those of the policy
  that sampled them, so its ratio is clipped as theirs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from foodseg.data.samples import Sample
from foodseg.rl.answers import write_truth
from foodseg.rl.evidence import total


def bare_answer(sample: Sample, side: int) -> str:
    """The true references without a thought, in pixels of the `side` x `side` model image."""
    return f"<answer>{write_truth(sample, side)}</answer>"


def told_answer(sample: Sample, side: int) -> str:
    """The same after a thought: the data's own answer, which names the foods. Ours."""
    return f"<think>{sample.answer}</think>\n{bare_answer(sample, side)}"


def smooth(points: dict[str, float], rewards: Sequence[float]) -> dict[str, float]:
    """The true answer's points; `smoothing` brings them down to the completions' mean reward.

    rewards: of the group's completions; `smoothing` is 0 while all of them earn less.
    """
    earned = total(points)
    smoothing = fmean(rewards) - earned if max(rewards) >= earned else 0.0
    return points | {"smoothing": smoothing}
