"""Ask about any photo: `python -m foodseg.segment photo.jpg "which food is rich in iron?"`.

The same way as in the evaluation: the model's greedy completion, its boxes and points scaled to
the photo, SAM2's best mask for each. All pixels are those of the upright photo (`read_photo`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foodseg.adapters import check_files, find_decoder, load_adapter
from foodseg.data.photos import Photo, read_photo
from foodseg.data.references import Reference
from foodseg.data.samples import Sample
from foodseg.errors import DataError
from foodseg.evaluation.evaluate import load_segmenter
from foodseg.models.mllm import VISION_TOKENS, Mllm
from foodseg.models.segmenter import PROMPTS_AT_ONCE, ImageEmbedding, Segmenter
from foodseg.presets import Preset, get_preset
from foodseg.provenance import write_atomically
from foodseg.report.answer import as_json, describe, mask_png, picture_png
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import to_original
from foodseg.rl.rollouts import sample_rollouts
from foodseg.rl.trainer import load_policy

# Masks of a large photo are made a few at a time: so many pixels of them.
MASK_PIXELS_AT_ONCE = 64_000_000


@dataclass(frozen=True, eq=False)
class System:
    """The two models that answer, ready to be asked; seconds: what loading them took."""

    preset: Preset
    mllm: Mllm
    segmenter: Segmenter
    seconds: float


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A question about a photo, answered.

    text: all that the model wrote; thinking: its words before the answer. references: its boxes
    and points in pixels of `photo.image`; empty if no answer could be parsed. masks: SAM2's for
    each of them, bool (N, H, W). seconds: by phase.
    """

    photo: Photo
    question: str
    text: str
    thinking: str
    references: tuple[Reference, ...]
    masks: np.ndarray
    seconds: dict[str, float]

    @property
    def parsed(self) -> bool:
        return bool(self.references)

    @property
    def mask(self) -> np.ndarray:
        """The union of the masks, bool (H, W); empty without an answer."""
        return self.masks.any(axis=0)


def load_system(preset: Preset, adapter: Path | str | None = None) -> System:
    """Load the preset's two models and, if given, the adapter folder of a run.

    A mask decoder beside the adapter (GRTO's) takes the place of SAM2's own. Raises DataError if
    the adapter is not whole or not for this preset, or if the preset's weights or GPU are missing.
    """
    start = time.perf_counter()
    adapter = None if adapter is None else Path(adapter)
    if adapter:
        check_files(adapter)
    if torch.device(preset.device).type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"preset {preset.name}: it needs a CUDA GPU, and there is none here.")
    try:
        mllm = load_policy(preset)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"preset {preset.name}: {preset.mllm} can't be loaded: {reason}") from None
    if adapter:
        load_adapter(mllm, adapter, preset)
    segmenter = load_segmenter(preset, find_decoder(adapter) if adapter else None)
    return System(preset, mllm, segmenter, time.perf_counter() - start)


def segment(system: System, photo: Photo, question: str) -> Segmentation:
    """Ask one question about one photo. Raises DataError for a question that can't be asked."""
    question, seconds = check_question(question), {"load": system.seconds}
    mllm, preset = system.mllm, system.preset
    with _timed(seconds, "prompt", mllm.device):
        prompts = mllm.embed_prompts([question], mllm.embed_images([photo.image]))
    with _timed(seconds, "answer", mllm.device):
        length = preset.max_new_tokens
        (rollout,) = sample_rollouts(
            mllm, prompts, group_size=1, max_new_tokens=length, temperature=0.0
        )
    answer = parse_answer(rollout.texts[0])
    references = to_original(answer, _as_sample(photo, question), preset.image_side)
    segmenter = system.segmenter
    with _timed(seconds, "embedding", segmenter.device):
        embedding = segmenter.embed_image(photo.image)
    with _timed(seconds, "masks", segmenter.device):
        masks = _predict(segmenter, embedding, references)
    return Segmentation(
        photo, question, answer.completion, answer.thinking, references, masks, seconds
    )


