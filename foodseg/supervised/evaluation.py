"""Two protocols for a model that writes [SEG], side by side.

Generate, then segment: the model writes its answer greedily and each [SEG] that it wrote becomes a
mask. An answer without one is unparsed and scores I = 0, U = |GT|. Every other row of the results
table is measured so.

Teacher-forced: the model reads the ground-truth answer, foods and all, and masks are taken at that
answer's [SEG] positions. FoodLMM reports its reasoning score so. The model need not find out which
food is meant nor that it must write [SEG], so it is another, easier, protocol: no such number
belongs beside the others without this remark.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from foodseg.common.progress import tqdm
from foodseg.data.samples import Sample
from foodseg.evaluation.evaluate import evaluate, segment_by
from foodseg.evaluation.predictions import finished_result, save_predictions
from foodseg.evaluation.unfinished import Unfinished, depends_on
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import Rollout
from foodseg.models.shared_prefix import completion_tokens, predicting_states
from foodseg.presets import Preset
from foodseg.rl.answers import parse_answer
from foodseg.supervised.batches import target_rollouts
from foodseg.supervised.mask_head import MaskHead
from foodseg.supervised.targets import Baseline, seg_token_id, to_text
from foodseg.supervised.training import new_head
from foodseg.system import load_policy, load_segmenter, one_thread, roll_out
from foodseg.training.photos import PhotoFeatures


def teacher_forced_row_name(baseline: Baseline, seed: int) -> str:
    """The row of the same model's teacher-forced masks."""
    return f"{baseline.name}-teacher-forced-seed{seed}"


def evaluate_baseline(
    preset: Preset, baseline: Baseline, seed: int, samples: Sequence[Sample]
) -> list[dict]:
    """Evaluate a finished run: its row and, if it writes [SEG], the teacher-forced row after it.

    On a CPU in one thread (`system.one_thread`), as are the two evaluations below.
    """
    run = preset.run_folder(baseline.name, seed)
    folder, row = run / "adapter", run.name
    with one_thread(preset.device):
        mllm = load_policy(preset)
        mllm.load_adapter(folder)
        if not baseline.masks:
            return [evaluate(preset, row, samples, mllm, load_segmenter(preset))]
        head = new_head(preset, mllm, seed)
        head.load(folder)
        forced = teacher_forced_row_name(baseline, seed)
        return [
            evaluate_generated(preset, row, samples, mllm, head),
            evaluate_teacher_forced(preset, baseline, forced, samples, mllm, head),
        ]


def evaluate_generated(
    preset: Preset, row: str, samples: Sequence[Sample], mllm: Mllm, head: MaskHead
) -> dict:
    """Generate, then segment; writes predictions.jsonl and result.json of this row."""

    def answer(batch: Sequence[Sample]) -> list[Rollout]:
        return roll_out(mllm, preset, batch, group_size=1, temperature=0.0)

    return _evaluate(preset, row, samples, mllm, head, answer)


def evaluate_teacher_forced(
    preset: Preset,
    baseline: Baseline,
    row: str,
    samples: Sequence[Sample],
    mllm: Mllm,
    head: MaskHead,
) -> dict:
    """Masks at the ground-truth answer's [SEG] positions; writes the same two files.

    `parse_rate` and `foods_right` say nothing here: the answer is given.
    """

    photos = PhotoFeatures(mllm, preset)

    def answer(batch: Sequence[Sample]) -> list[Rollout]:
        return target_rollouts(photos, baseline, batch)

    return _evaluate(preset, row, samples, mllm, head, answer)


def _evaluate(preset, row: str, samples, mllm: Mllm, head: MaskHead, answer) -> dict:
    began, texts, states = time.perf_counter(), [], []
    known = depends_on(preset, samples, __name__, mllm, head.segmenter)
    known |= {"mask_head": head.weights_hash}
    if done := finished_result(preset.predictions_folder(row), known):
        return done
    kept = Unfinished(preset.predictions_folder(row), known)

    def answers_and_states(first: int) -> list[list]:
        rollouts = answer(samples[first : first + preset.evaluation_batch])
        found = zip(rollouts, seg_states(mllm, rollouts), strict=True)
        return [[to_text(mllm, rollout.tokens[0]), state.tolist()] for rollout, state in found]

    with one_thread(preset.device):
        for i in tqdm(range(0, len(samples), preset.evaluation_batch), f"{row}: answers"):
            for text, state in kept.once(f"answers from {i} on", partial(answers_and_states, i)):
                texts.append(text)
                states.append(torch.tensor(state, dtype=mllm.model.dtype, device=mllm.device))
        answers = [parse_answer(text) for text in texts]
        predictions = segment_by(
            lambda embedding, i: head.predict(embedding, states[i]),
            preset,
            row,
            samples,
            answers,
            head.segmenter,
            kept.once,
        )
    seconds = kept.seconds + time.perf_counter() - began
    return save_predictions(preset, row, predictions, seconds, mllm.adapter_hash, known=known)


@torch.no_grad()
def seg_states(mllm: Mllm, rollouts: Sequence[Rollout]) -> list[torch.Tensor]:
    """For each rollout of one completion, the states (N, D) from which its [SEG] are predicted.

    Read in a forward over the whole completion, as in training; N is 0 where none was written.
    """
    is_seg = completion_tokens(rollouts) == seg_token_id(mllm)
    lengths = [len(rollout.tokens[0]) for rollout in rollouts]
    states = predicting_states(mllm, rollouts).split(lengths)
    return [one[here] for one, here in zip(states, is_seg.split(lengths), strict=True)]
