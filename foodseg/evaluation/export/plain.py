"""FoodReasonSeg-Single's questions and photos for any system, without the answers.

    <root>/questions_<split>.jsonl           {"id", "image", "width", "height", "question"} a line
    <root>/photos/<split>/<sample_id>.jpg

`image` is relative to the root; width and height, in pixels, are the upright photo's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from foodseg.common.files import write_lines
from foodseg.common.progress import tqdm
from foodseg.data.samples import Sample
from foodseg.evaluation.export.photos import place_photo


def write_plain(root: Path, dataset: Path, split: str, samples: Sequence[Sample]) -> dict:
    """Writes one split's samples; dataset: the folder that their `image` is relative to.

    Returns counts for the report. Raises DataError for a photo that isn't its sample's.
    """
    folder = root / "photos" / split
    folder.mkdir(parents=True)
    photos, rows = Counter(), []
    for sample in tqdm(samples, f"plain {split}"):
        photo = folder / f"{sample.sample_id}.jpg"
        photos[place_photo(dataset / sample.image, photo, sample)] += 1
        row = {"id": sample.sample_id, "image": photo.relative_to(root).as_posix()}
        row |= {"width": sample.width, "height": sample.height, "question": sample.question}
        rows.append(row)
    write_lines(root / f"questions_{split}.jsonl", rows)
    return {"samples": len(samples), "photos": dict(photos)}
