"""Ask many questions about a folder of photos; `python -m foodseg.segment FOLDER` runs it.

A line of the questions' file: {"image": "plate.jpg", "question": "...", "id": "..."}; `id`, which
names the mask's file, may be left out: the line's number then. The questions of one's own data
(`foodseg.data.own`) are such lines too. What is written into `out`:

- answers.jsonl: what `--json` has of one answer, with its id; or the sentence why there is none;
- masks/<id>.png: 255 where the food is;
- coco.json: every mask as an annotation in COCO's format, with its question's id.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from pycocotools import mask as coco

from foodseg.common.errors import DataError
from foodseg.common.files import write_atomically, write_json, write_lines
from foodseg.common.lock import alone
from foodseg.common.progress import tqdm
from foodseg.common.strict_json import JsonError, read_json
from foodseg.data.foodseg103 import is_safe_id
from foodseg.data.photos import read_photo
from foodseg.data.references import decode_mask, mask_area
from foodseg.evaluation.unfinished import Unfinished, depends_on
from foodseg.segment.answer import System, check_question, segment
from foodseg.segment.written import as_json, mask_png

FIELDS = ("image", "question", "id")
UNREAD = ("things", "answer", "split")  # of one's own data: what training and scoring read


@dataclass(frozen=True)
class Asked:
    """One line of the questions' file."""

    name: str
    image: str
    question: str


def read_asked(file: Path, folder: Path) -> list[Asked]:
    """The questions. Raises DataError for the first line that can't be asked, and twice one id."""
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{file}: it can't be read ({error.strerror}); name a file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: it can't be read ({error}); write it in UTF-8.") from None
    asked = [_parse(file, folder, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not asked:
        raise DataError(f"{file}: there are no questions; write one JSON object a line.")
    name, times = Counter(one.name for one in asked).most_common(1)[0]
    if times > 1:
        raise DataError(f"{file}: the id {name!r} stands there {times} times; name each once.")
    return asked


def _parse(file: Path, folder: Path, number: int, line: str) -> Asked:
    where = f"{file}: line {number}"
    try:
        entry = read_json(line)
    except JsonError as error:
        raise DataError(f"{where}: {error}; write one JSON object a line.") from None
    if not isinstance(entry, dict) or not {"image", "question"} <= entry.keys():
        raise DataError(f"{where}: its fields must be image, question and, if you like, id.")
    if unknown := sorted(entry.keys() - {*FIELDS, *UNREAD}):
        raise DataError(f"{where}: field {unknown[0]!r} is unknown; leave it out.")
    if not all(isinstance(entry[name], str) for name in FIELDS if name in entry):
        raise DataError(f"{where}: a field is no text; put it in quotes.")
    name = entry.get("id", str(number))
    if not is_safe_id(name) or not is_safe_id(entry["image"]):
        raise DataError(f"{where}: id or image is no plain name; leave out / \\ : and the like.")
    if not (folder / entry["image"]).is_file():
        raise DataError(f"{where}: image {entry['image']!r} is not in {folder}; put it there.")
    try:
        return Asked(name, entry["image"], check_question(entry["question"]))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def segment_many(system: System, folder: Path, asked: list[Asked], out: Path) -> list[dict]:
    """Answer all questions and write `out`; returns the lines of answers.jsonl.

    Started again after a kill, it goes on where it stopped. Raises DataError if another process is
    at `out`.
    """
    depends = depends_on(system.preset, (), __name__, system.mllm, system.segmenter)
    with alone(out):
        out.mkdir(parents=True, exist_ok=True)
        kept = Unfinished(out, depends | {"photos": str(folder.resolve())})
        rows = [
            kept.once(json.dumps(asdict(one)), partial(_answer, system, folder, one))
            for one in tqdm(asked, f"{folder.name}: answers")
        ]
        for row in rows:
            if "mask" in row:
                mask = mask_png(decode_mask(row["mask"]))
                write_atomically(out / "masks" / f"{row['id']}.png", mask)
        write_lines(out / "answers.jsonl", rows)
        write_json(out / "coco.json", as_coco(rows))
        kept.path.unlink()
    return rows


def _answer(system: System, folder: Path, one: Asked) -> dict:
    """The row of one question; a photo that can't be read is said, and no reason to stop."""
    who = {"id": one.name, "image": one.image, "question": one.question}
    try:
        photo = read_photo(folder / one.image)
    except DataError as error:
        return who | {"error": str(error)}
    return who | as_json(segment(system, photo, one.question), system) | {"photo": one.image}


def as_coco(rows: list[dict]) -> dict:
    """COCO's format: one category, a mask of every reference with its question's id."""
    images = {}
    for row in rows:
        if "mask" in row:
            number, size = len(images) + 1, {side: row[side] for side in ("width", "height")}
            images.setdefault(row["image"], {"id": number, "file_name": row["image"], **size})
    annotations = [
        {
            "image_id": images[row["image"]]["id"],
            "category_id": 1,
            "segmentation": reference["mask"],
            "question_id": row["id"],
            "iscrowd": 0,
        }
        for row in rows
        for reference in row.get("references", ())
    ]
    for number, annotation in enumerate(annotations, 1):
        mask = annotation["segmentation"]
        annotation |= {"id": number, "area": mask_area(mask), "bbox": coco.toBbox(mask).tolist()}
    categories = [{"id": 1, "name": "what was asked for"}]
    return {"images": list(images.values()), "annotations": annotations, "categories": categories}
