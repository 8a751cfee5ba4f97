"""The two models of a preset, with an adapter, and what they answer: `roll_out`.

An adapter is looked at before it is loaded: whether it is whole, and made for this base. PEFT
would look for a missing folder on the hub, and explain a wrong base by hundreds of lines.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from foodseg.common.errors import DataError
from foodseg.common.files import load_json
from foodseg.common.progress import tqdm
from foodseg.data.photos import read_photo
from foodseg.data.samples import Sample
from foodseg.models.mllm import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TEMPLATE_FILE, Mllm
from foodseg.models.rollouts import Rollout, sample_rollouts
from foodseg.models.segmenter import DECODER, MASK_HEAD, Segmenter, load_decoder
from foodseg.presets import Preset


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Within this context PyTorch computes on the CPU with one thread, if `device` is the CPU.

    So results have the same bits on any number of cores, and two runs fit side by side on two.
    The number of threads, which is the process's, is put back afterwards.
    """
    if device != "cpu":
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load_policy(preset: Preset, prompt: Callable[[str], str] | None = None) -> Mllm:
    """The preset's MLLM, without an adapter; prompt: a recipe's change of the prompt template.

    Raises as `Mllm.load`.
    """
    return Mllm.load(
        preset.mllm,
        revision=preset.mllm_revision,
        image_side=preset.image_side,
        template=prompt(preset.prompt_template) if prompt else preset.prompt_template,
        device=preset.device,
        dtype=getattr(torch, preset.dtype),
    )


def load_knowledge(preset: Preset) -> Mllm:
    """The base before its habits: the preset's MLLM with the tensors of `preset.knowledge`.

    Raises DataError if the file can't be read, or has a tensor of a name or shape that the model's
    `state_dict` has not.
    """
    mllm, file = load_policy(preset), Path(preset.knowledge)
    own = mllm.model.state_dict()
    for name, tensor in _read_tensors(file).items():
        if name not in own or own[name].shape != tensor.shape:
            raise DataError(
                f"{file}: {name}, {tuple(tensor.shape)}, is no tensor of {mllm.name}; make both "
                "again (`make base`)."
            )
        own[name].copy_(tensor)
    return mllm


def load_segmenter(preset: Preset, decoder: Path | None = None) -> Segmenter:
    """The preset's SAM2; raises DataError if a file is missing or of another configuration.

    decoder: file of the mask decoder that a run of GRTO trained, to be put in place of SAM2's own.
    """
    segmenter = Segmenter.load(preset.segmenter, preset.segmenter_config, preset.device)
    if decoder:
        load_decoder(segmenter, decoder)
    return segmenter


def find_decoder(folder: Path) -> Path | None:
    """The mask decoder that was trained along with the adapter, None if there is none."""
    decoder = folder / DECODER
    return decoder if decoder.exists() else None


