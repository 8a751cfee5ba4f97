"""SAM2's model for photos, and the weights of its checkpoints.

Built from `sam2`'s own modules as `sam2` builds it, without what links the frames of a video: a
photo has none, so `SAM2Base` gets no memory attention and no memory encoder (Ravi et al. 2024,
arXiv:2408.00714, section 4), and their weights are dropped on loading.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256
from foodseg.common.hub import fetch_file
from foodseg.models.sam2_checkpoints import OFFICIAL, SegmenterConfig

# What a video needs and a photo does not, by name in the official checkpoints.
_TEMPORAL_WEIGHTS = (
    "memory_attention.",
    "memory_encoder.",
    "mask_downsample.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
)

# A reference becomes one prompt sequence: box corners, a positive point, then its further ones.
PROMPT_LABELS = (2, 3, 1)


def build_sam2(config: SegmenterConfig) -> SAM2Base:
    """Build `sam2`'s model with random weights and no temporal module."""
    trunk = Hiera(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        stages=config.stages,
        global_att_blocks=config.global_att_blocks,
        window_pos_embed_bkg_spatial_size=config.window_pos_embed_bkg_spatial_size,
        window_spec=config.window_spec,
    )
    neck = FpnNeck(
        PositionEmbeddingSine(config.neck_dim, normalize=True, warmup_cache=False),
        d_model=config.neck_dim,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=list(config.fpn_top_down_levels),
        fpn_interp_model="nearest",
    )
    model = SAM2Base(
        ImageEncoder(trunk, neck, scalp=1),
        memory_attention=None,
        memory_encoder=None,
        num_maskmem=0,
        image_size=config.image_size,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=config.pred_obj_scores,
        pred_obj_scores_mlp=config.pred_obj_scores,
        use_multimask_token_for_obj_ptr=True,
    )
    # SAM2Base always makes these two; only its video path reads them.
    del model.maskmem_tpos_enc, model.no_mem_pos_enc
    return model


def encode_pixels(model: SAM2Base, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Encode normalised model images (B, 3, s, s) into features (B, C, s/16, s/16) and the two
    finer levels (B, C/8, s/4, s/4), (B, C/4, s/8, s/8)."""
    finest, finer, features = model.forward_image(pixels)["backbone_fpn"]
    # On a first frame, SAM2 adds this embedding in place of attention to memories.
    return features + model.no_mem_embed.view(1, -1, 1, 1), (finest, finer)


def decode_prompts(
    model: SAM2Base,
    features: Tensor,
    high_resolution: tuple[Tensor, Tensor],
    corners: Tensor,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer N prompts in one decoder call.

    `corners` is (N, P, 2): top left and bottom right of the box, then the points, as (x, y) in
    pixels of the model image. `labels`, (N, P) int32, is SAM2's meaning of each: 2 and 3 for the
    corners, 1 or 0 for a point; None for one positive point. The features belong to one image
    (first dimension 1) that all prompts share, or are given once for each prompt (N). Returns the
    logits of the three masks, (N, 3, s/4, s/4), their predicted IoU, (N, 3), in 0..1, and the
    tokens that made them, (N, 3, C).
    """
    if labels is None:
        labels = torch.tensor(PROMPT_LABELS, dtype=torch.int32, device=corners.device)
        labels = labels.expand(len(corners), -1)
    sparse, dense = model.sam_prompt_encoder(points=(corners, labels), boxes=None, masks=None)
    logits, ious, tokens, _ = model.sam_mask_decoder(
        image_embeddings=features,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        repeat_image=len(features) == 1,
        high_res_features=list(high_resolution),
    )
    return logits, ious, tokens


def find_checkpoint(source: Path | str) -> Path:
    """The file of a checkpoint: a file's path as it is, or that of a hub id of `OFFICIAL`.

    The latter is fetched at its first use and kept in the hub's cache. Raises DataError if that
    fails or, whatever revision it comes from, its SHA-256 is not the known one.
    """
    if str(source) not in OFFICIAL:
        return Path(source)
    known = OFFICIAL[str(source)]
    by_hand = f"fetch it by hand from {known.address} and give that file's path as SEGMENTER="
    path = fetch_file(str(source), known.file, by_hand)
    if (found := file_sha256(path)) != known.sha256:
        fix = "delete it and try again"
        raise DataError(f"{path}: its SHA-256 is {found}, not {known.sha256}; {fix}.")
    return path


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a SAM2 checkpoint, `.safetensors` or the official `.pt` (weights only).

    Raises DataError if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such SAM2 checkpoint; give a .safetensors or .pt file, or one of "
            f"{', '.join(OFFICIAL)}"
        )
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("model", state)  # the official files wrap the weights in {"model": ...}


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load every weight of `model`, dropping exactly SAM2's temporal ones from `weights`.

    Raises DataError, which names `source`, if one is missing, unknown or of another shape.
    """
    kept = {n: w.float() for n, w in weights.items() if not n.startswith(_TEMPORAL_WEIGHTS)}
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - kept.keys()), sorted(kept.keys() - expected.keys())
    odd = [n for n in kept if n in expected and kept[n].shape != expected[n].shape]
    for fault, names in (("lacks", missing), ("has unknown", unknown), ("has ill-sized", odd)):
        if names:
            raise DataError(
                f"{source}: the checkpoint {fault} weight {names[0]} ({len(names)} such); "
                "use the checkpoint of this configuration"
            )
    model.load_state_dict(kept)
