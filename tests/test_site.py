"""The static site: its links, what its pages fetch, and how it looks in a browser.

The build and the browser are tested where Sphinx, Playwright and Chromium are installed:
`make site`, `pip install playwright`, `apt-get install chromium`.
"""

import importlib.util
import json
import shutil
from pathlib import Path, PurePosixPath

import pytest

from foodseg.common.errors import DataError
from foodseg.common.files import PROJECT
from foodseg.site.api import api_pages, module_page
from foodseg.site.check import check
from foodseg.site.notebooks import fold_imports
from foodseg.site.pages import contents, gather, place, relink

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


needs_sphinx = pytest.mark.skipif(
    not installed("sphinx", "myst_nb", "furo"),
    reason="Sphinx is not installed: `make site` installs it",
)
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and installed("playwright")),
    reason="no headless browser: `apt-get install chromium`, `pip install playwright`",
)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- Pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("](kitchen.md)", "](kitchen.md)"),
        ("](../README.md#results)", "](../index.md#results)"),
        ("](../foodseg/rl/rewards.py)", "](../foodseg/rl/rewards.py.md)"),
        ("](../foodseg)", "](../foodseg/index.md)"),
        ("](../foodseg/rl)", "](../foodseg/index.md)"),
        ("](../notebooks/09_use_it.ipynb)", "](../notebooks/executed/09_use_it.ipynb)"),
        ("](../notebooks/executed)", "](../notebooks/README.md)"),
        ("](../figures/)", "](../index.md)"),
        ("](..)", "](../index.md)"),
        ('<img src="../figures/gains.png" width="560">', None),
        ("](../LICENSE)", None),
        ("](https://example.org/README.md)", None),
        ("](../../elsewhere.md)", None),
        ("](nothing.md)", None),
        ("`x[0](y)`", None),
    ],
)
def test_a_link_leads_to_the_page_that_shows_its_file(link, led):
    page = PurePosixPath("docs/your_own_data.md")
    assert relink(f"See [it{link}.", page, PROJECT, set()) == f"See [it{led or link}."


def test_what_a_page_links_to_is_noted_by_its_place_in_the_checkout():
    linked = set()
    relink(
        "[a](../LICENSE) ![b](gains.png) [c](nothing.md)",
        PurePosixPath("figures/x.md"),
        PROJECT,
        linked,
    )
    assert {path.as_posix() for path in linked} == {"LICENSE", "figures/gains.png"}
    assert place(PurePosixPath("LICENSE")) == PurePosixPath("LICENSE")


def test_gathered_pages_lie_as_in_the_checkout_with_what_they_link_to(tmp_path):
    project, site = tmp_path / "kit", tmp_path / "site"
    shutil.copytree(PROJECT / "foodseg", project / "foodseg")
    write(project / "README.md", "# Kit\n[one](docs/a.md) [tool](tools/t.py) [data](d.json)")
    write(project / "docs/a.md", "# A\n[back](../README.md)")
    write(project / "tools/t.py", "print('`')\n")
    write(project / "d.json", "{}")
    write(project / "unlinked.txt")
    write(project / "notebooks/README.md", "# Notebooks")
    cell = {
        "cell_type": "markdown",
        "source": ["[a](../../docs/a.md), ", "[2](02.ipynb)"],
        "metadata": {},
    }
    for name in ("01", "02"):
        write(project / f"notebooks/{name}.ipynb")
        write(project / f"notebooks/executed/{name}.ipynb", json.dumps({"cells": [cell]}))
    gather(project, site)
    index = (site / "index.md").read_text()
    assert index.startswith("# Kit\n[one](docs/a.md) [tool](tools/t.py.md) [data](d.json)")
    assert "\ndocs/a\n" in index and "\nnotebooks/executed/02\n" in index
    assert (site / "docs/a.md").read_text() == "# A\n[back](../index.md)"
    assert "print('`')" in (site / "tools/t.py.md").read_text()
    assert (site / "d.json").exists() and not (site / "unlinked.txt").exists()
    (shown,) = json.loads((site / "notebooks/executed/01.ipynb").read_text())["cells"]
    assert shown["source"] == "[a](../../docs/a.md), [2](02.ipynb)"