def load_adapter(mllm: Mllm, folder: Path, preset: Preset) -> None:
    """Load the adapter into the preset's model; raises DataError if they don't belong together."""
    check_files(folder)
    _check_run(folder, preset)
    _check_shapes(folder, mllm, preset)
    try:
        with one_thread(preset.device):  # it asks the model whether the adapter changes anything
            mllm.load_adapter(folder)
    except DataError:
        raise
    except (ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{folder}: {_first_line(error)}") from None


def check_files(folder: Path) -> None:
    """Raises DataError, naming the fix, unless the folder holds an adapter that writes boxes."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; name the adapter folder of a run, such as "
            "runs/kitchen/dapo-seed0/adapter."
        )
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, TEMPLATE_FILE):
        if (folder / name).is_file():
            continue
        if (folder / "adapter" / name).is_file():
            raise DataError(f"{folder}: this is a run; name its adapter: {folder / 'adapter'}.")
        raise DataError(f"{folder}: {name} is missing; name the whole adapter folder of a run.")
    if (folder / MASK_HEAD).exists():
        raise DataError(
            f"{folder}: this adapter answers by [SEG] tokens and a mask head of its own; name one "
            "that answers with boxes and points."
        )


def _check_run(folder: Path, preset: Preset) -> None:
    """An adapter that still lies in its run can be compared with the very weights it grew on."""
    file = folder.parent / "config.json"
    config = load_json(file) if file.exists() else {}
    if not isinstance(config, dict) or not isinstance(config.get("preset", {}), dict):
        raise DataError(f"{file}: it is no run's configuration; remove it, or put a copy back.")
    base = preset.weights["base"]
    if config.get("base", base) != base:
        raise DataError(
            f"{folder}: it was trained on another base model ({config['base']}) than that of "
            f"preset {preset.name} ({base}); choose its preset, or train it again."
        )
    side = config.get("preset", {}).get("image_side", preset.image_side)
    if side != preset.image_side:
        raise DataError(
            f"{folder}: it was trained on photos of {side} pixels a side, and preset "
            f"{preset.name} has {preset.image_side}; choose its preset, or train it again."
        )


def _check_shapes(folder: Path, mllm: Mllm, preset: Preset) -> None:
    """Every LoRA matrix must fit a layer of this model: A its inputs, B its outputs."""
    layers = {name: getattr(layer, "weight", None) for name, layer in mllm.model.named_modules()}
    for name, shape in _read_shapes(folder / ADAPTER_WEIGHTS).items():
        layer, _, part = name.removeprefix("base_model.model.").rpartition(".lora_")
        weight, axis = layers.get(layer), 1 if part.startswith("A") else 0
        if weight is None or weight.shape[axis] != shape[axis]:
            raise DataError(
                f"{folder}: it was trained on another base model than that of preset "
                f"{preset.name}, where {name} fits no layer; choose its preset."
            )


def _read_shapes(file: Path) -> dict[str, list[int]]:
    with _opened(file) as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    with _opened(file) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[safe_open]:
    """The file, open; an error is told as one of the file."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file}: it can't be read ({_first_line(error)}); copy it again."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def roll_out(
    mllm: Mllm,
    preset: Preset,
    samples: Sequence[Sample],
    group_size: int,
    temperature: float,
    seed: int = 0,
    photos: Mapping[str, Image.Image] | None = None,
    first_prompt: int = 0,
    repetition_penalty: float = 1.0,
) -> list[Rollout]:
    """Embed each photo and each question once, sample `group_size` completions of each question.

    In one thread on a CPU (`one_thread`). photos: what `read_photos` returns for these samples, if
    it was already called; first_prompt, repetition_penalty: as in `sample_rollouts`. After an
    out-of-memory error each half is sampled by itself; raises it for one question alone.
    """
    photos = photos or read_photos(mllm, preset, samples)

    def sample(part: Sequence[Sample], first: int) -> list[Rollout]:
        asked = list(dict.fromkeys(one.image for one in part))
        with one_thread(preset.device):
            embedded = mllm.embed_images([photos[image] for image in asked])
            visual_tokens = dict(zip(asked, embedded, strict=True))
            questions = [one.question for one in part]
            return sample_rollouts(
                mllm,
                mllm.embed_prompts(questions, [visual_tokens[one.image] for one in part]),
                group_size=group_size,
                max_new_tokens=preset.max_new_tokens,
                temperature=temperature,
                seed=seed,
                first_prompt=first,
                repetition_penalty=repetition_penalty,
            )

    return _halved(sample, samples, first_prompt)


def _halved(
    sample: Callable[[Sequence[Sample], int], list[Rollout]],
    samples: Sequence[Sample],
    first: int,
) -> list[Rollout]:
    try:
        return sample(samples, first)
    except torch.OutOfMemoryError as error:
        if len(samples) == 1:
            raise torch.OutOfMemoryError(
                "Out of memory while one question is answered: reduce group_size, max_new_tokens "
                "or image_side of the preset, or free the GPU."
            ) from error
    # Outside of the handler, whose error holds the tensors.
    gc.collect()
    torch.cuda.empty_cache()
    half = len(samples) // 2
    tqdm.write(f"Out of memory while {len(samples)} questions are answered: now {half} at a time.")
    return [
        *_halved(sample, samples[:half], first),
        *_halved(sample, samples[half:], first + half),
    ]


def read_photos(mllm: Mllm, preset: Preset, samples: Sequence[Sample]) -> dict[str, Image.Image]:
    """Each photo that the samples ask about, once, as the model sees it, by `Sample.image`.

    Raises DataError for one that can't be read, or is another than when the samples were built.
    """
    hashes = {sample.image: sample.image_sha256 for sample in samples}
    photos = {path: read_photo(preset.dataset / path, known) for path, known in hashes.items()}
    return {path: mllm.resize(photo.image) for path, photo in photos.items()}
