"""Whether every link of a built site leads somewhere in it, and no page fetches from outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

CSS_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""")


class _Page(HTMLParser):
    """The anchors of a page, and what it links to or fetches: (tag, address)."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[tuple[str, str]] = []
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)
            elif name in ("href", "src", "data", "poster", "action", "xlink:href"):
                self.addresses.append((tag, value or ""))
            elif name == "srcset":
                self.addresses += [(tag, part.split()[0]) for part in value.split(",")]
            elif name == "style":
                self.addresses += [(tag, address) for address in CSS_URL.findall(value)]

    def handle_data(self, data: str) -> None:
        if self._style:
            self.addresses += [("style", address) for address in CSS_URL.findall(data)]

    def handle_endtag(self, tag: str) -> None:
        self._style = False


def check(site: Path) -> tuple[int, list[str]]:
    """How many addresses the site's pages and styles hold, and a line for each that is wrong.

    A reader may be led outside (`<a>`); scripts, styles, fonts, images and whatever else is fetched
    must lie in the folder, by relative paths.
    """
    pages = {path: _Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    found = [(path, *address) for path, page in pages.items() for address in page.addresses]
    for path in sorted(site.rglob("*.css")):
        found += [(path, "style", address) for address in CSS_URL.findall(path.read_text("utf-8"))]
    return len(found), list(_faults(site, pages, found))


def _faults(site: Path, pages: dict, found: list[tuple[Path, str, str]]) -> Iterator[str]:
    for path, tag, address in found:
        where = f"{path.relative_to(site)}: {address}"
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            if tag != "a" and parts.scheme != "data":
                yield f"{where} would be fetched from outside"
            continue
        target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
        if parts.path.startswith("/") or not target.is_relative_to(site) or not target.is_file():
            yield f"{where} leads to no file of the site"
        elif parts.fragment and target in pages:
            if unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where} leads to no anchor of that page"
