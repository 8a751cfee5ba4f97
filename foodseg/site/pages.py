"""The site's pages as Markdown and notebooks, in a folder laid out as the checkout is.

So links between documents stay as they are written. A link to a Python file leads to a page with
its source, one to a folder to the page that lists it, and one to any other file to a copy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path, PurePosixPath

from foodseg.site.api import api_pages, source_page
from foodseg.site.notebooks import fold_imports

DOCUMENTS = ("README.md", "docs/**/*.md", "figures/**/*.md", "notebooks/README.md")
NOTEBOOKS = "notebooks/executed/*.ipynb"
# What stands in the list of pages, by heading.
CONTENTS = {
    "Notebooks": ("notebooks/README", NOTEBOOKS),
    "Guides": ("docs/**/*.md",),
    "Results": ("figures/**/*.md",),
    "API": ("foodseg/index",),
}
# The page that lists a folder's files, by the first part of its path; of others the first page.
FOLDERS = {"foodseg": "foodseg/index.md", "notebooks": "notebooks/README.md"}
# The target of a Markdown link or image, or of an HTML image.
LINK = re.compile(r"""(\]\(|\bsrc=")([^)\s"#]+)""")


def gather(project: Path, site: Path) -> None:
    """Write all pages of the checkout, and what they link to, into the folder `site`."""
    texts = {path: (project / path).read_text("utf-8") for path in _found(project, *DOCUMENTS)}
    books = {path: json.loads((project / path).read_bytes()) for path in _found(project, NOTEBOOKS)}
    pages = api_pages(project)
    linked: set[PurePosixPath] = set()
    for path, text in texts.items():
        pages[place(path)] = relink(text, path, project, linked)
    for path, book in books.items():
        fold_imports(book)
        for cell in book["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = relink("".join(cell["source"]), path, project, linked)
        pages[path] = json.dumps(book)
    pages[place(PurePosixPath("README.md"))] += contents(project)
    for path in linked:
        if path.suffix == ".py":
            pages[place(path)] = source_page(project, path)
        elif (project / path).is_file() and place(path) not in pages:
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project / path, site / path)
    for path, text in pages.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, "utf-8")


def _found(project: Path, *patterns: str) -> list[PurePosixPath]:
    found = [path for pattern in patterns for path in sorted(project.glob(pattern))]
    return [PurePosixPath(path.relative_to(project).as_posix()) for path in found]


def place(path: PurePosixPath) -> PurePosixPath:
    """The page of the site that shows a file of the checkout, by its path in it."""
    if path.as_posix() == "README.md":
        return PurePosixPath("index.md")
    if path.match("notebooks/*.ipynb"):  # without outputs; what is shown has them
        return path.parent / "executed" / path.name
    return path.with_name(f"{path.name}.md") if path.suffix == ".py" else path


def relink(text: str, page: PurePosixPath, project: Path, linked: set[PurePosixPath]) -> str:
    """The Markdown of a page with its links to the checkout's files led to their pages.

    Adds these files to `linked`. A link that names no file of the checkout stays as it is.
    """

    def led(match: re.Match) -> str:
        target = PurePosixPath(os.path.normpath(page.parent / match[2]))
        if ".." in target.parts or not (project / target).exists():
            return match[0]
        linked.add(target)
        if (project / target).is_dir():
            shown = FOLDERS.get(target.as_posix().split("/")[0], "index.md")
        else:
            shown = place(target)
        return match[1] + os.path.relpath(shown, place(page).parent)

    return LINK.sub(led, text)


def contents(project: Path) -> str:
    """The lists of pages that stand beside every page, as directives at the first one's end."""
    lists = []
    for heading, patterns in CONTENTS.items():
        names = [name for pattern in patterns for name in _names(project, pattern)]
        lines = ["```{toctree}", ":hidden:", f":caption: {heading}", "", *names, "```"]
        lists.append("\n".join(lines))
    return "\n\n" + "\n\n".join(lists) + "\n"


def _names(project: Path, pattern: str) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    return [path.with_suffix("").as_posix() for path in _found(project, pattern)]