def test_every_page_of_the_checkout_stands_in_the_contents():
    listed = contents(PROJECT).split()
    for pattern in ("docs/*.md", "figures/*.md", "notebooks/executed/*.ipynb"):
        names = [path.relative_to(PROJECT).with_suffix("") for path in PROJECT.glob(pattern)]
        assert names and {name.as_posix() for name in names} <= set(listed)


def test_only_the_first_cell_of_imports_is_folded():
    sources = ("# Words", 'PRESET = "kitchen"', "import json\nx = 1", "from a import b")
    kinds = ("markdown", "code", "code", "code")
    cells = [
        {"cell_type": kind, "source": source, "metadata": {}}
        for kind, source in zip(kinds, sources, strict=True)
    ]
    fold_imports({"cells": cells})
    assert [cell["metadata"].get("tags") for cell in cells] == [None, None, ["hide-input"], None]


# ---- The API -----------------------------------------------------------------------------------

MODULE = '''"""Terms, such as <think> and `<answer>`.

reward_*: what is paid; points_*: the same.
pairs, terms: (P, 2) int.
"""

from dataclasses import dataclass

@dataclass(frozen=True)
class Score:
    """One completion's."""

    total: float
    name: str = "x"

    @property
    def half(self) -> float:
        """Half of it."""

    @classmethod
    def read(cls, path: str, *, strict: bool = False) -> "Score":
        """From a file."""

    def _secret(self): ...

class Model:
    def __init__(self, size: int) -> None: ...

    @property
    def size(self): ...

    @size.setter
    def size(self, value): ...

def score(text: str) -> Score:
    """R of one."""

def _hidden(): ...
'''


def test_an_api_page_has_what_is_public_with_signatures_and_words(tmp_path):
    write(tmp_path / "foodseg/rl/terms.py", MODULE)
    page = module_page(tmp_path, PurePosixPath("foodseg/rl/terms.py"))
    assert page.startswith("# foodseg.rl.terms\n")
    assert "such as \\<think> and `<answer>`." in page  # no HTML of the reader's browser
    assert "reward_\\*: what is paid; points_\\*: the same.\\\npairs, terms: (P, 2) int." in page
    assert "::::{py:class} Score(total: float, name: str = 'x')\n\nOne completion's." in page
    assert ":::{py:property} half\n:type: float\n\nHalf of it.\n:::" in page
    assert ":::{py:method} read(path: str, *, strict: bool=False) -> 'Score'\n:classmethod:" in page
    assert "::::{py:class} Model(size: int)\n" in page and page.count("{py:property} size") == 1
    assert ":::{py:function} score(text: str) -> Score\n\nR of one.\n:::" in page
    assert "_secret" not in page and "_hidden" not in page
    assert "[Source of terms.py](terms.py.md)" in page


def test_every_module_of_the_core_has_a_page_and_a_line_in_the_list():
    pages = {path.as_posix(): text for path, text in api_pages(PROJECT).items()}
    for module in ("recipes", "presets", "system", "rl/rewards", "models/fast/head"):
        assert f"foodseg/{module}.md" in pages and f"foodseg/{module}.py.md" in pages
        assert f"[{module}]({module}.md) | " in pages["foodseg/index.md"]
    assert not any("__" in path for path in pages)


