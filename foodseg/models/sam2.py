"""SAM2's model for photos, its sizes and its checkpoints.

Built from `sam2`'s own modules as `sam2` builds it, without what links the frames of a video: a
photo has none, so `SAM2Base` gets no memory attention and no memory encoder (Ravi et al. 2024,
arXiv:2408.00714, section 4), and their weights are dropped on loading.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything that sets one SAM2 apart from another; field names follow `sam2`'s own YAML.

    `image_size` is the side of the square model image in pixels. `pred_obj_scores` adds the token
    and the head that say whether the object is visible; official SAM2.1 checkpoints have both.
    """

    image_size: int = 1024
    embed_dim: int = 96
    num_heads: int = 1
    stages: tuple[int, ...] = (1, 2, 7, 2)
    global_att_blocks: tuple[int, ...] = (5, 7, 9)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    neck_dim: int = 256
    fpn_top_down_levels: tuple[int, ...] = (2, 3)
    pred_obj_scores: bool = True


# configs/sam2.1/*.yaml of the `sam2` package.
SAM2_TINY = SegmenterConfig()
SAM2_SMALL = SegmenterConfig(stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13))
SAM2_BASE_PLUS = SegmenterConfig(
    embed_dim=112,
    num_heads=2,
    stages=(2, 3, 16, 3),
    global_att_blocks=(12, 16, 20),
    window_pos_embed_bkg_spatial_size=(14, 14),
)
SAM2_LARGE = SegmenterConfig(
    embed_dim=144,
    num_heads=2,
    stages=(2, 6, 36, 4),
    global_att_blocks=(23, 33, 43),
    window_spec=(8, 4, 16, 8),
)
KITCHEN_SAM2 = SegmenterConfig(
    image_size=192,
    embed_dim=24,
    stages=(1, 2, 3, 1),
    global_att_blocks=(4,),
    window_spec=(8, 4, 12, 6),
    neck_dim=96,
    fpn_top_down_levels=(0, 1, 2, 3),  # shallow stages are weak here: give them the deep ones
    pred_obj_scores=False,
)


@dataclass(frozen=True)
class Checkpoint:
    """An official checkpoint: its file, that file's SHA-256, and its configuration.

    sha256: as public projects that pin it record it.
    """

    file: str
    sha256: str
    config: SegmenterConfig

    @property
    def address(self) -> str:
        """Meta's own."""
        folder = "092824" if self.file.startswith("sam2.1") else "072824"
        return f"https://dl.fbaipublicfiles.com/segment_anything_2/{folder}/{self.file}"


# By hub id (Apache-2.0): SAM2.1's of 29 September 2024, and SAM 2.0's of 29 July 2024, which the
# parents use. For a photo the two differ in their weights only.
OFFICIAL = {
    "facebook/sam2.1-hiera-tiny": Checkpoint(
        "sam2.1_hiera_tiny.pt",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        SAM2_TINY,
    ),
    "facebook/sam2.1-hiera-small": Checkpoint(
        "sam2.1_hiera_small.pt",
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        SAM2_SMALL,
    ),
    "facebook/sam2.1-hiera-base-plus": Checkpoint(
        "sam2.1_hiera_base_plus.pt",
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        SAM2_BASE_PLUS,
    ),
    "facebook/sam2.1-hiera-large": Checkpoint(
        "sam2.1_hiera_large.pt",
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        SAM2_LARGE,
    ),
    "facebook/sam2-hiera-tiny": Checkpoint(
        "sam2_hiera_tiny.pt",
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
        SAM2_TINY,
    ),
    "facebook/sam2-hiera-small": Checkpoint(
        "sam2_hiera_small.pt",
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
        SAM2_SMALL,
    ),
    "facebook/sam2-hiera-base-plus": Checkpoint(
        "sam2_hiera_base_plus.pt",
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
        SAM2_BASE_PLUS,
    ),
    "facebook/sam2-hiera-large": Checkpoint(
        "sam2_hiera_large.pt",
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
        SAM2_LARGE,
    ),
}

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


def official_source(chosen: str) -> tuple[str, SegmenterConfig]:
    """What `find_checkpoint` takes for a user's choice, and its configuration.

    chosen: a hub id of `OFFICIAL`, an official checkpoint's file, which keeps its name, or a folder
    with one such file. Raises DataError for anything else.
    """
    if chosen in OFFICIAL:
        return chosen, OFFICIAL[chosen].config
    configs = {checkpoint.file: checkpoint.config for checkpoint in OFFICIAL.values()}
    path = Path(chosen)
    files = [path / name for name in configs] if path.is_dir() else [path]
    found = [file for file in files if file.name in configs and file.is_file()]
    if len(found) != 1:
        raise DataError(
            f"SEGMENTER={chosen} names no SAM2 checkpoint that this kit knows; give one of "
            f"{', '.join(OFFICIAL)}, or one of their files under its own name."
        )
    return str(found[0]), configs[found[0].name]


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
