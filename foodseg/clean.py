"""Remove what every preset but paper, and the site, left in build, datasets and runs: `make clean`.

    python -m foodseg.clean

Only files that the kit writes are removed, and the folders that this empties. No link is followed.
Whatever else lies there stays, and a sentence names it. The standard library is enough, so this
runs without the environment, on any Python from 3.8 on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from foodseg.common.files import PROJECT, home

# `presets.DRAWN` by name, which only the environment can import, and the dry run.
DRAWN = ("kitchen", "smoke", "dry-run", "kitchen-nothing", "smoke-nothing")
# A file that was being written has one of these behind its name.
ENDINGS = ("", ".part", ".partial", ".*.partial")


@dataclass(frozen=True)
class Known:
    """What the kit writes into a folder: its files and its folders, by patterns of their names.

    ours: tells from a folder's path whether the kit wrote it, where the name can be any.
    marks: what a file of that name contains if the kit wrote it, where others write one too.
    """

    files: tuple[str, ...] = ()
    folders: dict[str, Known] = field(default_factory=dict)
    ours: Callable[[Path], bool] = Path.is_dir
    marks: dict[str, bytes] = field(default_factory=dict)

    def has_file(self, path: Path) -> bool:
        """Whether this is one of its files, whole or half written."""
        names = (pattern + ending for pattern in self.files for ending in ENDINGS)
        if not path.is_file() or not any(fnmatchcase(path.name, name) for name in names):
            return False
        return path.name not in self.marks or self.marks[path.name] in path.read_bytes()

    def folder(self, path: Path) -> Known | None:
        """What is known of this folder in it; None for a folder that the kit did not write."""
        fitting = (inner for name, inner in self.folders.items() if fnmatchcase(path.name, name))
        inner = next(fitting, None)
        return inner if inner and inner.ours(path) else None


def _is_run(folder: Path) -> bool:
    """Whether its config.json is that of a training; other programs write a config.json too."""
    path = folder / "config.json"
    if path.is_symlink() or not path.is_file():
        return False
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(config, dict) and {"preset", "recipe", "seed"} <= config.keys()


def _holds(*names: str) -> Callable[[Path], bool]:
    return lambda folder: any((folder / name).is_file() for name in names)


def _any_of(*files: str, also: tuple[str, ...] = ()) -> Known:
    """Folders of any name, each with one or more of these files, and beside them `also`."""
    return Known(also, {"*": Known(files, ours=_holds(*files))})


_ADAPTER = Known(
    (
        *("adapter_config.json", "adapter_model.safetensors", "prompt_template.txt", "README.md"),
        *("trained_for.json", "decoder.safetensors", "mask_head.safetensors"),
    )
)
_RUN = Known(
    ("config.json", "log.jsonl", "tool.jsonl", "own_answers.txt", "state.pt", "result.json"),
    {"adapter": _ADAPTER, "adapter.partial": _ADAPTER},
    _is_run,
)
# What `foodseg.merge` writes: for training in two stages, as <run>-<hash of its adapter>.
_MERGED = Known(
    (
        *("*.json", "*.safetensors", "chat_template.jinja", "merges.txt", "prompt_template.txt"),
        "README.md",
    )
)
_MERGED_NAME = "*-seed[0-9]*-" + "[0-9a-f]" * 16
RUNS = Known(
    ("*-seed[0-9]*.lock",),
    {
        "predictions": _any_of("predictions.jsonl", "result.json", "unfinished.jsonl"),
        "ablations": _any_of("outcome.json", "output.txt", also=("*.lock",)),
        "merged": Known(folders=dict.fromkeys((_MERGED_NAME, f"{_MERGED_NAME}.partial"), _MERGED)),
        "*": _RUN,
    },
)


def _splits(pattern: str) -> Known:
    return Known(folders={split: Known((pattern,)) for split in ("train", "test")})


# A plate's file is named by its seed, of eight digits.
_IMAGES = {"img_dir": _splits("[0-9]" * 8 + ".jpg"), "ann_dir": _splits("[0-9]" * 8 + ".png")}
_FOODSEG103 = Known(
    ("category_id.txt", "FoodReasonSeg_train.json", "FoodReasonSeg_test.json"),
    {"Images": Known(folders=_IMAGES)},
)
_SINGLE = tuple(
    f"foodreasonseg_single_{split}.{kind}"
    for split in ("train", "test")
    for kind in ("parquet", "report.json", "unchecked")
)
DATASETS = Known(
    (*_SINGLE, "README.md", "FoodSeg103.lock"),
    {"FoodSeg103": _FOODSEG103, "FoodSeg103.partial": _FOODSEG103},
    # Whoever makes the card their own takes this line out of it.
    marks={"README.md": b"<!-- Written by `python -m foodseg."},
)

_FIGURES = Known(
    tuple(
        f"{name}.{kind}"
        for name in (
            *("shared_prefix", "results_bars", "results_table", "learning_curves", "failures"),
            *("segmentation_results", "gains", "ablations", "ablations_validation"),
            *("leaderboard", "claims", "nothing_here", "rounding", "blind_answers"),
        )
        for kind in ("png", "pdf", "md", "tex", "csv")
    ),
    {"records*": Known(("*.json.xz",))},
)
_WEIGHTS = Known(
    ("complete", "sam2.1_hiera_large.pt"),
    {"mllm": Known(("*.json", "*.safetensors", "chat_template.jinja"))},
)


def _build(notebooks: Path) -> Known:
    """A preset's folder in build, where the notebooks of this folder are executed."""
    names = [path.stem for path in notebooks.glob("*.ipynb")]
    kinds = ("ipynb", "running.ipynb", "failed.ipynb", "ipynb.lock")
    executed = (f"{name}.{kind}" for name in names for kind in kinds)
    stamps = "seeds-[0-9]*", "table_rows", "replay.html"
    return Known((*executed, *stamps), {"figures": _FIGURES, "weights": _WEIGHTS})


