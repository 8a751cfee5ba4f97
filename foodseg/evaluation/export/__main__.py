"""Write FoodReasonSeg-Single in a layout that other systems read.

    python -m foodseg.evaluation.export lisa --preset paper --out FOLDER
    python -m foodseg.evaluation.export foodlmm --preset paper --out FOLDER --splits train test
    python -m foodseg.evaluation.export plain --preset paper --out FOLDER

lisa is ReasonSeg's layout, foodlmm FoodReasonSeg's, plain JSON lines and a folder of photos.
docs/other_systems.md says what to do with it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.files import write_json
from foodseg.common.provenance import find_commit
from foodseg.data.foodseg103 import SPLITS
from foodseg.data.samples import load_samples
from foodseg.evaluation.export.foodlmm import write_foodlmm
from foodseg.evaluation.export.lisa import write_lisa
from foodseg.evaluation.export.plain import write_plain
from foodseg.presets import Preset, get_preset

WRITERS = {"lisa": write_lisa, "foodlmm": write_foodlmm, "plain": write_plain}
REPORT = "export_report.json"


def export(layout: str, preset: Preset, out: Path, splits: list[str]) -> dict:
    """Write the splits to `out`, whole or not at all, with export_report.json; returns the report.

    Everything is written to `<out>.partial` and renamed at the end. Raises DataError if `out`
    exists and isn't an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: it is there already; remove it, or name another folder.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    report = {"layout": layout, "preset": preset.name, "commit": find_commit(), "splits": {}}
    try:
        partial.mkdir(parents=True)
        for split in splits:
            samples = load_samples(preset.samples_file(split))
            report["splits"][split] = WRITERS[layout](partial, preset.dataset, split, samples)
        write_json(partial / REPORT, report)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0; 1 if the input can't be used; 130 after Ctrl-C, with no half export left."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.evaluation.export")
    parser.description = "Write FoodReasonSeg-Single in a layout that other systems read."
    parser.add_argument("layout", choices=WRITERS, help="whose code is to read it; plain: any")
    parser.add_argument("--preset", default="kitchen", help="whose data")
    where = "folder to write, which must not exist yet"
    parser.add_argument("--out", type=Path, required=True, help=where)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["test"])
    options = vars(parser.parse_args(arguments))
    try:
        report = export(**options | {"preset": get_preset(options["preset"])})
    except DataError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export: interrupted; nothing was written.", file=sys.stderr)
        return 128 + signal.SIGINT
    text = f"written; {REPORT} in it has this account. Next: docs/other_systems.md."
    print(json.dumps(report["splits"], indent=1), f"{options['out']}: {text}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
