"""Checkpoints of SAM2's official layouts, of every size, with random weights."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_near, assert_same_masks
from PIL import Image
from sam2.build_sam import build_sam2 as build_official
from sam2.sam2_image_predictor import SAM2ImagePredictor

from foodseg.common import hub
from foodseg.common.errors import DataError
from foodseg.data.references import Reference
from foodseg.models.sam2 import decode_prompts, find_checkpoint
from foodseg.models.sam2_checkpoints import (
    OFFICIAL,
    SAM2_BASE_PLUS,
    SAM2_LARGE,
    SAM2_SMALL,
    SAM2_TINY,
    Checkpoint,
    official_source,
)
from foodseg.models.segmenter import Segmenter, scale_prompts

SIDE = 256  # instead of 1024, which no weight's shape depends on
SIZES = {"t": SAM2_TINY, "s": SAM2_SMALL, "b+": SAM2_BASE_PLUS, "l": SAM2_LARGE}
# In an official checkpoint and of no use for one photo, by the modules of sam2 that hold them.
MEMORY = {
    "memory_attention",
    "memory_encoder",
    "mask_downsample",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
}
ONLY_2_1 = {"obj_ptr_tpos_proj", "no_obj_embed_spatial"}
REFERENCES = [
    Reference((20, 30, 200, 150), (90, 80)),
    Reference((100, 10, 290, 180), (180, 90)),
    Reference((20, 30, 200, 150), (90, 80), ((150, 100, 1), (40, 140, 0))),
    Reference((60, 10, 220, 120), (100, 60), ((200, 20, 0),)),
]


def official_model(size: str, version: str = "2.1"):
    """sam2's video-capable model with weights that make masks of more than one kind."""
    torch.manual_seed(0)
    name = {"2.1": "sam2.1", "2.0": "sam2"}[version]
    model = build_official(
        f"configs/{name}/{name}_hiera_{size}.yaml",
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={SIDE}"],
        apply_postprocessing=False,
    )
    with torch.no_grad():
        for parameter in model.sam_mask_decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("version", ["2.1", "2.0"])
def test_an_official_checkpoint_gives_the_official_models_masks(version, size, tmp_path):
    official, config = official_model(size, version), replace(SIZES[size], image_size=SIDE)
    path = tmp_path / "sam2.1.pt"
    torch.save({"model": official.state_dict()}, path)
    loaded = Segmenter.load(path, config)

    kept, whole = loaded.model.state_dict(), official.state_dict()
    left = {name.partition(".")[0] for name in whole.keys() - kept.keys()}
    assert left == (MEMORY if version == "2.1" else MEMORY - ONLY_2_1)
    assert kept.keys() <= whole.keys()
    assert all(torch.equal(weight, whole[name]) for name, weight in kept.items())

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 10, 3), dtype=np.uint8))
    photo = np.asarray(coarse.resize((300, 190), Image.Resampling.BICUBIC))
    embedding = loaded.embed_image(photo)
    corners = scale_prompts(REFERENCES[:2], embedding.size, SIDE)
    masks = loaded.predict(embedding, REFERENCES)
    assert 0 < masks.sum() < masks.size
    with torch.no_grad():  # the three masks of each reference, all in one decoder call
        ours, *_ = decode_prompts(
            loaded.model, embedding.features, embedding.high_resolution, corners
        )
    predictor = SAM2ImagePredictor(official)
    predictor._bb_feat_sizes = [(SIDE // 4,) * 2, (SIDE // 8,) * 2, (SIDE // 16,) * 2]
    predictor.set_image(photo)
    theirs = []
    for reference, mask in zip(REFERENCES, masks, strict=True):
        candidates, ious, logits = predictor.predict(
            point_coords=np.array([reference.point, *(one[:2] for one in reference.more)]),
            point_labels=np.array([1, *(label for *_, label in reference.more)]),
            box=np.array(reference.box),
        )
        assert_same_masks(mask, candidates[ious.argmax()] > 0)
        theirs.append(logits)
    assert_near(ours, torch.from_numpy(np.stack(theirs[:2])), roundings=500)


def test_another_sizes_checkpoint_is_refused(tmp_path):
    path = tmp_path / "tiny.pt"
    torch.save({"model": official_model("t").state_dict()}, path)
    with pytest.raises(DataError, match="tiny.pt: the checkpoint lacks weight image_encoder"):
        Segmenter.load(path, replace(SAM2_LARGE, image_size=SIDE))


def test_a_hub_id_is_fetched_once_checked_and_named_when_it_fails(tmp_path, monkeypatch):
    file = tmp_path / "sam2.1_hiera_large.pt"
    file.write_bytes(b"not it")
    asked = []

    def download(repository, name, revision, tqdm_class):
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(DataError, match=f"{file}: its SHA-256 is .*, not 2647878d"):
        find_checkpoint("facebook/sam2.1-hiera-large")
    right = hashlib.sha256(b"not it").hexdigest()
    monkeypatch.setitem(
        OFFICIAL, "facebook/sam2.1-hiera-large", Checkpoint(file.name, right, SAM2_LARGE)
    )
    assert find_checkpoint("facebook/sam2.1-hiera-large") == file
    assert asked == [("facebook/sam2.1-hiera-large", file.name)] * 2

    def fail(repository, name, revision, tqdm_class):
        raise OSError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    for known, folder in (
        ("facebook/sam2.1-hiera-tiny", 92824),
        ("facebook/sam2-hiera-tiny", 72824),
    ):
        words = f"fetched .no network.; fetch it by hand from https://.*/0{folder}/sam2"
        with pytest.raises(DataError, match=words):
            Segmenter.load(known, SAM2_TINY)
    assert find_checkpoint("somewhere/sam2.pt") == Path("somewhere/sam2.pt")


def test_a_choice_of_segmenter_has_the_configuration_of_its_name(tmp_path):
    sizes = {"tiny": SAM2_TINY, "small": SAM2_SMALL, "base-plus": SAM2_BASE_PLUS}
    for size, config in (sizes | {"large": SAM2_LARGE}).items():
        for version in ("sam2", "sam2.1"):
            chosen = f"facebook/{version}-hiera-{size}"
            assert official_source(chosen) == (chosen, config)
            file = tmp_path / f"{version}_hiera_{size.replace('-', '_')}.pt"
            file.touch()
            assert (
                official_source(str(file)) == official_source(str(tmp_path)) == (str(file), config)
            )
            file.unlink()
    (tmp_path / "mine.pt").touch()
    for other in ("facebook/sam3", str(tmp_path), str(tmp_path / "mine.pt"), str(file)):
        with pytest.raises(DataError, match=f"SEGMENTER={other} names no SAM2 checkpoint .* give"):
            official_source(other)
