"""GRTO's tool: the decoder learns what it should, nothing else does, the policy is untouched."""

import io
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_gradients, load_kitchen, watch
from PIL import Image
from safetensors.torch import load_file, save_file

from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, read_lines
from foodseg.data.references import decode_mask, scale_reference
from foodseg.evaluation.evaluate import evaluate
from foodseg.methods.grto import (
    ToolTraining,
    alike,
    by_reward,
    cell_iou,
    matched_references,
    post_trained,
)
from foodseg.models.sam2 import decode_prompts
from foodseg.models.segmenter import DECODER, load_decoder, save_decoder, scale_prompts
from foodseg.presets import SMOKE
from foodseg.recipes import B_GRTO, GRPO, GRPO_MASK
from foodseg.rl.evidence import gather_evidence, to_original
from foodseg.rl.rewards import match_answer
from foodseg.system import load_policy, load_segmenter
from foodseg.training import mask_decoder as tool
from foodseg.training.mask_decoder import OffPolicyStage, ToolUpdater
from foodseg.training.photos import PhotoFeatures
from foodseg.training.sampler import GroupSampler
from foodseg.training.trainer import TOOL_LOG, train

SIDE = SMOKE.image_side
PRESET = replace(SMOKE, prompts_per_step=2, max_new_tokens=160)


def make_updater(training=ToolTraining()):  # noqa: B008
    """An updater of the shipped SAM2 that notes the photos it asks for in `updater.asked`."""
    features, asked = PhotoFeatures(None, SMOKE, load_segmenter(SMOKE)), []
    embedding = features.embedding
    features.embedding = lambda image: asked.append(image) or embedding(image)
    updater = ToolUpdater(features, training)
    updater.asked = asked
    return updater


def shifted(sample, shift):
    """The sample's true references in model pixels, moved, as an answer's items."""
    true = [scale_reference(r, sample.size, (SIDE, SIDE)) for r in sample.references]
    return [
        {"bbox_2d": [v + shift for v in r.box], "point_2d": [v + shift for v in r.point]}
        for r in true
    ]


def group_of(sample, *answers):
    texts = [f"<think>So.</think><answer>{json.dumps(items)}</answer>" for items in answers]
    evidence = gather_evidence(sample, texts, SIDE, segment=None)
    return SimpleNamespace(evidence=evidence, rewards=[one.score.total for one in evidence])


def plain_groups(samples):
    """Exact, shifted and repeated answers about three questions, and one that does not parse."""
    return [
        group_of(s, shifted(s, 0), shifted(s, 2), shifted(s, 2), shifted(s, -3), "nothing")
        for s in samples[:3]
    ]


def weights(updater):
    return {n: w.clone() for n, w in updater.segmenter.model.state_dict().items()}


def gradients(updater):
    return {n: p.grad for n, p in updater.decoder.named_parameters() if p.grad is not None}


def plain_loss(segmenter, groups, training):
    """The loss as the module's text says it, one reference after another."""
    losses, shares = [], []
    for group in groups:
        for evidence, weight in zip(group.evidence, training.weights(group.rewards), strict=True):
            sample, side = evidence.sample, segmenter.config.image_size
            photo = np.asarray(Image.open(SMOKE.dataset / sample.image))
            embedding = segmenter.embed_image(photo)
            matching = match_answer(evidence.answer, evidence.references, evidence.thresholds)
            predicted = to_original(evidence.answer, sample, SIDE)
            for row, column in matching.pairs:
                corners = scale_prompts([predicted[row]], sample.size, side)
                masks, ious, _ = decode_prompts(
                    segmenter.model, embedding.features, embedding.high_resolution, corners
                )
                chance = masks[0, ious[0].argmax()].sigmoid()
                truth = torch.tensor(decode_mask(sample.masks[column])).float()
                truth = F.interpolate(truth[None, None], chance.shape, mode="area")[0, 0]
                dice = 1 - (2 * (chance * truth).sum() + 1) / (chance.sum() + truth.sum() + 1)
                bce = -(truth * chance.log() + (1 - truth) * (1 - chance).log()).mean()
                losses.append(training.bce_weight * bce + training.dice_weight * dice)
                shares.append(weight)
    shares = torch.tensor(shares, dtype=torch.float32)
    return torch.stack(losses) @ shares / shares.sum()