# Sphinx's files have any name; the search's index says that this folder is its.
_ANY = Known(("*",))
_ANY.folders["*"] = _ANY
SITE = Known(("*",), {"*": _ANY}, _holds("searchindex.js"))
# Without these, the rest of an interrupted clean would be nobody's: they go last.
LAST = ("config.json", "searchindex.js")


def clean(project: Path, home: Path) -> list[str]:
    """Remove what the kit wrote under the checkout and under FOODSEG_HOME.

    Returns a sentence for each folder in which something was removed and for all that is left.
    Raises OSError for what can't be read or removed.
    """
    build = _build(project / "notebooks")
    places = [(project / "build", name, build) for name in DRAWN]
    # A home that is not the checkout keeps the kitchen's figures there.
    places += [(home / "build", name, build) for name in DRAWN if name != "kitchen"]
    places += [(home / "datasets", name, DATASETS) for name in DRAWN]
    places += [(home / "runs", name, RUNS) for name in DRAWN]
    places += [(project / "build", "site", SITE)]
    said: list[str] = []
    for parent, name, known in places:
        folder = parent / name
        link = next((path for path in (parent, folder) if path.is_symlink()), None)
        if link:
            said.append(f"Left {link}: it is a link.")
        elif folder.is_dir() and not known.ours(folder):
            said.append(f"Left {folder}: the kit did not write it.")
        elif folder.is_dir():
            left: list[str] = []
            if count := _remove(folder, known, left):
                said.append(f"Removed from {folder}: {count} files.")
            said += left
    # The checkout may be the home, and a link may stand before several presets.
    return list(dict.fromkeys(said))


def _remove(folder: Path, known: Known, left: list[str]) -> int:
    """Remove the known files and the folders without any; returns how many files that were."""
    count = 0
    for path in sorted(folder.iterdir(), key=lambda path: (path.name in LAST, path)):
        if path.is_symlink():
            left.append(f"Left {path}: it is a link.")
        elif inner := known.folder(path):
            count += _remove(path, inner, left)
        elif known.has_file(path):
            path.unlink()
            count += 1
        else:
            left.append(f"Left {path}: the kit did not write it.")
    if not any(folder.iterdir()):
        folder.rmdir()
    return count


def main() -> int:
    """Exit status: 0, or 1 for what can't be removed."""
    # A name that is no UTF-8 must not end this half way.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        said = clean(PROJECT, home())
    except (OSError, ValueError) as error:
        print(f"clean: {error}", file=sys.stderr)
        return 1
    print("\n".join(said or ["There is nothing to remove."]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
