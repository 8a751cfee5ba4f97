"""Progress bars that an executed notebook can be read with.

tqdm's widget lives in the browser: on GitHub a finished bar would stand at 0%. In a kernel the bar
is therefore one line of text that is redrawn in place; elsewhere it is plain tqdm.
"""

from __future__ import annotations

import io
import sys

from tqdm.std import tqdm as terminal_tqdm


class NotebookBar(terminal_tqdm):
    """tqdm in one text output of the current cell; its last state stays in the file."""

    def __init__(self, *args, **kwargs):
        # tqdm ends a bar with a line break on its file, which would be an empty output here.
        quiet = {"file": io.StringIO(), "ascii": False, "mininterval": 0.5}
        super().__init__(*args, **quiet | kwargs)

    @staticmethod
    def status_printer(file):
        """What prints the bar's text; called once by tqdm for each bar."""
        from IPython.display import display

        handle = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda text: handle.update({"text/plain": text}, raw=True)


def _in_kernel() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


tqdm = NotebookBar if _in_kernel() else terminal_tqdm
