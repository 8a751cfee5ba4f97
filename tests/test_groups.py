"""Groups: points by the recipe's own terms, masks only for who asks, ranks from one snapshot."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_same_masks, load_kitchen, watch

from foodseg.methods.dr_seg import RankQueue
from foodseg.models.segmenter import Segmenter
from foodseg.presets import SMOKE
from foodseg.recipes import DAPO, DR_SEG_RANKED, GRPO, SAM_R1
from foodseg.rl.dynamic_sampling import NoSignalError
from foodseg.rl.evidence import (
    PAPER_REWARD,
    accuracy,
    accuracy_without,
    award,
    gather_evidence,
    non_repeat,
    to_original,
    total,
)
from foodseg.rl.groups import score_group
from foodseg.system import roll_out
from foodseg.training import photos
from foodseg.training import sampler as sampler_module
from foodseg.training.sampler import GroupSampler, draw_samples, round_seed

SIDE = SMOKE.image_side
PRESET = replace(SMOKE, prompts_per_step=2, group_size=3)


def answer_text(*boxes) -> str:
    items = [
        f'{{"bbox_2d": {list(box)}, "point_2d": [{box[0] + 2}, {box[1] + 2}]}}' for box in boxes
    ]
    return f"<think>It is the rice.</think>\n<answer>[{', '.join(items)}]</answer>"


TEXTS = (
    answer_text((10, 10, 60, 60), (80, 80, 160, 160)),
    "I see no food.",
    answer_text((20, 30, 90, 90)),
)


def rollout(texts=TEXTS) -> SimpleNamespace:
    return SimpleNamespace(texts=texts)


def test_a_group_is_segmented_in_one_call_and_each_completion_gets_its_own_masks(samples):
    calls = []

    def segment(sample, references):
        calls.append(list(references))
        numbers = np.arange(len(references), dtype=np.uint8)
        return np.broadcast_to(numbers[:, None, None], (len(numbers), 4, 5))

    evidence = gather_evidence(samples[0], TEXTS, SIDE, segment)
    assert calls == []
    assert [one.masks()[:, 0, 0].tolist() for one in evidence] == [[0, 1], [], [2]]
    expected = [r for one in evidence for r in to_original(one.answer, samples[0], SIDE)]
    assert calls == [expected] and len(expected) == 3
    with pytest.raises(ValueError, match="segment: a term asks for masks"):
        gather_evidence(samples[0], TEXTS, SIDE)[0].masks()


def test_a_group_learns_from_its_terms_and_logs_the_papers(samples):
    def objects(evidence):
        return len(evidence.answer.objects)

    def half(evidence, *, points):
        return points / 2

    paper = score_group(samples[0], rollout(), SIDE)
    own = score_group(samples[0], rollout(), SIDE, (objects, partial(half, points=3)))
    assert own.points[0] == {"objects": 2.0, "half": 1.5}
    assert own.rewards == [3.5, 1.5, 2.5]
    assert [one.answer.parsed for one in own.evidence] == [True, False, True]
    assert [one.score for one in own.evidence] == [one.score for one in paper.evidence]
    assert paper.rewards == [one.score.total for one in paper.evidence]
    assert set(paper.points[0]) == {term.__name__ for term in PAPER_REWARD}
    for nothing in (None, "1", [2]):

        def empty(evidence, *, value=nothing):
            return value

        with pytest.raises(ValueError, match="empty: it gave .* points; let it return a finite"):
            score_group(samples[0], rollout(), SIDE, (empty,))
    with pytest.raises(ValueError, match="half: it gave nan points"):
        score_group(samples[0], rollout(), SIDE, (non_repeat, partial(half, points=math.nan)))
    # From left to right: Python 3.12's sum() compensates, and would give other bits than 3.11's.
    assert total({"a": 0.1, "b": 0.2, "c": 0.3}) == 0.1 + 0.2 + 0.3 != 0.6


def test_the_parts_of_accuracy_can_be_left_out_one_by_one(samples):
    sample = next(sample for sample in samples if len(sample.references) == 1)
    [evidence] = gather_evidence(sample, ["-"], SIDE)
    (x1, y1, x2, y2), point = evidence.references[0].box, evidence.references[0].point
    # the right box, and a point too far away
    text = f'<answer>[{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "point_2d": [{x2}, {y2}]}}]</answer>'
    [evidence] = gather_evidence(sample, [text], SIDE)
    evidence = replace(evidence, thresholds=replace(evidence.thresholds, point_l2=0.5))
    assert (x2, y2) != point and accuracy(evidence) == 2
    left = {part: accuracy_without(evidence, part=part) for part in ("iou", "box_l1", "point_l2")}
    assert left == {"iou": 1, "box_l1": 1, "point_l2": 2}


def sampler(samples, recipe, monkeypatch, texts=TEXTS) -> GroupSampler:
    """A sampler whose policy says the same three things to every question."""
    monkeypatch.setattr(
        sampler_module,
        "roll_out",
        lambda mllm, preset, asked, *rest: [rollout(texts) for _ in asked],
    )
    mllm = SimpleNamespace(image_side=SIDE, resize=lambda image: image)
    return GroupSampler(mllm, PRESET, recipe, samples, seed=0)


def by_question(evidence, *, telling):
    """Only of these questions do the completions earn differently."""
    return float(evidence.sample.sample_id in telling and evidence.answer.parsed)


@pytest.mark.parametrize("count", [1, 0])
def test_a_step_learns_from_the_groups_that_there_are_and_none_is_an_error(
    samples, monkeypatch, count
):
    asked = draw_samples(samples, 0, 0, 6)  # three rollouts' worth
    telling = tuple(sample.sample_id for sample in asked[3 : 3 + count])
    reward = (partial(by_question, telling=telling),)
    recipe = replace(DAPO, reward=reward, max_rounds=3)
    drawn = sampler(samples, recipe, monkeypatch)
    if not count:
        with pytest.raises(
            NoSignalError, match="0 of 2 groups have unequal rewards after 6 prompts"
        ):
            drawn.next_batch()
        assert drawn.state_dict() == {"cursor": 0, "rounds": 0, "queue": None}  # nothing is lost
        return
    batch = drawn.next_batch()
    (group,) = batch.groups
    assert group.sample == asked[3]
    # Two questions, two more, then the one that was missing until six had been asked.
    assert (batch.rounds, batch.sampled, len(batch.seen)) == (4, 6 * 3, 6)


def test_each_photo_is_embedded_once_and_each_group_is_one_decoder_call(samples, monkeypatch):
    embedded = watch(monkeypatch, Segmenter, "embed_image")
    predicted = watch(monkeypatch, Segmenter, "predict")
    drawn = sampler(samples, SAM_R1, monkeypatch)
    batch = drawn.next_batch()
    photos = {group.sample.image for group in batch.groups}
    assert (len(embedded), len(predicted)) == (len(photos), 2)
    for group in batch.groups:
        embedding = drawn.features.embedding(group.sample.image)
        for one in group.evidence:
            references = to_original(one.answer, group.sample, SIDE)
            alone = drawn.features.segmenter.predict(embedding, references)
            assert_same_masks(alone, one.masks())
    assert len(embedded) == len(photos)
    assert {"thinking_format", "labelled_format", "mask_tiers"} == set(group.points[0])


def test_labelled_points_are_read_for_a_recipe_that_has_them(samples, monkeypatch):
    item = '{"bbox_2d": [10, 10, 60, 60], "points": [[20, 20, 1], [12, 12, 0]]}'
    texts = (f"<think>It is the rice.</think>\n<answer>[{item}]</answer>",)
    for recipe, points in ((SAM_R1, [((12, 12, 0),)]), (GRPO, [])):
        (first, *_) = sampler(samples, recipe, monkeypatch, texts).next_batch().groups
        assert [one.more for one in first.evidence[0].answer.objects] == points


def test_every_round_of_every_seed_draws_its_own_numbers():
    assert len({round_seed(seed, index) for seed in range(8) for index in range(50)}) == 400


def test_without_a_term_that_asks_for_masks_no_segmenter_is_loaded(samples, monkeypatch):
    def load(preset):
        raise AssertionError("loaded")

    monkeypatch.setattr(photos, "load_segmenter", load)
    sampler(samples, GRPO, monkeypatch).next_batch()
    with pytest.raises(AssertionError, match="loaded"):
        sampler(samples, SAM_R1, monkeypatch).next_batch()


def test_a_steps_ranks_come_from_one_snapshot_and_enter_at_its_end(samples, monkeypatch):
    recipe = replace(DR_SEG_RANKED, dynamic_sampling=True)
    drawn = sampler(samples, recipe, monkeypatch)
    batch = drawn.next_batch()
    expected = RankQueue()
    for group in batch.seen:
        ranks = expected.award(group.evidence)
        assert [points["ranked"] for points in group.points] == ranks
        paper = [award(recipe.reward, one) for one in group.evidence]
        assert group.rewards == [total(p) + r for p, r in zip(paper, ranks, strict=True)]
    rows = len(expected.rows) + 3 * len(batch.seen)
    assert len(drawn.queue.rows) == rows and len(drawn.queue.waiting) == 0


def test_the_sampler_goes_on_from_its_state(samples, monkeypatch):
    first = sampler(samples, DR_SEG_RANKED, monkeypatch)
    first.next_batch()
    state = first.state_dict()
    again = sampler(samples, DR_SEG_RANKED, monkeypatch)
    fresh = again.next_batch()
    again.load_state_dict(state)
    assert (again.cursor, again.rounds) == (2, 1)
    expected, got = first.next_batch(), again.next_batch()
    assert [g.sample for g in got.groups] == [g.sample for g in expected.groups]
    assert [g.points for g in got.groups] == [g.points for g in expected.groups]
    assert [g.points for g in got.groups] != [g.points for g in fresh.groups]


def test_braces_of_a_template_reach_the_model_single(samples):
    mllm = load_kitchen(torch.float32)
    plain = roll_out(mllm, replace(PRESET, max_new_tokens=1), samples[:1], 1, 0.0)
    mllm.template += " Look {{again}}."
    longer = roll_out(mllm, replace(PRESET, max_new_tokens=1), samples[:1], 1, 0.0)
    worded = [mllm.tokenizer.decode(rollout.prompt.input_ids) for (rollout,) in (plain, longer)]
    assert "Look {again}." in worded[1] and "again" not in worded[0]
