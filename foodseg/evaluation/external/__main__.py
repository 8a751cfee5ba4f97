"""`python -m foodseg.evaluation.external FOLDER --protocol ...`, which `make score` runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.evaluation.external.rows import PROTOCOLS, ExternalRow
from foodseg.evaluation.external.score import describe, score
from foodseg.presets import get_preset


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 1 if the input can't be used; 130 after Ctrl-C, with nothing half written."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.evaluation.external")
    parser.description = "Score the masks that another system predicted for the test questions."
    parser.add_argument("masks", help="folder of <sample_id>.png, or a file of COCO run lengths")
    parser.add_argument("--preset", default="kitchen", help="whose test questions were asked")
    how = f"how the masks were made: {' or '.join(PROTOCOLS)}"
    parser.add_argument("--protocol", required=True, help=how)
    parser.add_argument("--name", default="", help="name of the row (default: the folder's)")
    parser.add_argument("--system", default="", help="title in the table (default: the name)")
    options = parser.parse_args(arguments)
    # A file's name that is no UTF-8 must not end this half way.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        preset = get_preset(options.preset)
        if not options.masks:
            raise DataError("PREDICTIONS: name the folder of masks, as in PREDICTIONS=folder.")
        path = Path(os.path.realpath(options.masks))  # of a link in a circle `resolve` raises
        name = options.name or (path.parent if path.is_file() else path).name
        row = ExternalRow(name, options.system or name, options.protocol)
        print(describe(score(preset, path, row)))
    except ValueError as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"score: {error.filename or options.masks}: {error.strerror}; try again.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("score: interrupted; start it again.", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"make table PRESET={preset.data or preset.name} puts it into the results table.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
