"""A small FoodSeg103 + FoodReasonSeg folder in the official layout, with every known quirk.

50 plates, 40 of them in train. `Official` notes for each quirk what a build must make of it.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
from conftest import exif
from PIL import Image

from foodseg.data.foodseg103 import CATEGORIES

CHICKEN, RICE, CARROT, STEAK, OTHER = 48, 66, 84, 46, 103
HEIGHT, WIDTH = 36, 48
TRAIN = [f"{number:08d}" for number in range(1, 41)]
TEST = [f"{number:08d}" for number in range(41, 51)]


def class_mask(seed: int) -> np.ndarray:
    """uint8 (36, 48): rice, carrot, chicken, a speck of steak, and the labels no one asks for."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:14, 2 : 14 + seed % 7] = RICE
    mask[2:12, 26:40] = CARROT
    mask[20:32, 6:20] = CHICKEN
    mask[34, 40:44] = STEAK
    mask[30:, :3] = OTHER
    mask[0] = 255
    return mask


def messages(*texts: str) -> list[dict]:
    """Questions and answers that take turns."""
    forms = ("question", "answer")
    return [{"form": forms[i % 2], "value": text} for i, text in enumerate(texts)]


def usual(dish_id: str) -> list[dict]:
    """Three turns: two that are built and one that needs no mask."""
    return messages(
        f"What gives energy on plate {dish_id}?",
        "The {rice} [SEG1] does.",
        "Thank you!",
        "Enjoy your meal!",
        "And what for the eyes?",
        "The {carrots} [SEG1], and {duck} [SEG2] too.",
    )


class Folder:
    """A folder in the official layout, written file by file."""

    def __init__(self, root: Path):
        self.root = root
        self.entries: dict[str, list] = {"train": [], "test": []}
        for split in self.entries:
            for kind in ("img_dir", "ann_dir"):
                (root / "Images" / kind / split).mkdir(parents=True)

    def photo(self, dish: str, split: str = "train") -> Path:
        return self.root / f"Images/img_dir/{split}/{dish}.jpg"

    def mask(self, dish: str, split: str = "train") -> Path:
        return self.root / f"Images/ann_dir/{split}/{dish}.png"

    def plate(self, dish: str, split: str = "train", mask: np.ndarray | None = None) -> None:
        mask = class_mask(int(dish)) if mask is None else mask
        pixels = np.random.default_rng(int(dish)).integers(0, 255, (*mask.shape, 3), np.uint8)
        Image.fromarray(pixels).save(self.photo(dish, split))
        Image.fromarray(mask).save(self.mask(dish, split))

    def talk(self, dish: object, items: object, split: str = "train") -> str:
        """Adds an entry and returns its place in the file."""
        self.entries[split].append({"dish_id": dish, "conversations": items})
        return f"[{len(self.entries[split]) - 1}]"

    def write_names(self, names: dict[int, str] = CATEGORIES) -> None:
        """As Windows writes it: byte-order mark and CRLF."""
        lines = "".join(f"{class_id}\t{name}\r\n" for class_id, name in names.items())
        (self.root / "category_id.txt").write_bytes(lines.encode("utf-8-sig"))

    def write_entries(self, split: str) -> None:
        """As Windows writes it."""
        text = json.dumps(self.entries[split], indent=1).replace("\n", "\r\n")
        (self.root / f"FoodReasonSeg_{split}.json").write_bytes(text.encode("utf-8-sig"))


class Official(Folder):
    """The folder, and what its build must report.

    kept: sample ids by split. left_out: turns by split and reason. problems: (file, field, reason).
    """

    def __init__(self, root: Path):
        super().__init__(root)
        self.kept: dict[str, list[str]] = {"train": [], "test": []}
        self.left_out: dict[str, Counter] = {"train": Counter(), "test": Counter()}
        self.problems: dict[str, list] = {"train": [], "test": []}
        for split, dishes in (("train", TRAIN), ("test", TEST)):
            for dish in dishes:
                self.plate(dish, split)

    def keep(self, dish: str, *turns: int, split: str = "train", no_mask: int = 0) -> None:
        self.kept[split] += [f"{split}-{dish}-{turn}" for turn in turns]
        self.left_out[split]["needs no mask"] += no_mask

    def lose(self, reason: str, turns: int, file: str, field: str, split: str = "train") -> None:
        self.left_out[split][reason] += turns
        self.problems[split].append((file, field, reason))

    def as_usual(self, dish: str, written: object = None, split: str = "train") -> None:
        self.talk(dish if written is None else written, usual(dish), split)
        self.keep(dish, 0, 2, split=split, no_mask=1)

    def write(self) -> None:
        self.write_names(CATEGORIES | {12: "milk shake", 96: "french beans"})
        for split in self.entries:
            self.problems[split].append(("category_id.txt", "id 12", "category differs"))
            self.write_entries(split)


