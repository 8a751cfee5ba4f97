"""`python -m foodseg.site`: write build/site from what is committed or was last measured.

The notebooks are shown as notebooks/executed has them; nothing is run.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from foodseg.common.errors import DataError
from foodseg.common.files import PROJECT

if __name__ == "__main__":
    if find_spec("sphinx") is None or find_spec("myst_nb") is None:
        sys.exit("site: Sphinx is not installed; `make site` installs it and comes here again.")
    from foodseg.site.build import build

    try:
        links = build(PROJECT, PROJECT / "build" / "site")
    except DataError as error:
        sys.exit(f"site: {error}")
    print(f"Written: build/site/index.html ({links:,} links checked)")