@pytest.mark.parametrize("weights_of", [alike, by_reward, partial(post_trained, temperature=2.0)])
def test_gradients_are_those_of_the_plain_loss(samples, monkeypatch, weights_of):
    monkeypatch.setattr(tool, "PROMPTS_PER_CALL", 2)
    training = ToolTraining(bce_weight=3.0, dice_weight=0.7, weights=weights_of)
    ours, plain, groups = make_updater(training), make_updater(training), plain_groups(samples)
    lessons = [lesson for group in groups for lesson in ours.lessons(group, weights_of)]
    total = sum(lesson.weights.sum().item() for lesson in lessons)
    asked = []
    ours.decoder.iou_prediction_head.register_forward_hook(lambda *call: asked.append(len(call[2])))
    loss, _ = ours.gradients(lessons, total)
    assert max(asked) == 2 and sum(asked) < sum(lesson.written for lesson in lessons)
    expected = plain_loss(plain.segmenter, groups, training)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = gradients(plain)
    assert gradients(ours).keys() == theirs.keys()
    assert_same_gradients(gradients(ours).values(), theirs.values(), relative=1e-3)


def test_weights_of_completions_by_hand():
    assert alike([0.0, 7.0]).tolist() == [1, 1]
    assert by_reward([1.0, 4.0, 7.0]) == pytest.approx([0.25, 1, 1.75])
    assert by_reward([0.0, 0.0]).tolist() == [1, 1]
    e = np.e
    assert post_trained([5.0, 6.0], temperature=1.0) == pytest.approx(
        [2 / (1 + e), 2 * e / (1 + e)]
    )
    assert post_trained([0.0, 7000.0], temperature=1.0).tolist() == [0, 2]


def test_iou_in_cells_by_hand():
    logits = torch.tensor([[[1.0, 1, -1, -1]]])
    assert cell_iou(logits, torch.tensor([[[1, 0.5, 0.6, 0]]])).item() == pytest.approx(1 / 3)
    assert cell_iou(-logits.abs(), torch.full_like(logits, 0.5)).tolist() == [1]  # both are empty


def test_an_answer_that_is_paid_and_cannot_be_segmented_teaches_nothing(samples):
    """The parent counts `true` as a number: its box is right, and SAM2 gets none of it."""
    (item, *_) = shifted(samples[0], 0)
    group = group_of(samples[0], [item | {"point_2d": [True, 5]}])
    assert group.rewards[0] > 4 and not group.evidence[0].answer.objects
    assert matched_references(group, [1.0]) == {}


def test_only_matched_references_teach_and_equal_ones_are_counted(samples):
    sample = max(samples, key=lambda s: len(s.references))
    count = len(sample.references)
    far = [{"bbox_2d": [0, 0, 1, 1], "point_2d": [100, 0]}]
    twice = shifted(sample, 0) * 2
    group = group_of(sample, shifted(sample, 0), shifted(sample, 1), twice, far, "no list", [])
    counted = {key: len(ones) for key, ones in matched_references(group, [1.0] * 6).items()}
    exact = to_original(group.evidence[0].answer, sample, SIDE)
    moved = to_original(group.evidence[1].answer, sample, SIDE)
    # The first and third completion write the exact ones; the surplus of the third is left out.
    expected = {(r, i): 2 for i, r in enumerate(exact)} | {(r, i): 1 for i, r in enumerate(moved)}
    assert count > 1 and counted == expected
    updater = make_updater()
    [lesson] = updater.lessons(group, alike)
    assert lesson.weights.sum() == lesson.written == 3 * count
    assert lesson.corners.shape == (2 * count, 3, 2)
    assert lesson.target_coverage.shape == (count, 48, 48)
    assert lesson.image == sample.image
    embedding = updater.features.embedding(lesson.image)
    tensors = (lesson.corners, lesson.target_coverage, lesson.weights, embedding.features)
    assert not any(tensor.requires_grad for tensor in (*tensors, *embedding.high_resolution))
    nothing, before = group_of(sample, far, "no list"), weights(updater)
    assert updater.lessons(nothing, alike) == [] and len(updater.asked) == 1
    row = updater.update([nothing])
    assert row.pop("seconds_tool") >= 0
    assert row["tool_loss"] is row["tool_iou"] is None
    assert row["tool_references"] == row["tool_skipped"] == 0
    assert all(torch.equal(w, before[n]) for n, w in weights(updater).items())