def write_official(root: Path) -> Official:
    """Writes the folder with everything that methods.md section 3 and the builder know of."""
    official = Official(root)
    dishes = iter(TRAIN)
    _ways_of_writing(official, dishes)
    _bad_plates(official, dishes)
    _bad_answers(official, dishes)
    _bad_turns(official, dishes)
    _bad_entries(official)
    for dish in dishes:
        official.as_usual(dish)
    for dish in TEST:
        official.as_usual(dish, split="test")
    official.write()
    return official


def _ways_of_writing(official: Official, dishes) -> None:
    """What differs from the usual and is built all the same."""
    official.as_usual(next(dishes))
    dish = next(dishes)
    official.as_usual(dish, written=dish.lstrip("0"))
    dish = next(dishes)
    official.as_usual(dish, written=int(dish))
    for name in ("Carrots", "CARROT", "chicken", "Chickens", "chicken duck", "chicken/duck"):
        dish = next(dishes)
        official.talk(dish, messages("Which?", f"The {{{name}}} [SEG1]."))
        official.keep(dish, 0)
    dish = next(dishes)  # the photo as PNG
    Image.open(official.photo(dish)).save(official.photo(dish).with_suffix(".PNG"), "PNG")
    official.photo(dish).unlink()
    official.as_usual(dish)
    dish = next(dishes)  # the mask with a palette
    palette = Image.fromarray(class_mask(int(dish)))
    palette.putpalette([(value * 37) % 256 for value in range(768)])
    palette.save(official.mask(dish))
    official.as_usual(dish)
    dish = next(dishes)  # the mask with 16 bits
    Image.fromarray(class_mask(int(dish)).astype(np.uint16)).save(official.mask(dish))
    official.as_usual(dish)
    dish = next(dishes)  # lying on its side, as a few of FoodSeg103's photos do; the mask upright
    lying = Image.open(official.photo(dish)).transpose(Image.Transpose.ROTATE_90)
    lying.save(official.photo(dish), exif=exif(6))
    official.as_usual(dish)
    dish = next(dishes)  # a class that isn't in the list
    mask = class_mask(int(dish))
    mask[33, :3] = 200
    Image.fromarray(mask).save(official.mask(dish))
    official.as_usual(dish)
    file = f"Images/ann_dir/train/{dish}.png"
    official.problems["train"].append((file, "pixels", "unknown class id"))


def _bad_plates(official: Official, dishes) -> None:
    """Photos and masks that can't be used: two turns lost, and two that are no loss of theirs."""
    mask = Image.fromarray(class_mask(0))
    coloured = Image.merge("RGB", (mask, mask, Image.new("L", mask.size)))

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:500])

    def link(path: Path) -> None:
        path.symlink_to(path.rename(official.root / "elsewhere.jpg"))

    def turn(path: Path) -> None:
        """The photo is shown turned, and its mask lies as the photo is stored."""
        official.turned = path.stem
        Image.open(official.photo(path.stem)).save(official.photo(path.stem), exif=exif(6))

    for place, field, reason, spoil in (
        (official.photo, "file", "missing image", Path.unlink),
        (official.mask, "file", "missing mask", Path.unlink),
        (official.photo, "pixels", "unreadable image", cut),
        (official.mask, "pixels", "unreadable mask", lambda path: path.write_text("<html>")),
        (official.mask, "channels", "coloured pixels", coloured.save),
        (official.mask, "format", "JPEG under a PNG's name", lambda path: mask.save(path, "JPEG")),
        (official.mask, "pixels", "no class ids", mask.point(bool).convert("1").save),
        (official.mask, "size", "image and mask sizes differ", mask.crop((1, 0, 48, 36)).save),
        (official.mask, "size", "image and mask sizes differ", turn),
        (official.photo, "link", "unsafe dish_id", link),
    ):
        dish = next(dishes)
        spoil(place(dish))
        where = official.talk(dish, usual(dish) + messages("And then?", "{rice}"))
        official.left_out["train"]["needs no mask"] += 1
        official.lose(reason, 2, place(dish).relative_to(official.root).as_posix(), field)
        field = f"{where}.conversations[7].value"
        official.lose("{name} without [SEG]", 1, "FoodReasonSeg_train.json", field)


