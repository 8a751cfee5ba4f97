"""Supervised baselines: what is learnt, by what loss, and how far a kill can set it back."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import assert_same_gradients, randomise_adapter, watch
from PIL import Image
from torch.nn import functional

from foodseg import presets
from foodseg.common.errors import DataError
from foodseg.common.files import read_lines, read_sealed
from foodseg.evaluation.evaluate import to_original
from foodseg.models.mask_loss import mask_losses
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import gather_evidence
from foodseg.supervised import own_answers, training
from foodseg.supervised.batches import target_rollouts
from foodseg.supervised.mask_head import FROZEN
from foodseg.supervised.targets import (
    FOODLMM,
    LISA,
    SFT,
    SFT_OWN,
    seg_token_id,
    to_text,
    to_tokens,
)
from foodseg.supervised.training import start, train_baseline
from foodseg.system import load_policy
from foodseg.training.sampler import GroupSampler, draw_samples

PRESET = replace(
    presets.SMOKE,
    steps=3,
    checkpoint_every=2,
    prompts_per_step=2,
    groups_per_update=1,
    group_size=2,
    warmup_steps=1,
)


def several(samples, count):
    """Samples of different photos, the first with several references."""
    first = next(sample for sample in samples if len(sample.references) > 1)
    return [first, *(s for s in samples if s.image != first.image)][:count]


def tensors(updater):
    """Every tensor of the three models, by name."""
    found = {f"mllm.{n}": p for n, p in updater.mllm.model.named_parameters()}
    if updater.head:
        segmenter = updater.head.segmenter.model
        found |= {f"sam2.{n}": p for n, p in segmenter.named_parameters()}
        found |= {f"mlp.{n}": p for n, p in updater.head.mlp.named_parameters()}
    return found


@pytest.mark.parametrize("baseline", [SFT, FOODLMM])
def test_lora_mlp_and_decoder_learn_and_nothing_else(samples, baseline):
    updater = start(PRESET, baseline, 0)
    before = {name: p.detach().clone() for name, p in tensors(updater).items()}
    for _ in range(2):  # in the first step B is 0, so A has no gradient
        updater.gradient_step(several(samples, 4))
    changed = {n for n, p in tensors(updater).items() if not torch.equal(p, before[n])}
    lora = {name for name in before if "lora_" in name}
    decoder = "sam2.sam_mask_decoder."
    learning = {n for n in before if n.startswith(("mlp.", decoder)) and "conv_s" not in n}
    idle = ("iou_prediction_head", "pred_obj_score_head", *(f"mlps.{i}." for i in (1, 2, 3)))
    learning = {n for n in learning if not any(part in n for part in idle)} | lora
    assert lora and (baseline is SFT or decoder + "mask_tokens.weight" in learning)
    assert changed == learning
    assert not any(n.startswith(tuple(decoder + f for f in FROZEN)) for n in changed)


def test_every_loss_falls_on_what_is_learnt(samples):
    updater = start(replace(PRESET, steps=8), LISA, 0)
    rows = [updater.gradient_step(samples[:2]) for _ in range(8)]
    for name in ("loss", "cross_entropy", "bce", "dice"):
        assert rows[-1][name] < 0.9 * rows[0][name]


def plain_states(mllm, rollout):
    """(L, D): the states that predict a completion's tokens, from a forward of its own."""
    prompt, tokens = rollout.prompt, rollout.tokens[0]
    steps = torch.arange(len(tokens)) + prompt.next_position
    hidden = mllm.language_model(
        inputs_embeds=torch.cat([prompt.embeddings, mllm.embed_tokens(tokens)])[None],
        position_ids=torch.cat([prompt.position_ids, steps.expand(3, -1)], 1)[:, None],
        use_cache=False,
    ).last_hidden_state[0]
    return hidden[prompt.length - 1 : -1]