def test_steps_lower_the_loss_and_leave_all_but_the_decoder_alone(samples):
    updater, groups = make_updater(), plain_groups(samples)
    before, embedding = weights(updater), updater.features.embedding(samples[0].image)
    rows = [updater.update(groups) for _ in range(4)]
    assert rows[-1]["tool_loss"] < rows[0]["tool_loss"]
    assert 0.5 < rows[0]["tool_iou"] <= 1 and rows[0]["tool_references"] >= 12
    changed = {n for n, w in updater.segmenter.model.state_dict().items() if (w != before[n]).any()}
    frozen = ("conv_s0", "conv_s1", "iou_prediction_head")
    assert {n.split(".")[0] for n in changed} == {"sam_mask_decoder"}
    assert not {n for n in changed if n.split(".")[1] in frozen}
    assert any("transformer" in n for n in changed)
    updater.features.clear()
    after = updater.features.embedding(samples[0].image)
    assert torch.equal(embedding.features, after.features)
    assert all(map(torch.equal, embedding.high_resolution, after.high_resolution))


RUN = replace(SMOKE, steps=4, checkpoint_every=2, prompts_per_step=2, max_new_tokens=160)
FAST = ToolTraining(learning_rate=3e-3, off_policy_steps=2, off_policy_rounds=1)
SHORT = replace(B_GRTO, tool=FAST)


def files(recipe):
    """The adapter of a finished run and its decoder, as bytes."""
    adapter = RUN.run_folder(recipe.name, 0) / "adapter"
    return [path.read_bytes() for path in sorted(adapter.glob("*.safetensors"))]


def test_the_policy_is_paid_for_the_tools_masks_and_a_run_keeps_its_bits_when_interrupted(
    samples, monkeypatch, knowing
):
    preset = replace(RUN, mllm=knowing)
    train(preset, GRPO_MASK, 0, samples)
    train(preset, SHORT, 0, samples)
    run = RUN.run_folder("b-grto", 0)
    [policy], whole, rows = files(GRPO_MASK), files(SHORT), read_lines(run / "log.jsonl")
    # The tool of stage 1 makes other masks: the same completions earn otherwise in step 1.
    frozen = read_lines(RUN.run_folder(GRPO_MASK.name, 0) / "log.jsonl")
    assert rows[0]["completion"] == frozen[0]["completion"]
    assert rows[0]["points_mask_tiers"] != frozen[0]["points_mask_tiers"]
    assert whole[0] != policy and len(whole) == 2
    assert all(row["tool_references"] for row in rows)
    assert {"tool_loss", "tool_iou", "tool_references", "seconds_tool"} <= rows[0].keys()
    assert all(row["seconds_tool"] > 0 for row in rows)
    assert [row["step"] for row in read_lines(run / TOOL_LOG)] == [1, 2]
    assert not (RUN.run_folder(GRPO_MASK.name, 0) / TOOL_LOG).exists()
    trained = load_file(run / "adapter" / DECODER)
    base = load_segmenter(RUN).model.sam_mask_decoder.state_dict()
    assert any((w != base[n]).any() for n, w in trained.items())
    run.rename(run.with_name("uninterrupted"))

    update = ToolUpdater.update

    def after_the_policys(updater, groups):
        assert all(p.grad is None for p in updater.optimizer.parameters)
        return update(updater, groups)

    # In stage 1, in step 2 and, after the checkpoint, in step 3. Stage 1 is not made again.
    calls = watch(monkeypatch, ToolUpdater, "step", 2, 6, 9)
    monkeypatch.setattr(ToolUpdater, "update", after_the_policys)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(preset, SHORT, 0, samples)
    train(preset, SHORT, 0, samples)
    assert len(calls) == 10
    assert files(SHORT) == whole
    assert [r["tool_loss"] for r in read_lines(run / "log.jsonl")] == [r["tool_loss"] for r in rows]