def _bad_answers(official: Official, dishes) -> None:
    """One faulty answer, with an ingredient that is right, between two good ones."""
    for answer, reason in (
        ("The {unicorn} [SEG1].", "unknown ingredient"),
        ("The [SEG1] is rich.", "[SEG] without a name"),
        ("The {rice} is rich.", "{name} without [SEG]"),
        ("The {background} [SEG1].", "excluded label"),
        ("All {other ingredients} [SEG1].", "excluded label"),
        ("The {tomatoes} [SEG1].", "empty mask"),
        ("The {steak} [SEG1].", "mask too small"),
    ):
        dish = next(dishes)
        good = "The {rice} [SEG1]."
        bad = "{carrot} [SEG9]. " + answer
        where = official.talk(dish, messages("One?", good, "Two?", bad, "Three?", good))
        file, field = "FoodReasonSeg_train.json", f"{where}.conversations[3].value"
        if "without [SEG]" in reason:  # the carrot has one: the rice loses its braces
            official.keep(dish, 0, 1, 2)
            official.problems["train"].append((file, field, reason))
        else:
            official.keep(dish, 0, 2)
            official.lose(reason, 1, file, field)


def _bad_turns(official: Official, dishes) -> None:
    """Messages without a partner, of wrong shape, repeated; and a dish that has two entries."""
    file = "FoodReasonSeg_train.json"
    good = "The {rice} [SEG1]."
    dish = next(dishes)
    items = messages("Lost?", good, "One?", good, "Two?", good)
    del items[5], items[0]
    where = official.talk(dish, items)
    official.keep(dish, 1)
    official.lose("answer without a question", 1, file, f"{where}.conversations[0].value")
    official.lose("question without an answer", 1, file, f"{where}.conversations[3].value")
    dish = next(dishes)
    items = messages("One?", good, "Two?", good, "Three?", "half a pair: \ud800")
    items[1] = {"form": "answer", "value": 3}
    where = official.talk(dish, items)
    official.keep(dish, 1)
    official.lose("wrong shape", 1, file, f"{where}.conversations[1]")
    official.lose("wrong shape", 1, file, f"{where}.conversations[5]")
    dish = next(dishes)
    where = official.talk(dish, messages("One?", good, "One?", good))
    official.keep(dish, 0)
    official.lose("duplicate turn", 1, file, f"{where}.conversations[3].value")
    dish = next(dishes)
    official.talk(dish, messages("One?", good, "Two?", good))
    again = official.talk(int(dish), messages("Three?", good))  # the same dish, its id unpadded
    where = official.talk(dish, messages("One?", good, "Four?", good))
    official.keep(dish, 0, 1, 2, 4)  # it goes on counting
    official.left_out["train"]["duplicate turn"] += 1
    for entry in (again, where):
        official.problems["train"].append((file, f"{entry}.dish_id", "duplicate dish_id"))


def _bad_entries(official: Official) -> None:
    """Entries that name no plate of this folder."""
    file = "FoodReasonSeg_train.json"
    turn = messages("One?", "The {rice} [SEG1].")
    for dish in (f"../test/{TEST[0]}", "/etc/passwd", "..\\x", "a/x", "", "..", "C:x", "b\0d"):
        where = official.talk(dish, turn)
        official.lose("unsafe dish_id", 1, file, f"{where}.dish_id")
    official.talk("99999999", turn)
    official.lose("missing image", 1, "Images/img_dir/train/99999999.jpg", "file")
    where = official.talk(None, turn)
    official.lose("wrong shape", 1, file, f"{where}.dish_id")
    for entry in (5, {"dish_id": TRAIN[0]}, {"dish_id": TRAIN[0], "conversations": []}):
        official.entries["train"].append(entry)
        where = f"[{len(official.entries['train']) - 1}]"
        official.lose("wrong shape", 1, file, where)
    official.entries["train"].append({"conversations": turn})
    where = f"[{len(official.entries['train']) - 1}].dish_id"
    official.lose("wrong shape", 1, file, where)
