"""A short animation of a replay's page, driven in Chromium: docs/replay.webp.

    python -m foodseg.replay.animation build/kitchen/replay.html docs/replay.webp

It needs Playwright (`make demo` installs it) and Chromium. First the slider goes through the steps,
then a step's group is seen as GRPO learns from it, and as DAPO does.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import write_atomically

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIZE = {"width": 960, "height": 660}
Frame = tuple[Image.Image, int]  # and for how many milliseconds it is seen


def animate(page_file: Path, path: Path) -> None:
    """Write the animation; raises DataError if Chromium is not installed."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        raise DataError("Chromium is not installed: `apt-get install chromium`.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        # Without motion the page doesn't play by itself.
        tab = browser.new_page(viewport=SIZE, reduced_motion="reduce", color_scheme="light")
        tab.goto(page_file.resolve().as_uri())
        frames = [*_over_the_steps(tab), *_in_the_hands_of(tab)]
        browser.close()
    images, milliseconds = zip(*frames, strict=True)
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "duration": list(milliseconds)}
    images[0].save(buffer, "WEBP", quality=68, method=6, loop=0, minimize_size=True, **more)
    write_atomically(path, buffer.getvalue())


def _over_the_steps(tab: Page) -> Iterator[Frame]:
    _scroll_to(tab, "nav")
    last = int(tab.get_attribute("#slider", "max"))
    for stop in range(last + 1):
        _go(tab, stop)
        yield _frame(tab), 2200 if stop in (0, last) else 1100


def _in_the_hands_of(tab: Page) -> Iterator[Frame]:
    """The first step that has a group without signal, if any has."""
    silent = tab.locator("#silent button")
    _go(tab, 0)
    if silent.count():
        silent.click()
    _scroll_to(tab, "#methods")
    for method in ("GRPO", "DAPO", "GRPO", "DAPO"):
        tab.locator("#methods button", has_text=method).click()
        yield _frame(tab), 1700


def _go(tab: Page, stop: int) -> None:
    move = "(slider, stop) => {slider.value = stop; slider.dispatchEvent(new Event('input'))}"
    tab.locator("#slider").evaluate(move, stop)


def _scroll_to(tab: Page, selector: str) -> None:
    tab.locator(selector).evaluate(
        "one => window.scrollBy(0, one.getBoundingClientRect().top - 10)"
    )


def _frame(tab: Page) -> Image.Image:
    return Image.open(io.BytesIO(tab.screenshot())).convert("RGB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m foodseg.replay.animation PAGE.html ANIMATION.webp")
    try:
        animate(Path(sys.argv[1]), Path(sys.argv[2]))
    except DataError as error:
        sys.exit(f"animation: {error}")
