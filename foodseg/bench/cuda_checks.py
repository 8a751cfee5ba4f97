"""Is the fast way right on this device? Asked before anything is timed.

The reference is a plain row for each completion in float32, whose products are exact to 1e-6. In
bfloat16 no two ways of computing agree bit by bit, so each fast way may be as far from the
reference as twice what the plain way in bfloat16 is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor

from foodseg.bench.cuda_work import Setting, build_policy, build_samples, open_photos
from foodseg.bench.plain_rows import plain_score_groups
from foodseg.bench.work import SEED, Shape
from foodseg.data.samples import Sample
from foodseg.models import rollouts as rollouts_module
from foodseg.models.fast.layers import training_layers
from foodseg.models.mllm import Mllm
from foodseg.models.rollouts import TEMPERATURE, Rollout, sample_rollouts
from foodseg.models.shared_prefix import pad_rows, score_groups

SLACK = 2.0
CHECKED = Shape(prompts=2, group_size=2, length=32, updates=1)


def run_checks(setting: Setting, folder: Path) -> dict[str, dict]:
    """Each check by name: its "error", the "limit", and whether it "holds"."""
    setting = replace(setting, shape=CHECKED)
    mllm = build_policy(setting)
    samples = build_samples(mllm, setting, folder)
    photos = open_photos(samples)
    fast, plain = torch.cat(mllm.embed_images(photos)), _official_features(mllm, photos)
    tokens = _check_capture(mllm, samples)
    rollouts = _roll_out(mllm, samples, TEMPERATURE)
    with _full_float32():
        scores = _check_scores(mllm, rollouts)
        # The model is in float32 now.
        vision = {"visual tokens": _compare(fast, plain, _official_features(mllm, photos))}
    return vision | tokens | scores


@contextmanager
def _full_float32() -> Iterator[None]:
    """Within this context no float32 product is rounded to TF32's 10 bits."""
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def _roll_out(mllm: Mllm, samples: Sequence[Sample], temperature: float) -> list[Rollout]:
    questions = [sample.question for sample in samples]
    prompts = mllm.embed_prompts(questions, mllm.embed_images(open_photos(samples)))
    return sample_rollouts(
        mllm,
        prompts,
        group_size=CHECKED.group_size,
        max_new_tokens=CHECKED.length,
        temperature=temperature,
        seed=SEED,
    )


@torch.no_grad()
def _official_features(mllm: Mllm, photos: Sequence[Image.Image]) -> Tensor:
    """Visual tokens of all photos (N, D) by transformers' own tower."""
    inputs = mllm.image_processor(
        images=[mllm.resize(photo) for photo in photos], do_resize=False, return_tensors="pt"
    ).to(mllm.device)
    pixels = inputs["pixel_values"].to(mllm.model.model.visual.dtype)
    return torch.cat(
        mllm.model.model.get_image_features(pixels, inputs["image_grid_thw"]).pooler_output
    )


def _check_scores(mllm: Mllm, rollouts: list[Rollout]) -> dict[str, dict]:
    """Log-probabilities, gradients and the sampler's log-probs; leaves the model in float32."""
    with training_layers(mllm.language_model):  # as in the trainer's update
        packed, packed_gradient = _log_probs_and_gradient(mllm, rollouts, score_groups)
    plain, plain_gradient = _log_probs_and_gradient(mllm, rollouts, plain_score_groups)
    sampled = pad_rows([row for r in rollouts for row in r.log_probs], packed != 0)
    mllm.model.float()
    upcast = [
        replace(r, prompt=replace(r.prompt, embeddings=r.prompt.embeddings.float()))
        for r in rollouts
    ]
    exact, exact_gradient = _log_probs_and_gradient(mllm, upcast, plain_score_groups)
    return {
        "packed log-probs": _compare(packed, plain, exact),
        "packed gradients": _compare(packed_gradient, plain_gradient, exact_gradient),
        "sampler's log-probs": _compare(sampled, plain, exact),
    }


def _log_probs_and_gradient(mllm: Mllm, rollouts, score) -> tuple[Tensor, Tensor]:
    """(R, L) log-probs and the adapter's whole gradient, flat, of a weighted sum of them."""
    log_probs = score(mllm, rollouts, TEMPERATURE).log_probs
    weights = torch.linspace(-1, 1, log_probs.numel(), device=mllm.device).view_as(log_probs)
    gradients = torch.autograd.grad((log_probs * weights).sum(), mllm.lora_parameters())
    return log_probs.detach(), torch.cat([g.flatten().float() for g in gradients])


def _check_capture(mllm: Mllm, samples: Sequence[Sample]) -> dict[str, dict]:
    """Steps replayed from a CUDA graph against the same steps launched one by one."""
    result = {}
    for name, temperature in (("greedy", 0.0), ("sampled", TEMPERATURE)):
        replayed = _tokens(_roll_out(mllm, samples, temperature))
        with patch.object(rollouts_module, "capture", lambda step: step):
            launched = _tokens(_roll_out(mllm, samples, temperature))
        differ = (replayed != launched).float().mean().item()
        result[f"{name} tokens, replayed against launched"] = _verdict(differ, 0.0)
    return result


def _tokens(rollouts: Sequence[Rollout]) -> Tensor:
    return torch.stack([row for rollout in rollouts for row in rollout.tokens])


def _compare(fast: Tensor, plain: Tensor, reference: Tensor) -> dict:
    """Relative errors in the Euclidean norm; the plain way's sets the limit."""
    reference = reference.double()
    error, usual = (
        ((x.double() - reference).norm() / reference.norm()).item() for x in (fast, plain)
    )
    # In float32 both may be rounding noise of 1e-7.
    return {"plain": usual} | _verdict(error, max(SLACK * usual, 1e-5))


def _verdict(error: float, limit: float) -> dict:
    return {"error": error, "limit": limit, "holds": bool(error <= limit)}
