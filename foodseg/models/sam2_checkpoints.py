"""SAM2's sizes and official checkpoints, by name; nothing of torch, so presets are read at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foodseg.common.errors import DataError


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
