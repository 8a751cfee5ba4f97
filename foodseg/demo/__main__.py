"""`make demo`, or `python -m foodseg.demo`: a page in the browser, on this machine alone."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

from foodseg.common.errors import DataError

if TYPE_CHECKING:
    from foodseg.demo.systems import Systems

LOCAL = "127.0.0.1"


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C. Exit status: 1 if gradio, the data or the preset is missing."""
    options = _parse(arguments)
    if find_spec("gradio") is None:
        print("demo: gradio is not installed; `make demo` installs it.", file=sys.stderr)
        return 1
    # Gradio would report its use and ask for its newest version.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # What is uploaded and answered is gone when the page is, also when it is killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory(prefix="foodseg-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            _serve(options, folder)
        except DataError as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m foodseg.demo", description=__doc__)
    parser.add_argument("--preset", default="kitchen", help="smoke, kitchen (default) or paper")
    parser.add_argument("--host", default=LOCAL, help=f"{LOCAL} (default): this machine alone")
    parser.add_argument("--port", type=int, help="the first free one from 7860 on by default")
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace, folder: str) -> None:
    # After the environment is set, which gradio reads when it is imported.
    from foodseg.demo.page import Page
    from foodseg.demo.systems import Systems
    from foodseg.presets import get_preset
    from foodseg.segment.plates import load_plates, load_vocabulary

    preset = get_preset(options.preset)
    systems = Systems(preset)
    page = Page(systems, load_plates(preset), load_vocabulary(preset), folder)
    threading.Thread(target=_load, args=(systems,), daemon=True).start()
    try:
        address = page.launch(options.host, options.port)
    except OSError as error:
        raise DataError(f"--port {options.port}: it can't be used ({error}).") from None
    print(f"demo: open {address} (Ctrl-C ends it)", flush=True)
    page.blocks.block_thread()


def _load(systems: Systems) -> None:
    """Load what is ticked at first while the page opens."""
    for name in systems.first():
        try:
            with systems.use(name):
                pass
        except DataError as error:  # the page says it again to who asks this system
            print(f"demo: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
