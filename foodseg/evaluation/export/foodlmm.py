"""FoodReasonSeg-Single as FoodReasonSeg, for FoodLMM's own code.

    <root>/FoodSeg103/category_id.txt
    <root>/FoodSeg103/FoodReasonSeg_<split>.json          one conversation of one turn each
    <root>/FoodSeg103/Images/img_dir/<split>/<sample_id>.jpg
    <root>/FoodSeg103/Images/ann_dir/<split>/<sample_id>.png    class ids, of the answer's foods

A sample's `dish_id` is its sample id. As the reader has it (`utils/S2_f103_dataset.py`): a question
begins with `<image>`, an ingredient is `{name} [SEGn]`, and a name's class is its line in
category_id.txt. It skips a conversation with a name that it can't resolve, so none is written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm
from foodseg.data.food_names import index_names, name_to_class
from foodseg.data.foodreasonseg import IMAGE_TOKEN
from foodseg.data.foodseg103 import CATEGORIES, EXCLUDED_LABELS, Problem, read_categories
from foodseg.data.references import decode_mask
from foodseg.data.samples import Sample
from foodseg.evaluation.export.photos import place_photo

COMPOUND = "chicken duck"  # the one label whose halves the reader knows


def write_foodlmm(root: Path, dataset: Path, split: str, samples: Sequence[Sample]) -> dict:
    """Writes one split's samples; dataset: the folder that their `image` is relative to.

    Returns counts for the report; reworded: answers that name a food in no way that the reader
    knows, so that its name was added. Raises DataError for a photo that isn't its sample's, or for
    more classes than 8 bits hold.
    """
    folder = root / "FoodSeg103"
    names = _write_categories(folder, dataset / "category_id.txt", samples)
    images, masks = (folder / "Images" / kind / split for kind in ("img_dir", "ann_dir"))
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    placed, reworded, problems, entries = Counter(), [], [], []
    for sample in tqdm(samples, f"foodlmm {split}"):
        if sample.no_target:
            fix = "its reader takes no answer without a [SEG]; it was left out"
            problems.append(Problem(sample.sample_id, "answer", "nothing in the photo fits", fix))
            continue
        target = images / f"{sample.sample_id}.jpg"
        placed[place_photo(dataset / sample.image, target, sample)] += 1
        classes, overlap = class_mask(sample, names)
        Image.fromarray(classes).save(masks / f"{sample.sample_id}.png")
        if overlap:
            fix = f"{overlap} pixels are two foods'; each was given to the later one"
            problems.append(Problem(f"{sample.sample_id}.png", "pixels", "foods overlap", fix))
        answer, added = mark_foods(sample, names)
        reworded += [sample.sample_id] * added
        question = f"{IMAGE_TOKEN}\n{sample.question}"
        turns = [{"form": "question", "value": question}, {"form": "answer", "value": answer}]
        entries.append({"dish_id": sample.sample_id, "conversations": turns})
    text = json.dumps(entries, indent=1)
    (folder / f"FoodReasonSeg_{split}.json").write_text(text + "\n", encoding="ascii")
    counts = {"samples": len(entries), "photos": dict(placed)}
    return counts | {"reworded": reworded, "problems": list(map(str, problems))}


def _write_categories(folder: Path, source: Path, samples: Iterable[Sample]) -> list[str]:
    """The class names, each at its id; the dataset's own ones, and foods that it hasn't after them.

    Lower case, because the reader looks for nothing else.
    """
    categories = read_categories(source) if source.is_file() else CATEGORIES
    names = [categories.get(i, f"unused {i}").lower() for i in range(max(categories) + 1)]
    foods = {food.lower() for sample in samples for food in sample.foods}
    names += sorted(foods - set(names))
    if len(names) > max(EXCLUDED_LABELS):
        raise DataError(f"{source}: {len(names)} classes are more than one 8-bit channel can hold.")
    lines = "".join(f"{number}\t{name}\n" for number, name in enumerate(names))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "category_id.txt"
    if path.exists() and path.read_text(encoding="utf-8") != lines:
        raise DataError(f"{source}: train and test have other foods; export each by itself.")
    path.write_text(lines, encoding="utf-8")
    return names


def class_mask(sample: Sample, names: Sequence[str]) -> tuple[np.ndarray, int]:
    """(uint8 (H, W) of class ids, 0 where no food of the answer is; pixels of several foods)."""
    classes = np.zeros((sample.height, sample.width), dtype=np.uint8)
    overlap = 0
    for food, encoded in zip(sample.reference_foods, sample.masks, strict=True):
        mask, number = decode_mask(encoded), names.index(food.lower())
        overlap += int(np.count_nonzero(mask & (classes > 0) & (classes != number)))
        classes[mask] = number
    return classes, overlap


def mark_foods(sample: Sample, names: Sequence[str]) -> tuple[str, bool]:
    """(the answer with its foods marked `{name} [SEGn]`, whether their names had to be added).

    Each food is marked where the answer says it, after the one before, if FoodLMM's reader takes
    the word for it; if one can't be, all are listed after the answer's words.
    """
    known = index_names(dict(enumerate(names)))
    marked, rest = "", sample.answer
    for number, food in enumerate(sample.foods, start=1):
        word = _find(rest, names.index(food.lower()), names, known)
        if word is None:
            listed = [f"{{{name.lower()}}} [SEG{i}]" for i, name in enumerate(sample.foods, 1)]
            return f"{sample.answer} {', '.join(listed)}".strip(), True
        marked += f"{rest[: word.start()]}{{{word[0]}}} [SEG{number}]"
        rest = rest[word.end() :]
    return marked + rest, False


def _find(
    text: str, number: int, names: Sequence[str], known: dict[str, int]
) -> re.Match[str] | None:
    """The first word or words that both readers take for the class, the longest ones there."""
    most = max(len(name.split()) for name in names)
    for start in re.finditer(r"\b\w", text):
        for words in range(most, 0, -1):
            pattern = re.compile(r"\w+(-\w+)*" + r" \w+(-\w+)*" * (words - 1))
            found = pattern.match(text, start.start())
            if not found:
                continue
            if name_to_class(found[0], known) == number == foodlmm_class(found[0], names):
                return found
    return None


def foodlmm_class(word: str, names: Sequence[str]) -> int | None:
    """The class that FoodLMM's reader takes a name for, None where it would skip the conversation.

    Lower case first, then with one, two or three last letters less, or "y" for the last three.
    """
    forms = [word[:-1], word[:-3] + "y", word[:-2], word[:-3]]
    forms = [word.lower(), *map(_compound, [*forms, *map(str.lower, forms)])]
    return next((names.index(form) for form in forms if form in names), None)


def _compound(form: str) -> str:
    """A shortened word that is a part of "duck" or "chicken" means both."""
    return COMPOUND if form in "duck" or form in "chicken" else form
