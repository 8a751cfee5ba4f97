"""`python -m foodseg.evaluation.external FOLDER --protocol ...`, which `make score` runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.evaluation.external.describe import describe, form_sentence
from foodseg.evaluation.external.readings import SCALES, parse_reading
from foodseg.evaluation.external.rows import PROTOCOLS, ExternalRow, check_row, rows_of_readings
from foodseg.evaluation.external.score import score
from foodseg.evaluation.leaderboard import write_leaderboard
from foodseg.presets import Preset, get_preset


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 1 if the input can't be used; 130 after Ctrl-C, with nothing half written."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.evaluation.external")
    parser.description = "Score what another system answered to the test questions."
    what = "masks: folder of <sample_id>.png, or a file of COCO run lengths; or completions: a file"
    parser.add_argument("answers", help=what + ' of lines {"id": sample id, "text": completion}')
    parser.add_argument("--preset", default="kitchen", help="whose test questions were asked")
    how = f"how the answers were made: {' or '.join(PROTOCOLS)}"
    parser.add_argument("--protocol", required=True, help=how)
    parser.add_argument("--name", default="", help="name of the row (default: the folder's)")
    parser.add_argument("--system", default="", help="title in the table (default: the name)")
    how = f"of completions, what their numbers are: {', '.join(SCALES)}; with ,last the last answer"
    parser.add_argument("--reading", default="", help=how + " counts, not the first")
    options = parser.parse_args(arguments)
    # A file's name that is no UTF-8 must not end this half way.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        preset = get_preset(options.preset)
        if not options.answers:
            fix = "name the folder of masks or the file of completions, as in PREDICTIONS=folder"
            raise DataError(f"PREDICTIONS: {fix}.")
        path = Path(os.path.realpath(options.answers))  # of a link in a circle `resolve` raises
        name = options.name or (path.parent if path.is_file() else path).name
        row = ExternalRow(name, options.system or name, options.protocol)
        print(_score(preset, path, row, options.reading))
        print(f"{write_leaderboard(preset)} has it.")
    except DataError as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"score: {error.filename or options.answers}: {error.strerror}; try again.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("score: interrupted; start it again.", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"make table PRESET={preset.data or preset.name} puts it into the results table.")
    return 0


def _score(preset: Preset, path: Path, row: ExternalRow, reading: str) -> str:
    """The rows in words; reading: "" for masks."""
    if not reading:
        return describe([score(preset, path, row)])
    stated = parse_reading(reading)
    for one in rows_of_readings(row, str(stated)):
        check_row(preset, one)
    # Here, since importing the models takes longer than all that comes before.
    from foodseg.evaluation.external.completions import score_completions

    results = score_completions(preset, path, row, stated)
    return f"{describe(results)}\n{form_sentence(preset, *results)}"


if __name__ == "__main__":
    sys.exit(main())
