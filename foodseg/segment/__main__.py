"""Ask about any photo: `python -m foodseg.segment photo.jpg "which food is rich in iron?"`.

The answer goes to stdout as text or JSON, the picture and the mask into files. Many photos of a
folder are asked about by `python -m foodseg.segment folder --questions FILE --out FOLDER`. A test
plate's own questions are listed by `python -m foodseg.segment photo.jpg --suggest`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import write_atomically
from foodseg.data.photos import read_photo
from foodseg.presets import Preset, get_preset
from foodseg.segment.answer import Segmentation, System, check_question, load_system, segment
from foodseg.segment.many import read_asked, segment_many
from foodseg.segment.plates import suggest_questions, warn_of_words, words_unseen_in_training
from foodseg.segment.written import as_json, describe, mask_png


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, also for an answer that can't be parsed; 1 for input that is no use."""
    options = _parse(arguments)
    try:
        if Path(options.photo).is_dir() or options.questions or options.out:
            return _ask_many(options)
        if options.suggest:
            return _suggest(options)
        if options.question is None:
            raise DataError("question: it is missing; ask for a food, or --suggest lists some.")
        _check_outputs(options)
        # Before the models are loaded, which takes long.
        photo, question = read_photo(options.photo), check_question(options.question)
        system = load_system(get_preset(options.preset), options.adapter)
        answer = segment(system, photo, question)
        _write(options, answer, system)
        _warn_of_unseen(system.preset, question)
    except DataError as error:
        print(f"segment: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m foodseg.segment",
        description="Ask about the food in a photo; the answer is text, boxes, points and a mask.",
        epilog="All pixels are those of the photo as it is shown, after EXIF's orientation.",
    )
    parser.add_argument("photo", help="JPEG, PNG, WebP, ...; or a folder of them")
    parser.add_argument("question", nargs="?", help='such as "which food is rich in iron?"')
    parser.add_argument("--preset", default="kitchen", help="smoke, kitchen (default) or paper")
    parser.add_argument("--adapter", help="a run's adapter folder; without it the base answers")
    words = "list the questions that a test plate comes with, and ask none"
    parser.add_argument("--suggest", action="store_true", help=words)
    parser.add_argument("-o", "--overlay", help="write the picture of the answer, .png")
    parser.add_argument("--mask", help="write the mask, .png: 255 where the food is, 0 elsewhere")
    words = "write all of it as JSON: into this .json file, or without one in place of the text"
    parser.add_argument("--json", nargs="?", const="-", help=words)
    words = 'of a folder: a file with a line {"image": ..., "question": ..., "id": ...} for each'
    parser.add_argument("--questions", help=words)
    words = "of a folder: where to write answers.jsonl, masks/<id>.png and coco.json"
    parser.add_argument("--out", help=words)
    return parser.parse_args(arguments)


def _ask_many(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 if a photo could not be read."""
    folder = Path(options.photo)
    if not folder.is_dir():
        fix = "name a folder of photos, or leave --questions and --out out"
        raise DataError(f"{options.photo}: there is no such folder; {fix}.")
    single = (options.question, options.overlay, options.mask, options.json)
    if not (options.questions and options.out) or any(value is not None for value in single):
        fix = "leave the question, -o, --mask and --json out, and give --questions and --out"
        raise DataError(f"{options.photo}: for a folder of photos {fix}.")
    out = Path(options.out)
    if out.name in ("", "..") or (out.exists() and not out.is_dir()) or not _can_be_made(out):
        raise DataError(f"--out {out}: it can't be written there; name a new folder.")
    asked = read_asked(Path(options.questions), folder)
    system = load_system(get_preset(options.preset), options.adapter)
    rows = segment_many(system, folder, asked, out)
    unread = sum("error" in row for row in rows)
    unparsed = sum(not row["parsed"] for row in rows if "error" not in row)
    _say_who(options, system)
    print(
        f"{len(rows)} questions; of {unparsed} the answer could not be parsed; {unread} photos "
        f"could not be read; written: {options.out}"
    )
    _warn_of_unseen(system.preset, " ".join(one.question for one in asked))
    return 1 if unread else 0


def _suggest(options: argparse.Namespace) -> int:
    outputs = (options.question, options.adapter, options.overlay, options.mask, options.json)
    if any(value is not None for value in outputs):
        raise DataError("--suggest: it lists questions and asks none; leave the others out.")
    print("\n".join(suggest_questions(get_preset(options.preset), options.photo)))
    return 0


def _warn_of_unseen(preset: Preset, question: str) -> None:
    if warning := warn_of_words(words_unseen_in_training(preset, question)):
        print(f"segment: {warning} --suggest lists a plate's questions.", file=sys.stderr)


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse outputs with a wrong suffix, or that would overwrite the photo or one another."""
    outputs = [(options.overlay, ".png"), (options.mask, ".png"), (options.json, ".json")]
    written = [(Path(name), suffix) for name, suffix in outputs if name not in (None, "-")]
    for path, suffix in written:
        if path.suffix.lower() != suffix:
            raise DataError(f"{path}: this is written as {suffix}; give it a name that ends so.")
        if path.is_dir() or not _can_be_made(path):
            raise DataError(f"{path}: it can't be written there; name a file in another folder.")
    # Not Path.resolve(), which raises for a link in a circle.
    paths = [os.path.realpath(path) for path in (options.photo, *(path for path, _ in written))]
    if len(set(paths)) < len(paths):
        raise DataError("outputs: one of them has the name of the photo or of another; rename it.")


def _can_be_made(path: Path) -> bool:
    """Whether what lies above is a folder that may be written."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    return above.is_dir() and os.access(above, os.W_OK)


def _write(options: argparse.Namespace, answer: Segmentation, system: System) -> None:
    _say_who(options, system)
    if options.json:
        text = json.dumps(as_json(answer, system), indent=2)
        print(text) if options.json == "-" else _save(options.json, text.encode())
    if options.json != "-":
        print(describe(answer))
    if options.overlay:
        # Only where a picture is drawn: matplotlib takes a second to import.
        from foodseg.segment.picture import picture_png

        _save(options.overlay, picture_png(answer))
    if options.mask:
        _save(options.mask, mask_png(answer.mask))


def _say_who(options: argparse.Namespace, system: System) -> None:
    who = options.adapter or "the base model, without an adapter"
    print(f"preset {system.preset.name}, {who}", file=sys.stderr)


def _save(path: str, content: bytes) -> None:
    write_atomically(Path(path), content)
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
