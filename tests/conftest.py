"""Shared fixtures: the shipped kitchen model, loaded once for each session and dtype."""

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from campaigns import (  # noqa: F401
    campaign,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_terminal_summary,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from foodseg.data.samples import load_samples, save_samples
from foodseg.data.single import build_single
from foodseg.kitchen.dataset import write_kitchen
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import Rollout, sample_rollouts
from foodseg.presets import SMOKE


@pytest.fixture(autouse=True)
def same_start():
    """One thread, and random weights that hang on no test before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_sigterm():
    """Commands install a handler of their own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture()
def kitchen_mllm():
    """A fresh float32 kitchen model (each test may add its own adapter)."""
    return load_kitchen(torch.float32)


def load_kitchen(dtype: torch.dtype) -> Mllm:
    return Mllm.load(
        SMOKE.mllm, image_side=SMOKE.image_side, template=SMOKE.prompt_template, dtype=dtype
    )


@pytest.fixture(scope="session")
def knowing(tmp_path_factory) -> str:
    """Folder of a whole model: the base before its habits, whose answers can be parsed."""
    folder = tmp_path_factory.mktemp("knowing") / "mllm"
    shutil.copytree(SMOKE.mllm, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    whole = load_file(Path(SMOKE.mllm) / "model.safetensors") | load_file(SMOKE.knowledge)
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def randomise_adapter(mllm: Mllm, scale: float = 0.05) -> None:
    """LoRA's B starts at zero; give it values, so that every gradient is alive."""
    generator = torch.Generator().manual_seed(1)
    for parameter in mllm.lora_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(noise * scale)


def kitchen_policy(dtype: torch.dtype, scale: float = 0.05) -> Mllm:
    """The kitchen model with an adapter that does something, always the same."""
    mllm = load_kitchen(dtype)
    mllm.add_lora(rank=4, alpha=8, seed=0)
    if dtype == torch.float64:
        mllm.model.double()
    randomise_adapter(mllm, scale)
    return mllm


def upcast(rollouts: list[Rollout]) -> list[Rollout]:
    """With float32 embeddings of the prompts, for a model in float32."""
    return [
        replace(r, prompt=replace(r.prompt, embeddings=r.prompt.embeddings.float()))
        for r in rollouts
    ]


@pytest.fixture()
def exact_norms(monkeypatch):
    """transformers' norm rounds to float32, 1e-8 here, even in a float64 model."""

    def rms_norm_in_own_dtype(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))

    monkeypatch.setattr(Qwen2_5_VLRMSNorm, "forward", rms_norm_in_own_dtype)


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


def toy_rollouts(mllm: Mllm, group_size: int, max_new_tokens: int, prompts: int = 3, **options):
    """Groups that the model samples about `toy_prompts`."""
    options |= {"group_size": group_size, "max_new_tokens": max_new_tokens}
    return sample_rollouts(mllm, toy_prompts(mllm, prompts), **options)


def plain_distributions(mllm, rollout, temperature=1.0):
    """List of (L_i, vocabulary), each from a forward over [prompt | completion] alone."""
    result = []
    for tokens in rollout.tokens:
        prompt = rollout.prompt
        ids = torch.cat([prompt.input_ids, tokens])[None]
        steps = prompt.next_position + torch.arange(len(tokens))
        positions = torch.cat([prompt.position_ids, steps.expand(3, -1)], 1)[:, None]
        embeddings = mllm.embed_tokens(ids).clone()
        embeddings[0, : prompt.length] = prompt.embeddings
        # The 2-D mask takes transformers' own causal path, not ours.
        output = mllm.model(
            inputs_embeds=embeddings, position_ids=positions, attention_mask=torch.ones_like(ids)
        )
        logits = output.logits[0, prompt.length - 1 : -1] / temperature
        logits[:, mllm.banned_token_ids] = float("-inf")
        result.append(logits.log_softmax(-1))
    return result


def watch(monkeypatch, owner, name: str, *stop_in: int) -> list:
    """The calls of owner.name from here on; those of these numbers, from 1, stop the program."""
    whole, calls = getattr(owner, name), []

    def watched(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) in stop_in:
            raise KeyboardInterrupt
        return whole(*arguments, **keywords)

    monkeypatch.setattr(owner, name, watched)
    return calls


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


@pytest.fixture()
def own_git(monkeypatch) -> Callable[[Path], None]:
    """Makes a folder a repository with one commit of it all, whatever the user's git is set to."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)

    def commit(folder: Path) -> None:
        git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
            subprocess.run([*git, *command], check=True)

    return commit


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
    mllm.save_adapter(folder, SMOKE.name)
    return folder


@pytest.fixture()
def says(monkeypatch):
    """The model writes what the test hands in, to `foodseg.segment`."""

    def set_text(text):
        rollouts = [SimpleNamespace(texts=(text,))]
        monkeypatch.setattr("foodseg.segment.answer.sample_rollouts", lambda *_, **__: rollouts)

    return set_text


def exif(orientation: int) -> Image.Exif:
    """What a camera notes of how it was held."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags
