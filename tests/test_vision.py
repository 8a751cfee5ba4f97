"""The batched vision tower equals transformers' own, and photos are read and embedded once."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_near, watch
from PIL import Image
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

from foodseg import presets, system
from foodseg.common.errors import DataError
from foodseg.evaluation.evaluate import segment
from foodseg.models.fast.vision import cut_patches, embed_patches, encode_patches
from foodseg.models.mllm import Mllm
from foodseg.recipes import GRPO
from foodseg.rl.answers import parse_answer
from foodseg.system import load_segmenter, read_photos, roll_out
from foodseg.training.sampler import GroupSampler

# Windows are 2x2 merged tokens (4x4 patches): these sides leave half and quarter windows.
GRIDS = [(10, 6), (10, 10), (8, 12), (10, 10), (6, 10), (4, 4)]
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def random_tower(dtype=torch.float32):
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=4,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        out_hidden_size=24,
        fullatt_block_indexes=[1, 3],
        window_size=56,
    )
    tower = Qwen2_5_VisionTransformerPretrainedModel(config).eval().requires_grad_(False)
    for parameter in tower.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.2 + (parameter.ndim == 1))
    return tower.to(dtype)


def random_patches(grids):
    count = sum(rows * columns for rows, columns in grids)
    return torch.randn(count, 1176, generator=torch.Generator().manual_seed(1))


def random_photos(count):
    rng = np.random.default_rng(0)
    shapes = [(60 + 20 * i, 90, 3) for i in range(count)]
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def official(tower, patches, grids):
    table = torch.tensor([(1, *grid) for grid in grids])
    with torch.no_grad():
        return tower(patches.to(tower.dtype), table).pooler_output


def assert_close(ours, theirs, truth):
    """Equal but for rounding; in bfloat16, where that is large, about as near to the truth."""
    if theirs.dtype == torch.bfloat16:
        error, their_error = ((x.double() - truth).square().mean().sqrt() for x in (ours, theirs))
        assert 0 < error < 1.5 * their_error < 0.1 * truth.std()
    else:
        assert_near(ours, theirs, roundings=200)


@pytest.mark.parametrize("dtype", DTYPES)
def test_photos_of_all_sizes_get_the_features_of_the_towers_own_forward(dtype):
    tower, patches = random_tower(dtype), random_patches(GRIDS)
    ours = encode_patches(tower, patches, GRIDS)
    assert [len(features) for features in ours] == [15, 25, 24, 25, 15, 4]
    theirs = official(tower, patches, GRIDS)
    truth = official(random_tower().double(), patches, GRIDS)
    assert theirs.dtype == ours[0].dtype == dtype
    assert_close(torch.cat(ours), theirs, truth)


def test_a_photos_features_do_not_depend_on_the_others():
    tower, patches = random_tower(torch.float64), random_patches(GRIDS)
    together = encode_patches(tower, patches, GRIDS)
    start = 0
    for (rows, columns), features in zip(GRIDS, together, strict=True):
        own = patches[start : start + rows * columns]
        start += rows * columns
        alone = encode_patches(tower, own, [(rows, columns)])[0]
        assert_near(features, alone, roundings=200)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_patch_embedding_as_a_product_equals_the_convolution(dtype):
    tower, patches = random_tower(), random_patches([(10, 10)])
    tower.patch_embed.proj.weight.div_(1176**0.5)
    tower = tower.to(dtype)
    ours, theirs = embed_patches(tower, patches), tower.patch_embed(patches)
    assert ours.dtype == dtype
    # Sums of 1176 products; in bfloat16 they are rounded once, at their end.
    assert_near(ours, theirs, roundings=1 if dtype == torch.bfloat16 else 50)


@pytest.mark.parametrize("size", [(168, 168), (84, 140)])
def test_patches_equal_the_official_image_processors(kitchen_mllm, size):
    processor = kitchen_mllm.image_processor
    photos = [photo.resize(size) for photo in random_photos(3)]
    theirs = processor(images=photos, do_resize=False, return_tensors="pt")["pixel_values"]
    ours = cut_patches(photos, processor, torch.device("cpu"))
    assert torch.equal(ours, theirs)  # a division, a subtraction and a division of bytes


def test_a_layer_calls_attention_once_for_each_length(monkeypatch):
    calls = watch(monkeypatch, F, "scaled_dot_product_attention")
    encode_patches(random_tower(), random_patches([(10, 10)] * 3), [(10, 10)] * 3)
    # 5x5 merged tokens: four whole windows, four halves and a quarter in each of three photos.
    lengths = [(queries.shape[0], queries.shape[2]) for queries, *_ in calls]
    assert lengths == [(3, 4), (12, 8), (12, 16), (3, 100)] * 2


def test_no_layer_waits_for_the_device():
    # A tensor on the meta device has no values to wait for: reading one is an error.
    patches = torch.empty(200, 1176, device="meta")
    features = encode_patches(random_tower().to("meta"), patches, [(10, 10)] * 2)
    assert [tuple(f.shape) for f in features] == [(25, 24)] * 2


def test_a_photo_with_several_questions_is_embedded_once(kitchen_mllm, samples, monkeypatch):
    asked = [sample for sample in samples if sample.image == samples[0].image][:2]
    other = next(sample for sample in samples if sample.image != samples[0].image)
    asked = [asked[0], other, asked[1]]
    embed_images = kitchen_mllm.embed_images
    calls = watch(monkeypatch, kitchen_mllm, "embed_images")
    monkeypatch.setattr(system, "sample_rollouts", lambda mllm, prompts, **keywords: prompts)
    prompts = roll_out(kitchen_mllm, presets.SMOKE, asked, 1, 0.0)
    assert [len(images) for (images,) in calls] == [2]
    for sample, prompt in zip(asked, prompts, strict=True):
        photo = Image.open(presets.SMOKE.dataset / sample.image)
        alone = kitchen_mllm.embed_prompts([sample.question], embed_images([photo]))[0]
        assert torch.equal(prompt.input_ids, alone.input_ids)
        assert_near(prompt.embeddings, alone.embeddings, roundings=200)


def photo_sampler(samples) -> GroupSampler:
    """A sampler whose model can resize and nothing else."""
    mllm = SimpleNamespace(image_side=28)
    mllm.resize = lambda image: Mllm.resize(mllm, image)
    return GroupSampler(mllm, presets.SMOKE, GRPO, samples, seed=0)


def test_photos_read_ahead_are_those_of_the_round(samples):
    sampler = photo_sampler(samples)
    # In turn; then as a restored run has it; then past the end of an epoch.
    for cursor in (0, 8, 16, 40, 48, 8, len(samples) - 4):
        photos = sampler.reader.photos(
            sampler.questions(cursor, 8), sampler.questions(cursor + 8, 8)
        )
        expected = read_photos(sampler.mllm, sampler.preset, sampler.questions(cursor, 8))
        assert list(photos) == list(expected)
        assert all(photos[path].tobytes() == expected[path].tobytes() for path in expected)


def test_a_photo_that_cannot_be_read_fails_the_round_that_needs_it(samples):
    sampler = photo_sampler(samples)
    now, following = sampler.questions(0, 8), sampler.questions(8, 8)
    first = {sample.image for sample in now}
    missing = next(s.image for s in following if s.image not in first)
    (presets.SMOKE.dataset / missing).unlink()
    sampler.reader.photos(now, following)
    with pytest.raises(DataError, match=missing):
        sampler.reader.photos(following, now)


def test_a_photo_replaced_after_the_build_is_named_in_training_and_evaluation(samples):
    """Of the same size, it would go unnoticed: its masks and references are the old one's."""
    sampler = photo_sampler(samples)
    sample = samples[0]
    path = presets.SMOKE.dataset / sample.image
    path.unlink()  # it may be a link to other tests' photo
    Image.new("RGB", sample.size, "grey").save(path)
    words = f"{path}: it is not the photo that the samples were built from; put that one back"
    with pytest.raises(DataError, match=re.escape(words)):
        read_photos(sampler.mllm, sampler.preset, [sample])
    answers, references = [parse_answer("")], [sample.references]
    with pytest.raises(DataError, match=re.escape(words)):
        segment(presets.SMOKE, "x", [sample], answers, references, load_segmenter(presets.SMOKE))
    unknown = replace(sample, image_sha256="")  # of data that was built without hashes
    assert read_photos(sampler.mllm, sampler.preset, [unknown])


def test_the_next_rounds_photos_are_read_during_this_round(samples):
    sampler = photo_sampler(samples)
    now, following = sampler.questions(0, 8), sampler.questions(8, 8)
    sampler.reader.photos(now, following)
    sampler.reader.thread.submit(int).result()  # after the one that reads ahead
    for sample in following:
        (presets.SMOKE.dataset / sample.image).unlink(missing_ok=True)
    assert len(sampler.reader.photos(following[:3], sampler.questions(16, 8))) > 0
