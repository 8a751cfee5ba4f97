"""Dr. Seg: pay for a look before the answer, and rank continuous metrics instead of thresholding.

Read in the authors' code (eVI-group-SCU/Dr-Seg; the scripts in xVI-group-SCU/Dr-Seg):
`dr_seg_compute_score`, the queue of `serve.py`, the prompt of `rl_dataset.py`. Two rewards:

- Look-to-Confirm: one point for a `<look>...</look>` block that says something;
- Distribution-Ranked Reward: the three `metrics` of a completion are each replaced by their rank
  among the metrics of earlier completions (`RankQueue`); the three ranks are summed (the paper
  says: their mean).

`look_prompt` asks for the look. The kitchen's base knows one prompt, which stays: there the looks
that it samples unasked are paid. `non_repeat_normalised` is their form of the paper's `non_repeat`,
`continuous` the plain sum of the metrics that the ranks were compared with. All pixels are those of
the model image. As GRPO has it here, where their script has something else: mini-batches, the
sequence mean, no entropy bonus, shorter completions (theirs: one update a rollout, the token mean,
an entropy bonus, 3,000 tokens).

Two faults of the published code are put right here:

- a metric of NaN, which `null` for a coordinate leads to, compares as nothing and comes out on top.
  Here what cannot be measured is 0, and a NaN ranks 0;
- the queue starts with zeros, so that in the first step even a total failure ranks 1, and for long
  after too high. Here the first rows lie just above 0: what is exactly 0 does not reach them.

Ours: a look that holds a placeholder of the prompt, or marks alone, earns nothing. The code pays
for whatever is not blank, and punishes a copied placeholder in its non-repeat reward alone.

Ours, and inert: more than 120 items are cut before the count ratio, not after. The matching for the
ranks has VisionReasoner's thresholds scaled to the image, also where the preset sets others for
R_acc.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from foodseg.data.references import Reference
from foodseg.models.prompts import THINK, THOUGHT, replace_parts
from foodseg.rl.answers import BOX_KEY, BOX_LENGTH, POINT_KEY, POINT_LENGTH
from foodseg.rl.evidence import Evidence
from foodseg.rl.rewards import MAX_OBJECTS, box_iou, pairwise_terms
from foodseg.rl.thresholds import PAPER_SIDE, RewardThresholds

# What its prompt shows where text belongs: to copy it is no thought, whatever stands between words.
PLACEHOLDERS = ("your reasoning text", "your visual focus", "more reasoning text")
_COPIED = re.compile(
    "|".join(r"\b" + r"[\s\W]*".join(text.split()) + r"\b" for text in PLACEHOLDERS),
    re.IGNORECASE,
)

_AROUND_SENTENCES = " \"'“”‘’[](){}，,;:、"

MATCHING = RewardThresholds(point_l2=30.0)  # VisionReasoner's, not this paper's 50
NEAR, FAR = 30.0, 200.0  # a point's distance for full marks and for none, at a side of 840

QUEUE_ROWS, FIRST_ROWS = 2048, 128
JUST_ABOVE_ZERO = np.finfo(np.float32).tiny

Metrics = tuple[float, float, float]


def look_prompt(template: str) -> str:
    """The template with a thought that looks, in place of the plain one."""
    thought, focus, more = PLACEHOLDERS
    return replace_parts(
        template,
        (
            THINK,
            "First write your reasoning between <think> and </think>. While you reason, look again "
            "at the picture at least once, and put what you attend to between <look> and </look>.",
        ),
        (
            f"<think>{THOUGHT}</think>",
            f"<think>[{thought}] <look>[{focus}]</look> [{more}]</think>",
        ),
    )


def look(evidence: Evidence) -> float:
    """1 if the thinking holds a `<look>...</look>` with words, other than the prompt's own.

    As in the code, one inside `<answer>` counts too (where it breaks the JSON).
    """
    completion = evidence.answer.completion
    bodies = [_body(completion, tag) for tag in ("think", "answer")]
    return float(any(_says_something(text) for body in bodies for text in _looks(body)))


def non_repeat_normalised(evidence: Evidence) -> float:
    """1, or 0 once two sentences had been seen before or a placeholder of the prompt was copied.

    Sentences end at . ! ? their CJK forms and the ellipsis; case, blanks, and quotes, brackets,
    commas, colons and semicolons around a sentence do not count.
    """
    completion = evidence.answer.completion
    if _COPIED.search(completion):
        return 0.0
    words = " ".join(completion.lower().split())
    sentences = [part.strip(_AROUND_SENTENCES) for part in re.split("[.!?。！？…]", words)]
    sentences = [sentence for sentence in sentences if sentence]
    return float(len(sentences) - len(set(sentences)) < 2)


def continuous(evidence: Evidence, *, scales: Metrics = (1.0, 1.0, 1.0)) -> float:
    """The plain sum of the three metrics, 0 to 3; in Dr. Seg's table worse than thresholds.

    scales: what each is multiplied by; they add up to 3, to keep the range. Ranks are the same
    whatever these are.
    """
    iou, ratio, closeness = (s * one for s, one in zip(scales, metrics(evidence), strict=True))
    return iou + ratio + closeness


def metrics(evidence: Evidence) -> Metrics:
    """(mean IoU, count ratio, mean closeness of points) of a completion, each from 0 to 1.

    The means are over the pairs of VisionReasoner's matching, good or bad. Closeness is 1 up to
    30 px, then falls linearly to 0 at 200 px, scaled by side / 840. The count ratio is min / max
    of the numbers of predictions and references, 1 if there are none of either; an item without
    a box or a point discards all predictions, coordinates that are no numbers only the means.
    As in the code a number may stand in quotes, though nothing can be segmented from it then.
    """
    references = evidence.references
    items = _complete_items(evidence.answer.items)
    most = max(len(items), len(references))
    ratio = min(len(items), len(references)) / most if most else 1.0
    boxes = _array(items[:MAX_OBJECTS], BOX_KEY, BOX_LENGTH)
    points = _array(items[:MAX_OBJECTS], POINT_KEY, POINT_LENGTH)
    if boxes is None or points is None or not references:
        return 0.0, ratio, 0.0
    iou, closeness = _pair_metrics(boxes, points, references[:MAX_OBJECTS], evidence.side)
    return float(iou.mean()), ratio, float(closeness.mean())


class RankQueue:
    """The metrics of the latest 2048 completions, to rank new ones against.

    A metric's rank is the fraction of its column that is not above it, rounded to one decimal as
    Python does; compared as float32. Rows ranked during a step wait, and enter by `flush` at its
    end, so that all completions of a step are ranked against the same rows.

        points = queue.award(evidence of some completions)  # once or more in a step
        queue.flush()  # once, at its end

    `rows` (R, 3) float32, oldest first.
    """

    def __init__(self) -> None:
        self.rows = np.full((FIRST_ROWS, 3), JUST_ABOVE_ZERO, dtype=np.float32)
        self.waiting = np.zeros((0, 3), dtype=np.float32)

    def award(self, evidence: Sequence[Evidence]) -> list[float]:
        """The points of each completion, 0 to 3."""
        return self.points([metrics(one) for one in evidence])

    def points(self, metrics: Sequence[Metrics]) -> list[float]:
        """The sum of the three ranks of each completion, 0 to 3; equal sums are equal bits."""
        return [round(sum(ranks), 1) for ranks in self.ranks(metrics)]

    def ranks(self, metrics: Sequence[Metrics]) -> list[Metrics]:
        """The three ranks of each completion, which then waits for `flush`. A NaN ranks 0."""
        rows = np.array(metrics, dtype=np.float32).reshape(-1, 3)
        self.waiting = np.concatenate([self.waiting, rows])
        return [tuple(self._rank(column, row[column]) for column in range(3)) for row in rows]

    def flush(self) -> None:
        """End a step: what waits enters, and the oldest rows beyond 2048 leave."""
        entering = np.where(np.isnan(self.waiting), -np.inf, self.waiting).astype(np.float32)
        self.rows = np.concatenate([self.rows, entering])[-QUEUE_ROWS:]
        self.waiting = self.waiting[:0]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors for a checkpoint: the rows and what waits."""
        return {"rows": torch.from_numpy(self.rows), "waiting": torch.from_numpy(self.waiting)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.rows, self.waiting = state["rows"].numpy(), state["waiting"].numpy()

    def _rank(self, column: int, metric: np.float32) -> float:
        # a NaN is not above any row, and no row is above it: the mean is 0
        return round(float((self.rows[:, column] <= metric).mean()), 1)


def _body(completion: str, tag: str) -> str:
    """Inside the first `<tag>...</tag>`; empty where there is none."""
    inside, closed, _ = completion.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    return inside if closed else ""


def _looks(body: str) -> list[str]:
    """Inside each `<look>...</look>`, in linear time."""
    return [part.partition("<look>")[2] for part in body.split("</look>")[:-1]]


def _says_something(look: str) -> bool:
    words = _COPIED.sub(" ", look.replace("<look>", " "))
    return re.search(r"\w", words) is not None


def _complete_items(items: Any) -> list[dict]:
    """All items if each has a box and a point, whatever these are; otherwise none."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return []
    return items if all(BOX_KEY in item and POINT_KEY in item for item in items) else []


def _array(items: Sequence[dict], key: str, length: int) -> np.ndarray | None:
    """(M, length) float64 or None; numbers in quotes count, and `null` becomes NaN."""
    try:
        array = np.array([item[key] for item in items], dtype=float)
    except (TypeError, ValueError):
        return None
    return array if array.shape == (len(items), length) and len(items) else None


def _pair_metrics(
    boxes: np.ndarray, points: np.ndarray, references: Sequence[Reference], side: int
) -> tuple[np.ndarray, np.ndarray]:
    """(P,) IoU and (P,) closeness of the matched pairs; what is NaN counts as 0."""
    scale = side / PAPER_SIDE
    terms = pairwise_terms(boxes, points, references, MATCHING.scaled(side))
    # equal sums are common; whom SciPy then pairs is the code's own choice
    rows, columns = linear_sum_assignment(3 - terms.sum(2))
    true_boxes = np.array([references[column].box for column in columns], dtype=float)
    true_points = np.array([references[column].point for column in columns], dtype=float)
    with np.errstate(over="ignore", invalid="ignore"):
        iou = box_iou(boxes[rows], true_boxes).diagonal()
        distance = np.sqrt(((points[rows] - true_points) ** 2).sum(1))
        closeness = ((FAR * scale - distance) / ((FAR - NEAR) * scale)).clip(0, 1)
    return iou, np.nan_to_num(closeness)