def check_question(question: str) -> str:
    """The question in one line; raises DataError if it is empty or holds a token of the model's."""
    question = " ".join(question.split())
    if not question:
        raise DataError("question: it is empty; ask for a food in the photo.")
    for token in VISION_TOKENS:
        if token in question:
            raise DataError(
                f"question: {token} has a meaning of its own to the model; leave it out."
            )
    return question


def _as_sample(photo: Photo, question: str) -> Sample:
    """A sample whose answer nobody knows."""
    width, height = photo.image.size
    return Sample("", "", "", photo.name, width, height, question, "", (), (), (), ())


def _predict(
    segmenter: Segmenter, embedding: ImageEmbedding, references: Sequence[Reference]
) -> np.ndarray:
    """SAM2's masks, bool (N, H, W), in bounded memory whatever the photo's size."""
    width, height = embedding.size
    step = min(max(MASK_PIXELS_AT_ONCE // (width * height), 1), PROMPTS_AT_ONCE)
    parts = [references[i : i + step] for i in range(0, max(len(references), 1), step)]
    return np.concatenate([segmenter.predict(embedding, part) for part in parts])


@contextmanager
def _timed(seconds: dict[str, float], phase: str, device: torch.device) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[phase] = time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, also for an answer that can't be parsed; 1 for input that is no use."""
    options = _parse(arguments)
    try:
        _check_outputs(options)
        # What can be wrong with the input is found before the models are loaded.
        photo, question = read_photo(options.photo), check_question(options.question)
        system = load_system(get_preset(options.preset), options.adapter)
        answer = segment(system, photo, question)
        _write(options, answer, system)
    except ValueError as error:  # DataError is one, and so is an unknown preset
        print(f"segment: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m foodseg.segment",
        description="Ask about the food in a photo; the answer is text, boxes, points and a mask.",
        epilog="All pixels are those of the photo as it is shown, after EXIF's orientation.",
    )
    parser.add_argument("photo", help="JPEG, PNG, WebP, ...")
    parser.add_argument("question", help='such as "which food is rich in iron?"')
    parser.add_argument("--preset", default="kitchen", help="smoke, kitchen (default) or paper")
    parser.add_argument("--adapter", help="a run's adapter folder; without it the base answers")
    parser.add_argument("-o", "--overlay", help="write the picture of the answer, .png")
    parser.add_argument("--mask", help="write the mask, .png: 255 where the food is, 0 elsewhere")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        help="write all of it as JSON: into this .json file, or without one in place of the text",
    )
    return parser.parse_args(arguments)


def _check_outputs(options: argparse.Namespace) -> None:
    """A slip on the command line must not overwrite a photo."""
    outputs = [(options.overlay, ".png"), (options.mask, ".png"), (options.json, ".json")]
    written = [(Path(name), suffix) for name, suffix in outputs if name not in (None, "-")]
    for path, suffix in written:
        if path.suffix.lower() != suffix:
            raise DataError(f"{path}: this is written as {suffix}; give it a name that ends so.")
    paths = [path.resolve() for path in (Path(options.photo), *(path for path, _ in written))]
    if len(set(paths)) < len(paths):
        raise DataError("outputs: one of them has the name of the photo or of another; rename it.")


def _write(options: argparse.Namespace, answer: Segmentation, system: System) -> None:
    who = options.adapter or "the base model, without an adapter"
    print(f"preset {system.preset.name}, {who}", file=sys.stderr)
    try:
        if options.json:
            text = json.dumps(as_json(answer, system), indent=2)
            print(text) if options.json == "-" else _save(options.json, text.encode())
        if options.json != "-":
            print(describe(answer))
        if options.overlay:
            _save(options.overlay, picture_png(answer))
        if options.mask:
            _save(options.mask, mask_png(answer.mask))
    except OSError as error:
        raise DataError(f"{error.filename}: it can't be written ({error.strerror}).") from None


def _save(path: str, content: bytes) -> None:
    write_atomically(Path(path), content)
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