# ---- Links -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="b.html#here">', None),
        ('<a href="#top"><p id="top">', None),
        ('<a href="https://example.org">', None),
        ('<img src="data:image/png;base64,AA">', None),
        ('<a href="b.html#there">', "leads to no anchor of that page"),
        ('<a href="c.html">', "leads to no file of the site"),
        ('<a href="../outside.html">', "leads to no file of the site"),
        ('<a href="/b.html">', "leads to no file of the site"),
        ('<img src="c.png">', "leads to no file of the site"),
        ('<script src="https://example.org/x.js"></script>', "would be fetched from outside"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "would be fetched from outside"),
        ('<img srcset="b.html 1x, https://example.org/x.png 2x">', "would be fetched from outside"),
        ("<style>p { background: url('http://example.org/x') }</style>", "fetched from outside"),
        ('<p style="background: url(c.png)">', "leads to no file of the site"),
    ],
)
def test_a_link_that_leads_nowhere_or_fetches_outside_is_named(tmp_path, html, fault):
    write(tmp_path / "outside.html")
    write(tmp_path / "site/a.html", html)
    write(tmp_path / "site/b.html", '<p id="here">')
    count, faults = check(tmp_path / "site")
    assert count in (1, 2) and len(faults) == bool(fault)
    assert not fault or (faults[0].startswith("a.html: ") and faults[0].endswith(fault))


def test_a_font_of_a_style_sheet_is_looked_at_too(tmp_path):
    write(tmp_path / "a.css", '@import "https://example.org/f.css"; p { src: url(a.css) }')
    assert check(tmp_path) == (
        2,
        ["a.css: https://example.org/f.css would be fetched from outside"],
    )


# ---- The site as it is built -------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The checkout's own site; `build` refuses any warning, broken link and outside fetch."""
    from foodseg.site.build import build

    folder = tmp_path_factory.mktemp("build") / "site"
    assert build(PROJECT, folder) > 10_000
    return folder


@needs_sphinx
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[x](nowhere.md)", "cross-reference target not found: 'nowhere.md'"),
        ("$\\nonsense$", "nonsense"),
    ],
)
def test_a_page_with_a_fault_is_named_and_nothing_is_written(tmp_path, text, words):
    from foodseg.site.build import write_html

    write(tmp_path / "pages/index.md", f"# Title\n\n{text}\n")
    with pytest.raises(DataError, match="index") as error:
        write_html(tmp_path / "pages", tmp_path / "html")
    assert words in str(error.value)


@needs_sphinx
def test_the_site_has_every_kind_of_page(site):
    assert check(site)[1] == []
    for page in ("index", "search", "docs/kitchen", "figures/results_table", "foodseg/index"):
        assert (site / f"{page}.html").exists()
    notebook = (site / "notebooks/executed/04_train_grpo.html").read_text()
    assert "<math" in notebook and "hide-input" in notebook and "$$" not in notebook
    table = (site / "notebooks/executed/06_results_table.html").read_text()
    assert "<p>Base + SAM2, zero-shot</p></td>" in table  # of a Markdown output
    rewards = (site / "foodseg/rl/rewards.html").read_text()
    assert 'id="foodseg.rl.rewards.score_completion"' in rewards


# Of the page's own content, what stands out to the right and can't be scrolled to.
OVERFLOWING = """() => [...document.querySelectorAll("article *")].filter(one => {
  if (one.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let box = one; box.tagName != "ARTICLE"; box = box.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return false;
  return true;
}).map(one => one.outerHTML.slice(0, 100))"""


@needs_sphinx
@needs_browser
def test_in_a_browser_nothing_is_fetched_outside_and_a_phone_can_read_it(site):
    from playwright.sync_api import sync_playwright

    requests, messages = [], []
    pages = [path for path in sorted(site.rglob("*.html")) if "foodseg" not in path.parts]
    pages += [site / f"foodseg/{name}.html" for name in ("index", "rl/rewards", "rl/rewards.py")]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: messages.append(message.text))
        for page in pages:
            tab.goto(page.as_uri())
            assert tab.evaluate(OVERFLOWING) == [], page
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, page
        tab.goto(f"{(site / 'index.html').as_uri()}")
        tab.set_viewport_size({"width": 1280, "height": 900})
        tab.fill("input[name=q]", "dynamic sampling")
        tab.press("input[name=q]", "Enter")
        tab.wait_for_selector("ul.search li")
        found = tab.locator("ul.search li").all_inner_texts()
        browser.close()
    assert any("05 Train with DAPO" in line for line in found[:5])
    assert any("foodseg.rl.dynamic_sampling" in line for line in found)
    assert len(requests) > 100 and not messages
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