def test_a_saved_decoder_is_put_over_the_base_for_evaluation_and_no_other(samples, tmp_path):
    updater, path = make_updater(ToolTraining(learning_rate=1e-3)), tmp_path / "decoder.safetensors"
    updater.update(plain_groups(samples))
    save_decoder(updater.segmenter, path)
    assert load_file(path).keys() == updater.decoder.state_dict().keys()
    loaded = load_segmenter(SMOKE, path)
    expected = weights(updater)
    assert all(torch.equal(w, expected[n]) for n, w in loaded.model.state_dict().items())
    base = load_segmenter(SMOKE).model.state_dict()
    assert any((w != base[n]).any() for n, w in expected.items())
    assert not any(p.requires_grad for p in loaded.model.parameters())
    [hashed] = {loaded.decoder_hash, file_hash(path)}
    result = evaluate(SMOKE, "grto", samples[:2], load_kitchen(torch.float32), loaded)
    assert result["decoder"] == hashed
    with pytest.raises(DataError, match=r"none\.safetensors"):
        load_decoder(loaded, tmp_path / "none.safetensors")
    save_file({"iou_token.weight": torch.ones(1, 96)}, tmp_path / "part.safetensors")
    with pytest.raises(DataError, match="lacks weight"):
        load_decoder(loaded, tmp_path / "part.safetensors")


def test_off_policy_training_asks_the_base_and_leaves_the_sampler_alone(
    samples, monkeypatch, knowing
):
    training = ToolTraining(off_policy_steps=3, off_policy_rounds=2)
    rolled_out, runs = [], []
    next_batch = GroupSampler.next_batch
    monkeypatch.setattr(
        GroupSampler, "next_batch", lambda s: rolled_out.append(s.seed) or next_batch(s)
    )
    for noise in (0.0, 0.3):  # an adapter must make no difference
        mllm = load_policy(replace(PRESET, mllm=knowing))
        mllm.add_lora(rank=4, alpha=8, seed=0)
        sampler = GroupSampler(mllm, PRESET, GRPO, samples, seed=0)
        for parameter in mllm.lora_parameters():
            parameter.data += noise
        updater = make_updater(training)
        rows = off_policy(updater, sampler)
        assert (sampler.cursor, sampler.rounds) == (0, 0) and len(rolled_out) == 2
        assert sampler.seed not in rolled_out
        assert [row["step"] for row in rows] == [1, 2, 3]
        assert all(row["tool_references"] > 0 for row in rows)
        runs.append(([row["tool_loss"] for row in rows], weights(updater)))
        rolled_out.clear()
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(w, runs[1][1][n]) for n, w in runs[0][1].items())
    assert rows[2]["tool_references"] == rows[0]["tool_references"]  # round 1 once more
    assert off_policy(make_updater(), sampler) == []


def off_policy(updater, sampler):
    """The rows of a whole stage 1."""
    stage = OffPolicyStage(updater, sampler)
    while not stage.ended:
        stage.step()
    return stage.rows


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_an_interrupted_stage_1_goes_on_with_the_same_bits(samples, knowing, taken, monkeypatch):
    training = ToolTraining(learning_rate=3e-3, off_policy_steps=4, off_policy_rounds=2)
    mllm = load_policy(replace(PRESET, mllm=knowing))
    mllm.add_lora(rank=4, alpha=8, seed=0)
    sampler, whole = GroupSampler(mllm, PRESET, GRPO, samples, seed=0), make_updater(training)
    rows = off_policy(whole, sampler)
    first = make_updater(training)
    stage = OffPolicyStage(first, sampler)
    for _ in range(taken):
        stage.step()
    # As a checkpoint holds it.
    buffer = io.BytesIO()
    torch.save({"tool": first.state_dict(), "stage": stage.state_dict()}, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    second = make_updater(training)
    second.load_state_dict(state["tool"])
    stage = OffPolicyStage(second, sampler)
    stage.load_state_dict(state["stage"])
    batches = watch(monkeypatch, GroupSampler, "next_batch")
    while not stage.ended:
        stage.step()
    assert len(batches) == max(0, 2 - taken)  # no round is sampled twice
    assert [row["tool_loss"] for row in stage.rows] == [row["tool_loss"] for row in rows]
    assert all(torch.equal(w, weights(whole)[n]) for n, w in weights(second).items())
    assert stage.state_dict()["buffer"] == []