def test_the_gradient_is_that_of_the_loss_written_out(samples):
    chosen = several(samples, 3)
    updater = start(PRESET, FOODLMM, 0)
    mllm, head = updater.mllm, updater.head
    randomise_adapter(mllm)
    rollouts = target_rollouts(updater.photos, FOODLMM, chosen)
    words, bce, dice = [], [], []
    for sample, rollout in zip(chosen, rollouts, strict=True):
        states, [tokens] = plain_states(mllm, rollout), rollout.tokens
        logits = states @ mllm.model.lm_head.weight.T
        logits[:, mllm.banned_token_ids] = float("-inf")
        words.append(functional.cross_entropy(logits, tokens, reduction="none"))
        photo = Image.open(PRESET.dataset / sample.image).convert("RGB")
        embedding = head.segmenter.embed_image(photo)
        marked = states[tokens == seg_token_id(mllm)]
        assert len(marked) == len(sample.references)
        masks = torch.stack([torch.from_numpy(m).float() for m in FOODLMM.masks(sample)])
        chance = head(embedding, marked).sigmoid()
        bce += list(functional.binary_cross_entropy(chance, masks, reduction="none").mean((1, 2)))
        overlap, total = (chance * masks).sum((1, 2)), (chance + masks).sum((1, 2))
        dice += list(1 - 2 * overlap / total)
    parts = [torch.cat(words).mean(), torch.stack(bce).mean(), torch.stack(dice).mean()]
    loss = parts[0] + 2 * parts[1] + 0.5 * parts[2]
    expected = torch.autograd.grad(loss, updater.optimizer.parameters, allow_unused=True)

    row = updater.gradients(chosen)
    names = ("loss", "cross_entropy", "bce", "dice")
    written_out = {n: x.item() for n, x in zip(names, (loss, *parts), strict=True)}
    assert row == pytest.approx(written_out, rel=1e-4)
    learnt = [parameter.grad for parameter in updater.optimizer.parameters]
    assert [g is None for g in learnt] == [g is None for g in expected]
    learnt, expected = ([g for g in some if g is not None] for some in (learnt, expected))
    assert_same_gradients(learnt, expected, relative=1e-3)


def test_targets_say_what_the_sample_says(samples):
    mllm = start(PRESET, LISA, 0).mllm
    for sample in samples:
        texts = [b.write(sample, PRESET.image_side) for b in (SFT, LISA, FOODLMM)]
        assert [to_text(mllm, to_tokens(mllm, text)) for text in texts] == texts
        counts = [int((to_tokens(mllm, t) == seg_token_id(mllm)).sum()) for t in texts]
        assert counts == [0, len(LISA.masks(sample)), len(FOODLMM.masks(sample))]
        assert counts[1:] == [1, len(sample.references)]
        union = np.logical_or.reduce(FOODLMM.masks(sample))
        assert (union == LISA.masks(sample)[0]).all() and union.any()
        answer = parse_answer(texts[0])
        assert answer.thinking == sample.answer
        far = [
            np.abs(np.subtract([*a.box, *a.point], [*b.box, *b.point])).max()
            for a, b in zip(
                to_original(answer, sample, PRESET.image_side), sample.references, strict=True
            )
        ]
        # There and back through the smaller model image: see `scale_reference`.
        assert max(far) <= max(sample.size) / PRESET.image_side
        assert max(len(to_tokens(mllm, text)) for text in texts) <= PRESET.max_new_tokens


def test_samples_come_in_epochs(samples):
    count = len(samples)
    first = draw_samples(samples, 0, 0, count)
    assert sorted(s.sample_id for s in first) == sorted(s.sample_id for s in samples)
    both = draw_samples(samples, 0, 0, 2 * count)
    assert both[:count] == first and both[count:] != first
    assert draw_samples(samples, 0, count - 2, 5) == both[count - 2 : count + 3]
    assert draw_samples(samples, 1, 0, count) != first


def files(run):
    return [path.read_bytes() for path in sorted((run / "adapter").glob("*.safetensors"))]


@pytest.mark.parametrize("baseline", [SFT, LISA])
def test_a_run_stopped_anywhere_ends_with_the_same_bits(samples, monkeypatch, baseline):
    result = train_baseline(PRESET, baseline, 1, samples)
    run = PRESET.run_folder(baseline.name, 1)
    uninterrupted, rows = files(run), read_lines(run / "log.jsonl")
    assert len(uninterrupted) == (1 if baseline is SFT else 2)
    run.rename(run.with_name("uninterrupted"))

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "finish", stop)
        train_baseline(PRESET, baseline, 1, samples)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')  # as a kill in the middle of a write leaves it
    kept = (run / "log.jsonl").read_text().splitlines()[:2]
    again = train_baseline(PRESET, baseline, 1, samples)
    assert files(run) == uninterrupted and again["adapter"] == result["adapter"]
    assert (run / "log.jsonl").read_text().splitlines()[:2] == kept
    assert [r["loss"] for r in read_lines(run / "log.jsonl")] == [r["loss"] for r in rows]
    assert [row["step"] for row in rows] == [1, 2, 3]
    # Finished, it is kept; with other settings it is moved aside.
    assert train_baseline(PRESET, baseline, 1, samples) == again
    train_baseline(replace(PRESET, steps=1), baseline, 1, samples)
    assert len(list(run.parent.glob(f"{run.name}.before-*"))) == 1


def test_the_budget_is_that_of_the_completions_that_rl_learns_from(samples, monkeypatch):
    seen = []

    def look(updater, batch):
        seen.append(len(batch))
        return {"loss": 0.0}

    monkeypatch.setattr(training.SupervisedUpdater, "gradient_step", look)
    train_baseline(PRESET, SFT, 0, samples)
    completions = PRESET.groups_per_update * PRESET.group_size
    assert seen == [completions] * PRESET.steps * PRESET.updates_per_step


