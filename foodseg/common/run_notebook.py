"""Run one notebook headlessly: all of it, or nothing that looks finished.

    python -m foodseg.common.run_notebook notebooks/X.ipynb build/kitchen/X.ipynb PRESET=kitchen

Papermill writes its output file even when a cell fails, and make would take that for a result. Here
only a notebook that ran to its end becomes X.ipynb; a failed one is kept as X.failed.ipynb.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import papermill
from ipykernel.kernelspec import write_kernel_spec
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from foodseg.common.files import writing
from foodseg.common.lock import alone

SECONDS_TO_START_A_KERNEL = 300
SECONDS_BETWEEN_REPORTS = 20


class _HeadingEngine(NBClientEngine):
    """Papermill's engine, which also prints each heading and, now and then, the progress bar.

    As lines: two notebooks that run side by side would redraw their bars on one line. Parameters
    are written into their own cell: papermill would add a second one below it.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, title, values, **options):
        set_parameters(nb_man.nb, values)
        start, autosave = nb_man.cell_start, nb_man.autosave_cell
        running, printed = {}, time.monotonic()

        def announce(cell, cell_index=None, **kwargs):
            running["cell"] = cell
            if heading := _heading(cell):
                print(f"{title}: {heading}", flush=True)
            start(cell, cell_index, **kwargs)

        def report():  # called after every message of the kernel
            nonlocal printed
            autosave()
            if time.monotonic() - printed > SECONDS_BETWEEN_REPORTS:
                printed = time.monotonic()
                if bar := _last_bar(running["cell"]):
                    print(f"{title}: {bar}", flush=True)

        nb_man.cell_start, nb_man.autosave_cell = announce, report
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register("heading", _HeadingEngine)


def set_parameters(notebook, values: dict[str, str]) -> None:
    """Replace the texts that the cell tagged "parameters" sets; the comments behind them stay.

    Raises ValueError for a name that it sets to anything but a text.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in values.items():
        text = re.compile(rf"""(?<=^{name} = )("[^"]*"|'[^']*')""", re.MULTILINE)
        cell = next((cell for cell in cells if text.search(cell.source)), None)
        if cell is None:
            raise ValueError(f'the parameters cell has no line {name} = "...": write it so.')
        cell.source = text.sub(lambda _, value=value: json.dumps(value), cell.source)


def _heading(cell) -> str:
    """The first heading of a Markdown cell, without its marks; empty if there is none."""
    lines = cell.source.splitlines() if cell.cell_type == "markdown" else []
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")


def _last_bar(cell) -> str:
    """The latest state of the last progress bar among a cell's outputs; empty if it has none."""
    texts = (output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", []))
    return next((text for text in reversed(list(texts)) if "%|" in text), "").strip()


def run_notebook(source: Path, target: Path, parameters: dict[str, str]) -> None:
    """Execute `source` in its own folder, as Jupyter does, and leave the result at `target`.

    parameters: text values that replace those of the cell tagged "parameters".
    Raises ValueError for a parameter that the notebook doesn't have; papermill's and nbclient's
    own errors when a cell fails or the kernel dies, after keeping X.failed.ipynb; DataError if
    another process runs it: one whose make was killed alone, say.
    """
    _check_parameters(source, parameters)
    with alone(target), writing(target):
        _run(source, target, parameters)


def _run(source: Path, target: Path, parameters: dict[str, str]) -> None:
    running, failed = target.with_suffix(".running.ipynb"), target.with_suffix(".failed.ipynb")
    # An older result must not survive a run that fails or is killed.
    target.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    try:
        with _private_jupyter() as connection:
            # The path of a socket, which has "-ipc-5" behind it, ends at 103 bytes or little later.
            transport = "ipc" if len(os.fsencode(connection)) < 95 else "tcp"
            papermill.execute_notebook(
                source,
                running,
                kernel_name="python3",
                language="python",
                config=Config(
                    KernelManager={"transport": transport, "connection_file": connection}
                ),
                cwd=source.parent,
                progress_bar=False,
                start_timeout=SECONDS_TO_START_A_KERNEL,
                engine_name="heading",
                title=source.stem,
                values=parameters,
            )
    except BaseException:
        if running.exists():
            running.replace(failed)
        raise
    running.replace(target)


@contextmanager
def _private_jupyter() -> Iterator[str]:
    """Use the python3 kernel of this interpreter; read and leave nothing in the user's home.

    Yields the path of the connection file, whose folder holds the kernel's sockets too: in the
    notebook's folder two runs at once would share them.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Of several kernels of that name, the first on this path is taken.
        write_kernel_spec(os.path.join(folder, "kernels", "python3"))
        os.environ |= {
            "JUPYTER_PATH": folder,
            "JUPYTER_RUNTIME_DIR": folder,
            "IPYTHONDIR": folder,
            # The kernel's debugger would complain about frozen modules at every start.
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "FOODSEG_HEADLESS": "1",  # nobody can use a widget: foodseg.segment.picker
        }
        yield os.path.join(folder, "kernel.json")


def _check_parameters(source: Path, parameters: dict[str, str]) -> None:
    """Papermill only warns about a name that the notebook doesn't have: a typo would pass."""
    known = papermill.inspect_notebook(source)
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(
            f"{source} has no parameter {', '.join(unknown)}; its parameters cell sets "
            f"{', '.join(sorted(known)) or 'none'}."
        )


def _parse(arguments: list[str] | None) -> tuple[Path, Path, dict[str, str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the notebook")
    parser.add_argument("target", type=Path, help="where its executed copy goes")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    malformed = [text for text in options.parameters if "=" not in text]
    if malformed:
        parser.error(f"{malformed[0]!r} is not NAME=VALUE")
    return options.source, options.target, dict(p.split("=", 1) for p in options.parameters)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 for a notebook that did not run to its end."""
    source, target, parameters = _parse(arguments)
    # A polite kill must still stop the kernel and keep what was run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    try:
        run_notebook(source, target, parameters)
    except (PapermillExecutionError, DeadKernelError, ValueError) as error:
        reason = str(error)
        if isinstance(error, PapermillExecutionError):  # its text is the whole traceback
            reason = f"cell [{error.exec_count}] raised {error.ename}: {error.evalue}"
        print(f"{source.stem} failed: {reason}", file=sys.stderr)
        failed = target.with_suffix(".failed.ipynb")
        if failed.exists():
            print(f"The failed run is kept for reading: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{source.stem} interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{source.stem} done in {minutes} min {seconds:02d} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
