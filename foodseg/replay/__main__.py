"""`make replay`, or `python -m foodseg.replay`: write build/<preset>/replay.html.

Nothing is trained for it: the runs' own logs have the words, SAM2 draws their masks again.
"""

from __future__ import annotations

import argparse
import sys

from foodseg.common.errors import DataError
from foodseg.common.files import PROJECT
from foodseg.presets import get_preset

LEFT = {
    "old": "train again, an older version wrote the log",
    "too much": "left out, the file would be larger than 5 MB",
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 1 if there is no run, no data or no such preset."""
    parser = argparse.ArgumentParser(prog="python -m foodseg.replay", description=__doc__)
    parser.add_argument("--preset", default="kitchen", help="smoke, kitchen (default) or paper")
    options = parser.parse_args(arguments)
    from foodseg.replay.page import write_page

    try:
        preset = get_preset(options.preset)
        path = PROJECT / "build" / preset.name / "replay.html"
        names = write_page(preset, path)
    except DataError as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    for kind, why in LEFT.items():
        if names[kind]:
            print(f"replay: {', '.join(names[kind])}: {why}.")
    size = path.stat().st_size / 1e6
    shown = ", ".join(names["shown"])
    print(f"Written: {path.relative_to(PROJECT)} ({size:.1f} MB; {shown}). Open it in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
