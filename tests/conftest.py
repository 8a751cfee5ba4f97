"""Shared fixtures: the shipped kitchen model, loaded once for each session and dtype."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foodseg.data.samples import load_samples, save_samples
from foodseg.data.single import build_single
from foodseg.kitchen.dataset import write_kitchen
from foodseg.models.mllm import Mllm
from foodseg.presets import SMOKE


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture()
def kitchen_mllm():
    """A fresh float32 kitchen model (each test may add its own adapter)."""
    return load_kitchen(torch.float32)


def load_kitchen(dtype: torch.dtype) -> Mllm:
    return Mllm.load(
        SMOKE.mllm, image_side=SMOKE.image_side, template=SMOKE.prompt_template, dtype=dtype
    )


def assert_near(ours, theirs, roundings, scale=None):
    """No element differs by more than so many roundings (the dtype's eps) of `scale`.

    scale: the size of what was added up, by default the largest element. Every processor adds in
    an order of its own, so an element that is small by cancellation keeps the error of its parts.
    """
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    scale = theirs.abs().max() if scale is None else scale
    assert (ours - theirs).abs().max() <= roundings * torch.finfo(theirs.dtype).eps * scale


def assert_same_gradients(ours, theirs, relative):
    """Each parameter's gradient, in norm, to `relative` and one rounding of the whole gradient.

    A gradient may be 0 by algebra (a softmax does not see a bias of its keys): what is computed
    is rounding alone, as different on two processors as two random numbers.
    """
    whole = torch.stack([gradient.norm() for gradient in theirs]).norm()
    assert whole > 0
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        allowed = relative * other.norm() + torch.finfo(other.dtype).eps * whole
        assert (one - other).norm() <= allowed, f"gradient {index}"


def assert_same_masks(ours, theirs):
    """But for a pixel in a thousand, whose logit is 0 but for rounding: it falls on either side."""
    assert ours.shape == theirs.shape
    assert (ours != theirs).sum() <= 1e-3 * ours.size


def toy_prompts(mllm: Mllm, count: int = 3):
    """Prompts of different lengths about random pictures."""
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 255, (60 + 20 * i, 90, 3), dtype=np.uint8))
        for i in range(count)
    ]
    questions = [f"Which food is rich in iron{' and fibre' * i}?" for i in range(count)]
    return mllm.embed_prompts(questions, mllm.embed_images(images))


@functools.lru_cache(maxsize=1)
def _drawn() -> tempfile.TemporaryDirectory:
    """The smoke dataset, drawn and built once for the session."""
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name) / "datasets" / SMOKE.name
    write_kitchen(root / "FoodSeg103", SMOKE.train_plates, SMOKE.test_plates, seed=0)
    for split in ("train", "test"):
        samples, _ = build_single(root / "FoodSeg103", split)
        save_samples(samples, root / SMOKE.samples_file(split).name)
    return folder


def kitchen_folder(home: Path) -> None:
    """Put the smoke dataset under `home`, as notebook 01 does."""
    shutil.copytree(Path(_drawn().name) / "datasets", home / "datasets")


@pytest.fixture()
def home(tmp_path, monkeypatch) -> Path:
    """A FOODSEG_HOME of the test's own, with the smoke dataset in it."""
    kitchen_folder(tmp_path)
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture()
def samples(home):
    """The smoke preset's training questions."""
    return load_samples(SMOKE.samples_file("train"))


@pytest.fixture()
def empty_home(tmp_path, monkeypatch) -> Path:
    """A FOODSEG_HOME of the test's own, with nothing in it."""
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture()
def test_samples(home):
    """The smoke preset's test questions."""
    return load_samples(SMOKE.samples_file("test"))


@pytest.fixture(scope="session")
def saved_adapter(tmp_path_factory) -> Path:
    """An adapter folder as a training leaves it, without a card, and with a B that does something.

    A test copies it before it changes it.
    """
    folder = tmp_path_factory.mktemp("run") / "adapter"
    mllm = load_kitchen(torch.float32)
    mllm.add_lora(rank=2, alpha=4, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in mllm.lora_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(noise * 0.05)
    mllm.save_adapter(folder)
    return folder


def exif(orientation: int) -> Image.Exif:
    """What a camera notes of how it was held."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags
