"""The segmenter: sam2's own image path, no temporal module, many references in one call."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_masks
from PIL import Image
from safetensors.torch import save_file

from foodseg.common.errors import DataError
from foodseg.data.references import Reference
from foodseg.models import segmenter as module
from foodseg.models.sam2 import build_sam2
from foodseg.models.sam2_checkpoints import SAM2_TINY, SegmenterConfig
from foodseg.models.segmenter import Segmenter

SMALL = SegmenterConfig(
    image_size=96,
    embed_dim=8,
    stages=(1, 1, 2, 1),
    global_att_blocks=(3,),
    window_pos_embed_bkg_spatial_size=(3, 3),
    window_spec=(4, 2, 6, 3),
    neck_dim=64,
)
REFERENCES = [
    Reference((2, 3, 60, 50), (30, 20)),
    Reference((40, 10, 118, 69), (80, 40)),
    Reference((0, 0, 119, 69), (5, 65)),
]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    segmenter = Segmenter(SMALL)
    with torch.no_grad():  # far from sam2's start, so that masks are neither all nor nothing
        for parameter in segmenter.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return segmenter


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (7, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((120, 70), Image.Resampling.BICUBIC))


def test_masks_of_the_original_size_from_one_call_equal_one_by_one(segmenter, image):
    embedding = segmenter.embed_image(image)
    calls = []
    handle = segmenter.model.sam_mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    together = segmenter.predict(embedding, REFERENCES)
    handle.remove()
    assert len(calls) == 1
    alone = [segmenter.predict(embedding, [reference])[0] for reference in REFERENCES]
    assert_same_masks(together, np.stack(alone))
    assert embedding.size == (120, 70)
    assert together.shape == (3, 70, 120) and together.dtype == bool
    assert 0 < together.sum() < together.size
    assert segmenter.predict(embedding, []).shape == (0, 70, 120)


@pytest.mark.parametrize("size", [(70, 120, 3), (1, 999, 3), (701, 401, 3)])
def test_masks_of_a_large_photo_are_brought_to_its_size_one_by_one(segmenter, size, monkeypatch):
    """The same bits in less memory: 17 objects on 40 million pixels took 2.7 GB of logits."""
    embedding = segmenter.embed_image(np.zeros(size, np.uint8))
    together = segmenter.predict(embedding, REFERENCES * 6)
    made = []

    def watched(*arguments, **options):
        made.append(F.interpolate(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 2 * size[0] * size[1] + 1)
    monkeypatch.setattr(module, "F", SimpleNamespace(interpolate=watched))
    assert np.array_equal(segmenter.predict(embedding, REFERENCES * 6), together)
    assert [len(logits) for logits in made] == [2] * 9
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 1)
    assert np.array_equal(segmenter.predict(embedding, REFERENCES * 6), together)


def test_labelled_points_change_masks_and_leave_others_as_they_are(segmenter, image):
    embedding = segmenter.embed_image(image)
    plain = segmenter.predict(embedding, REFERENCES)
    more = replace(REFERENCES[1], more=((60, 20, 1), (100, 60, 0)))
    swapped = replace(more, more=tuple((x, y, 1 - label) for x, y, label in more.more))
    calls = []
    handle = segmenter.model.sam_mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    mixed = segmenter.predict(embedding, [REFERENCES[0], more, REFERENCES[2], swapped])
    handle.remove()
    assert len(calls) == 2  # one for each number of points
    assert_same_masks(mixed[[0, 2]], plain[[0, 2]])
    assert (mixed[1] != plain[1]).any() and (mixed[1] != mixed[3]).any()
    assert_same_masks(mixed[1:2], segmenter.predict(embedding, [more]))


def test_no_temporal_module(segmenter):
    assert segmenter.model.memory_attention is None and segmenter.model.memory_encoder is None
    temporal = ("memory", "maskmem", "obj_ptr", "no_mem_pos_enc", "no_obj_embed")
    names = [name for name, _ in segmenter.model.named_parameters()]
    assert not [name for name in names if name.startswith(temporal)]
    # The published 38.9 M of SAM2.1 tiny, less memory attention (5.9 M), memory encoder (1.4 M)
    # and object pointers.
    parameters = sum(p.numel() for p in build_sam2(SAM2_TINY).parameters())
    assert parameters / 1e6 == pytest.approx(31.44, abs=0.01)


@pytest.mark.parametrize("fault", ["lacks", "unknown", "ill-sized"])
def test_a_wrong_or_missing_checkpoint_and_a_grey_image_are_refused(segmenter, tmp_path, fault):
    weights = {name: weight.clone() for name, weight in segmenter.model.state_dict().items()}
    name = "sam_mask_decoder.iou_token.weight"
    if fault == "ill-sized":
        weights[name] = torch.ones(3)
    elif fault == "lacks":
        del weights[name]
    else:
        weights["surprise"] = torch.ones(3)
    save_file(weights, tmp_path / "sam2.safetensors")
    with pytest.raises(DataError, match=f"{fault}.*{'surprise' if fault == 'unknown' else name}"):
        Segmenter.load(tmp_path / "sam2.safetensors", SMALL)
    with pytest.raises(DataError, match=r"none\.pt"):
        Segmenter.load(tmp_path / "none.pt", SMALL)
    with pytest.raises(DataError, match="RGB"):
        segmenter.embed_image(np.zeros((4, 4), dtype=np.uint8))
