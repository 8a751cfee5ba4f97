"""The kitchen SAM2: its shipped weights do their work, and its training can be repeated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import assert_near, watch

from foodseg.kitchen.pretraining import segmenter as kitchen
from foodseg.kitchen.pretraining.segmenter import Plan
from foodseg.kitchen.pretraining.segmenter_check import validate
from foodseg.kitchen.pretraining.segmenter_scenes import (
    CLASSES,
    Scenes,
    class_shares,
    draw_food_scenes,
    draw_shape_scenes,
    flip,
    jitter,
)
from foodseg.kitchen.pretraining.segmenter_teaching import TrainingHeads, decoder_cells, settle
from foodseg.models.sam2 import build_sam2, encode_pixels
from foodseg.models.sam2_checkpoints import KITCHEN_SAM2
from foodseg.models.segmenter import normalise
from foodseg.presets import KITCHEN
from foodseg.system import load_segmenter

UNSEEN_SEEDS = 21_000_000  # neither trained nor chosen on


SIDE = KITCHEN_SAM2.image_size


@pytest.fixture(scope="module")
def plates() -> Scenes:
    return draw_food_scenes(UNSEEN_SEEDS + 1000, 4, SIDE, 1)


@pytest.fixture(scope="module")
def shapes() -> Scenes:
    return draw_shape_scenes(UNSEEN_SEEDS + 1000, 4, SIDE, 1)


def test_the_shipped_weights_are_small_and_follow_their_prompts():
    assert 1e6 < sum(p.numel() for p in build_sam2(KITCHEN_SAM2).parameters()) < 2e6
    assert Path(KITCHEN.segmenter).stat().st_size < 4.1e6
    made = json.loads(Path(KITCHEN.segmenter).with_name("provenance.json").read_text())
    measured = made["validation"]["mean_iou_by_reference"]
    assert measured["true"] >= 0.85  # docs/kitchen.md's condition
    ious = validate(load_segmenter(KITCHEN), UNSEEN_SEEDS, 12)
    # Provenance has 100 plates; on these 12, some 40 foods, a mean strays by 0.02 or so.
    assert ious["true"] == pytest.approx(measured["true"], abs=0.06)
    assert ious["wide box, point in its corner"] < ious["true"] - 0.15


@pytest.mark.parametrize("drawn", ["plates", "shapes"])
def test_flipped_references_belong_to_flipped_things_and_shares_count_pixels(drawn, request):
    scenes, seen = request.getfixturevalue(drawn), set()
    for seed in range(12):
        flipped = flip(scenes, torch.Generator().manual_seed(seed))
        seen.add(tuple(flipped.corners[0].flatten().tolist()))
        for scene, kind, (start, end, point) in zip(
            flipped.scene, flipped.kind, flipped.corners, strict=True
        ):
            ys, xs = (flipped.classes[scene] == kind).nonzero().unbind(1)
            box = torch.stack([xs.min(), ys.min(), xs.max(), ys.max()])
            # The box was taken at the plate's own size: up to two pixels apart.
            assert (torch.cat([start, end]) - box).abs().max() <= 2
            x, y = point.round().long().tolist()
            assert flipped.classes[scene, y, x] == kind
    assert len(seen) > 4
    shares = class_shares(scenes.classes)
    assert shares.shape == (4, CLASSES, 48, 48)
    one_hot = torch.nn.functional.one_hot(scenes.classes.long(), CLASSES).permute(0, 3, 1, 2)
    assert torch.equal(shares, torch.nn.functional.avg_pool2d(one_hot.float(), 4))  # sixteenths


def test_a_batch_asks_for_shapes_only_and_shows_plates_too(plates, shapes):
    batch = shapes.draw(3, torch.Generator().manual_seed(0)).followed_by(plates)
    foods, others = set(plates.kind.tolist()), set(shapes.kind.tolist())
    assert foods.isdisjoint(others) and others.issuperset(batch.kind.tolist())
    assert batch.images.shape == (7, 3, SIDE, SIDE)
    assert set(batch.scene.tolist()) == {0, 1, 2}  # and no plate, which are the scenes 3 to 6
    for scene, kind in zip(batch.scene, batch.kind, strict=True):
        assert (batch.classes[scene] == kind).any()
    assert foods.issuperset(set(batch.classes[3:].unique().tolist()) - {0})


def test_jitter_keeps_boxes_in_order_and_in_the_image(plates):
    generator = torch.Generator().manual_seed(0)
    corners = plates.corners.repeat(50, 1, 1)
    assert torch.equal(jitter(corners, 0.0, SIDE, generator), corners)
    moved = jitter(corners, 1.0, SIDE, generator)
    assert (moved[:, 0] <= moved[:, 1]).all()
    assert moved.min() >= 0 and moved.max() <= SIDE - 1
    assert 2 < (moved - corners).abs().mean() < 8


def test_settling_scales_features_and_changes_no_dense_prediction(plates):
    torch.manual_seed(0)
    model, heads = build_sam2(KITCHEN_SAM2), TrainingHeads(KITCHEN_SAM2.neck_dim)
    pixels = normalise(plates.images.float() / 255)
    with torch.no_grad():
        before = heads.cells(decoder_cells(*encode_pixels(model, pixels)))
        settle(model, heads, plates.images)
        features, levels = encode_pixels(model, pixels)
        assert_near(heads.cells(decoder_cells(features, levels)), before, roundings=200)
    assert features.std().item() == pytest.approx(0.5, rel=1e-3)


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, monkeypatch):
    plan = replace(
        Plan(), plates=3, shapes=3, batch_plates=1, batch_shapes=2, dense_steps=2, prompt_steps=2
    )
    whole = kitchen.train_kitchen_segmenter(tmp_path / "whole", plan).state_dict()
    calls = watch(monkeypatch, kitchen, "training_loss", 4)
    monkeypatch.setattr(kitchen, "CHECKPOINT_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        kitchen.train_kitchen_segmenter(tmp_path / "parts", plan)
    parts = kitchen.train_kitchen_segmenter(tmp_path / "parts", plan).state_dict()
    assert len(calls) == 5
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_affinity_is_low_where_codes_tell_things_apart_and_only_there(shapes):
    """Codes that are each cell's class, then codes that are all alike."""
    heads, classes = TrainingHeads(KITCHEN_SAM2.neck_dim), shapes.classes
    shares = class_shares(classes)
    cells = torch.zeros(len(classes), heads.codes.in_channels, *shares.shape[2:])
    middle = classes[:, None, 2::4, 2::4].float()
    cells[:, :1] = middle
    with torch.no_grad():
        heads.codes.weight.fill_(1.0)
        heads.codes.bias.zero_()  # codes are whole numbers, so that no distance is rounded
        apart, alike = (
            heads.affinity_loss(given, classes, torch.Generator().manual_seed(0)).item()
            for given in (cells, torch.zeros_like(cells))
        )
    # At distance 0 the logit is 2: same cells are near enough right, others never wrong.
    same, other = (torch.nn.functional.softplus(torch.tensor(x)).item() for x in (-2.0, 2.0))
    assert apart == pytest.approx(same / 2, rel=1e-3)
    assert alike == pytest.approx((same + other) / 2, rel=1e-4)
