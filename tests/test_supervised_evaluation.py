"""[SEG] rows: the right states become masks, an answer without [SEG] counts, files round-trip."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import assert_near, assert_same_masks, randomise_adapter
from PIL import Image
from test_supervised import PRESET, plain_states, several

from foodseg.data.references import decode_mask, sample_ious
from foodseg.evaluation import evaluate as own_evaluation
from foodseg.evaluation.predictions import load_predictions, load_result
from foodseg.supervised import evaluation, training
from foodseg.supervised.batches import target_rollouts
from foodseg.supervised.evaluation import (
    evaluate_baseline,
    evaluate_generated,
    evaluate_teacher_forced,
    seg_states,
)
from foodseg.supervised.mask_head import MASKS_AT_ONCE
from foodseg.supervised.targets import FOODLMM, LISA, SFT, seg_token_id, to_tokens
from foodseg.supervised.training import new_head, start, train_baseline
from foodseg.system import load_policy
from foodseg.training.photos import PhotoFeatures


@pytest.fixture()
def model():
    updater = start(PRESET, FOODLMM, 0)
    randomise_adapter(updater.mllm)
    return updater.mllm, updater.head


def test_the_states_are_those_that_predict_seg(samples, model):
    mllm, _ = model
    rollouts = target_rollouts(PhotoFeatures(mllm, PRESET), FOODLMM, several(samples, 3))
    for rollout, states in zip(rollouts, seg_states(mllm, rollouts), strict=True):
        expected = plain_states(mllm, rollout)[rollout.tokens[0] == seg_token_id(mllm)]
        assert len(states) > 0
        assert_near(states, expected, roundings=200)


class Painter:
    """A mask head that knows the truth: it paints the masks of the photo's only sample."""

    weights_hash = None

    def __init__(self, segmenter, masks):
        self.segmenter, self.masks = segmenter, iter(masks)

    def predict(self, embedding, states):
        masks = next(self.masks)[: len(states)]
        assert masks.shape[1:] == embedding.size[::-1]
        return masks


def test_true_masks_at_the_true_answers_tokens_score_one(samples, model):
    mllm, head = model
    chosen = several(samples, 2)
    painter = Painter(head.segmenter, [FOODLMM.masks(sample) for sample in chosen])
    result = evaluate_teacher_forced(PRESET, FOODLMM, "forced", chosen, mllm, painter)
    assert result["giou"] == result["ciou"] == 1.0 and result["parse_rate"] == 1.0


def test_both_protocols_agree_on_one_answer(samples, model, monkeypatch):
    mllm, head = model
    chosen = several(samples, 3)
    evaluate_teacher_forced(PRESET, FOODLMM, "forced", chosen, mllm, head)

    def say_the_truth(*_, **__):
        return target_rollouts(PhotoFeatures(mllm, PRESET), FOODLMM, chosen)

    monkeypatch.setattr(evaluation, "roll_out", say_the_truth)
    evaluate_generated(PRESET, "generated", chosen, mllm, head)
    forced, generated = (
        load_predictions(PRESET.predictions_folder(r)) for r in ("forced", "generated")
    )
    assert forced == generated and [p.sample_id for p in forced] == [s.sample_id for s in chosen]
    assert "[SEG]" in forced[0].completion and forced[0].references == ()


def test_an_answer_without_seg_counts_as_unparsed(samples, model, monkeypatch):
    mllm, head = model
    chosen = several(samples, 2)

    def silent_first(*_, **__):
        first, second = target_rollouts(PhotoFeatures(mllm, PRESET), FOODLMM, chosen)
        said = to_tokens(mllm, f"<think>{chosen[0].answer}</think>\n<answer>the food</answer>")
        return [replace(first, tokens=(said,)), second]

    monkeypatch.setattr(evaluation, "roll_out", silent_first)
    result = evaluate_generated(PRESET, "generated", chosen, mllm, head)
    silent, spoken = load_predictions(PRESET.predictions_folder("generated"))
    assert not silent.parsed and spoken.parsed and result["parse_rate"] == 0.5
    assert silent.intersection == 0 and silent.union == chosen[0].union_mask().sum()
    assert not decode_mask(silent.mask).any()
    spoken_iou = sample_ious([spoken.intersection], [spoken.union])[0]
    assert result["giou"] == pytest.approx(spoken_iou / 2) and result["samples"] == 2


@pytest.mark.parametrize("baseline", [SFT, LISA])
def test_a_finished_run_is_evaluated_as_it_was_trained(samples, monkeypatch, baseline):
    short = replace(PRESET, steps=1, max_new_tokens=24)
    learnt = {}
    finish = training.finish

    def keep(folder, config, steps, rows, learner):
        head = learner.updater.head
        learnt["head"] = head and {n: x.clone() for n, x in head.state_dict().items()}
        learnt["template"] = learner.updater.mllm.template
        return finish(folder, config, steps, rows, learner)

    monkeypatch.setattr(training, "finish", keep)
    trained = train_baseline(short, baseline, 0, samples)
    seen = {}

    def build(*arguments):
        seen["head"] = new_head(*arguments)
        return seen["head"]

    def load(preset):
        seen["mllm"] = load_policy(preset)
        return seen["mllm"]

    monkeypatch.setattr(evaluation, "new_head", build)
    monkeypatch.setattr(evaluation, "load_policy", load)
    results = evaluate_baseline(short, baseline, 0, samples[:3])
    rows = [f"{baseline.name}-seed0"]
    if baseline is LISA:
        rows.append("lisa-teacher-forced-seed0")
        state = seen["head"].state_dict()
        assert all(torch.equal(state[n], x) for n, x in learnt["head"].items())
    assert [result["row"] for result in results] == rows
    for row, result in zip(rows, results, strict=True):
        assert load_result(short.predictions_folder(row)) == result
        assert result["adapter"] == trained["adapter"] and result["samples"] == 3
    monkeypatch.setattr(evaluation, "segment_by", None)
    monkeypatch.setattr(own_evaluation, "segment_by", None)
    assert evaluate_baseline(short, baseline, 0, samples[:3]) == results  # not made again
    assert seen["mllm"].template == learnt["template"]
    assert learnt["template"] == (baseline.template or PRESET.prompt_template)


def test_many_masks_are_those_of_each_alone(samples, model):
    mllm, head = model
    chosen = several(samples, 1)[0]
    photo = Image.open(PRESET.dataset / chosen.image).convert("RGB")
    embedding = head.segmenter.embed_image(photo)
    states = torch.randn(MASKS_AT_ONCE + 2, 256, generator=torch.Generator().manual_seed(0))
    masks = head.predict(embedding, states)
    assert masks.shape == (len(states), chosen.height, chosen.width)
    alone = [head.predict(embedding, state[None])[0] for state in states]
    assert_same_masks(masks, np.stack(alone))
    assert 0 < masks.mean() < 1
    assert head.predict(embedding, states[:0]).shape == (0, chosen.height, chosen.width)
