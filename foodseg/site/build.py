"""Gather the pages, have Sphinx write them as HTML, check the HTML, and put it in place."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace, patch_docutils

from foodseg.common.errors import DataError
from foodseg.common.files import writing
from foodseg.site import formulas
from foodseg.site.check import check
from foodseg.site.pages import gather

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SETTINGS = {
    "project": "foodseg",
    "html_title": "foodseg",
    "extensions": ["myst_nb", formulas.__name__],
    "html_math_renderer": formulas.NAME,
    "html_theme": "furo",
    "html_static_path": [str(Path(__file__).with_name("style"))],
    "html_css_files": ["phone.css"],
    "html_copy_source": False,
    # A page that is opened from the disk may not read others for it.
    "html_show_search_summary": False,
    "html_show_copyright": False,
    # The search finds names too.
    "html_use_index": False,
    "html_domain_indices": False,
    "templates_path": [],
    "myst_enable_extensions": ["colon_fence", "dollarmath", "html_image"],
    "myst_heading_anchors": 4,
    "nb_execution_mode": "off",
    "nb_render_markdown_format": "gfm",  # with tables
    # The widgets' scripts would come from outside, and no kernel would answer them.
    "nb_ipywidgets_js": {},
    "maximum_signature_line_length": 72,
    "add_module_names": False,
    "python_use_unqualified_type_names": True,
    "toc_object_entries_show_parents": "hide",
    # Figures' pages go from the title to a table's heading in smaller type.
    "suppress_warnings": ["myst.header"],
}


def build(project: Path, target: Path) -> int:
    """Write the checkout's site into the folder `target`, in the place of an older one.

    Returns how many links were checked. Raises DataError, and leaves an older site, if Sphinx warns
    of anything, a link leads nowhere or a page would fetch from outside.
    """
    with TemporaryDirectory() as folder, writing(target):
        pages, html = Path(folder, "pages"), Path(folder, "html")
        gather(project, pages)
        write_html(pages, html)
        links, faults = check(html)
        if faults:
            raise DataError(_first("links that lead nowhere or outside", faults))
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(html, target)
    return links


def write_html(pages: Path, html: Path) -> None:
    """Sphinx's HTML of the pages. Raises DataError for whatever Sphinx warns of."""
    warnings = io.StringIO()
    try:
        with patch_docutils(), docutils_namespace():
            folders = (pages, None, html, html.with_name("doctrees"))
            Sphinx(*folders, "html", SETTINGS, status=None, warning=warnings).build()
    except SphinxError as error:
        raise DataError(f"Sphinx: {error}") from error
    text = COLOURS.sub("", warnings.getvalue())
    if told := [line for line in text.splitlines() if line.strip()]:
        raise DataError(_first("warnings of Sphinx", told).replace(f"{pages}/", ""))
    # A browser shows a linked file, a page of its own say, unless it is told to save it.
    for page in html.rglob("*.html"):
        page.write_text(page.read_text("utf-8").replace(' download=""', ""), "utf-8")


def _first(what: str, lines: list[str]) -> str:
    return "\n  ".join([f"{len(lines)} {what}; the first of them:", *lines[:20]])