def test_data_without_answers_teaches_no_empty_thought(samples):
    silent = [replace(sample, answer=" ") for sample in samples[:3]]
    with pytest.raises(DataError, match=f"3 of {len(samples)} have no answer, and sft would learn"):
        train_baseline(PRESET, SFT, 7, [*silent, *samples[3:]])
    assert not PRESET.run_folder("sft", 7).exists()


def test_own_right_answers_are_kept_taught_and_sampled_once(samples, monkeypatch, knowing):
    preset = replace(PRESET, mllm=knowing, group_size=4, max_new_tokens=160)  # it is often right
    result = train_baseline(preset, SFT_OWN, 0, samples)
    run = preset.run_folder(SFT_OWN.name, 0)
    known = json.loads(bytes(read_sealed(run / own_answers.FILE, "")))
    rows = known["right"]
    assert known["sampler"]["rounds"] == preset.steps
    assert 0 < len(rows) < result["sampled"] == 3 * 2 * 4
    by_id = {sample.sample_id: sample for sample in samples}
    for row in rows:
        sample = by_id[row["sample_id"]]
        [evidence] = gather_evidence(
            sample, [row["completion"]], preset.image_side, thresholds=preset.thresholds
        )
        assert evidence.score.format == 3 and evidence.score.iou == 1
    taught = own_answers.own_answers(run, preset, 0, samples, None)  # read back, nothing sampled
    assert [SFT_OWN.write(sample, preset.image_side) for sample in taught] == [
        row["completion"] for row in rows
    ]
    assert result["recipe"]["own"] and len(read_lines(run / "log.jsonl")) == preset.steps
    monkeypatch.setattr(own_answers, "is_right", lambda _: False)
    with pytest.raises(DataError, match="sft-own-seed1: none of the base's completions is right"):
        train_baseline(preset, SFT_OWN, 1, samples)


def test_own_answers_go_on_after_the_last_rollout(samples, monkeypatch, knowing, tmp_path):
    preset = replace(PRESET, mllm=knowing, group_size=4, max_new_tokens=160)
    mllm = load_policy(preset)
    whole = own_answers.own_answers(tmp_path / "whole", preset, 0, samples, mllm)
    batches = watch(monkeypatch, GroupSampler, "next_batch", 3)
    with pytest.raises(KeyboardInterrupt):
        own_answers.own_answers(tmp_path / "again", preset, 0, samples, mllm)
    assert own_answers.own_answers(tmp_path / "again", preset, 0, samples, mllm) == whole
    assert len(batches) == preset.steps + 1  # the one that was interrupted


def test_photo_features_are_those_of_the_encoders_and_kept_while_there_is_room(samples):
    updater, chosen = start(PRESET, LISA, 0), several(samples, 2)
    photos, (first, second) = updater.photos, (s.image for s in chosen)
    photo = Image.open(PRESET.dataset / first).convert("RGB")
    assert torch.equal(photos.visual_tokens(first), updater.mllm.embed_images([photo])[0])
    expected = updater.head.segmenter.embed_image(photo)
    assert torch.equal(photos.embedding(first).features, expected.features)
    assert photos.embedding(first) is photos.embedding(first)
    assert photos.visual_tokens(first) is photos.visual_tokens(first)
    photos.free = 10
    assert photos.visual_tokens(second) is not photos.visual_tokens(second)
    assert torch.equal(photos.visual_tokens(second), photos.visual_tokens(second))
    assert photos.free == 10
    with pytest.raises(DataError, match=second):  # another photo than the sample's
        target_rollouts(photos, LISA, [replace(chosen[1], image_sha256="0" * 64)])
    with pytest.raises(DataError, match=second):
        photos.clear()
        photos.embedding(second, "0" * 64)


def test_losses_of_undecided_and_of_certain_masks_by_hand():
    logits, truth = torch.zeros(3, 1, 2), torch.tensor([[[1.0, 0.0]]]).expand(3, 1, 2)
    bce, dice = mask_losses(logits, truth)
    assert bce.tolist() == pytest.approx([math.log(2)] * 3)
    assert dice.tolist() == pytest.approx([1 - (2 * 0.5 + 1) / (1 + 1 + 1)] * 3)
    _, lisas = mask_losses(logits, truth, smooth=1e-6, scale=1000)
    assert lisas.tolist() == pytest.approx([1 - (1 + 1e-3) / (2 + 1e-3)] * 3)
    # A certain mask loses nothing, and its opposite everything.
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right, wrong = (mask_losses(sign * 40 * (truth - 0.5), truth) for sign in (1, -1))
    assert right[0] < 1e-8 and right[1] == pytest.approx(0, abs=1e-6)
    assert wrong[0] == pytest.approx(20) and wrong[1] == pytest.approx(1 - 1 / 5)
