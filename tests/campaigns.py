"""Campaigns: what `make test` tries in short and `make torture` in full.

A test that asks for the fixture `campaign` is one. It says what it tries and is told how often:

    for index in range(campaign("a state file cut at a random byte: refused", 20, 1000)): ...

`make torture` runs these tests alone, half of them on each of two cores (`pytest --torture 1/2` and
`2/2`); `python tests/campaigns.py` then writes docs/reliability.md from what the halves left.
"""

import re
import sys
from collections.abc import Iterator

import pytest

from foodseg.common.files import PROJECT, load_json, write_atomically, write_json
from foodseg.common.provenance import provenance

PAGE = PROJECT / "docs" / "reliability.md"
PARTS = PROJECT / "build" / "torture"  # a file for each part: what it tried
HEAD = """# What was tried to break the kit

`make torture` tries each of these in full and writes this page; `make test` tries them in short.

| tried | times | seconds | outcome |
|---|---:|---:|---|
"""


def part(text: str) -> tuple[int, int]:
    """(1, 2) of "1/2": which part of how many."""
    number, _, of = text.partition("/")
    if not re.fullmatch(r"[1-9]/[1-9]", text) or int(number) > int(of):
        raise pytest.UsageError(f"--torture {text}: write it as 1/2, for the first half.")
    return int(number), int(of)


def pytest_addoption(parser):
    parser.addoption("--torture", metavar="PART", help="a part of the campaigns alone, as 1/1")


def pytest_collection_modifyitems(config, items):
    if torture := config.getoption("--torture"):
        number, of = part(torture)
        campaigns = [item for item in items if "campaign" in item.fixturenames]
        mine = campaigns[number - 1 :: of]
        config.hook.pytest_deselected(items=[item for item in items if item not in mine])
        items[:] = mine


@pytest.fixture()
def campaign(request):
    """(what is tried, how often in short, how often in full) -> how often."""

    def how_often(what: str, short: int, full: int) -> int:
        times = full if request.config.getoption("--torture") else short
        request.node.user_properties.append(("campaign", (what, times)))
        return times

    return how_often


def pytest_terminal_summary(terminalreporter, config):
    torture = config.getoption("--torture")
    if not torture or config.getoption("keyword") or config.args != config.getini("testpaths"):
        return
    number, of = part(torture)
    write_json(PARTS / f"{number}-of-{of}.json", list(_tried(terminalreporter)))


def _tried(terminalreporter) -> Iterator[dict]:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call":
                what, times = dict(report.user_properties)["campaign"]
                stood = outcome == "passed"
                yield {"what": what, "times": times, "seconds": report.duration, "stood": stood}


def page(tried: list[dict]) -> str:
    """The table of all campaigns, those of one name together."""
    lines = []
    for what in sorted({one["what"] for one in tried}):
        of = [one for one in tried if one["what"] == what]
        times, seconds = (sum(one[name] for one in of) for name in ("times", "seconds"))
        stood = "stood" if all(one["stood"] for one in of) else "**fell**"
        lines.append(f"| {what} | {times:,} | {seconds:.0f} | {stood} |")
    made = provenance("cpu")
    foot = f"\n\nAt commit {made['commit']}, on {made['processor']}, Python {made['python']}.\n"
    return HEAD + "\n".join(lines) + foot


def main() -> int:
    """Write the page from what both halves left, which goes; 1 if a campaign fell."""
    files = [PARTS / f"{number}-of-2.json" for number in (1, 2)]
    if missing := [file.name for file in files if not file.exists()]:
        sys.exit(f"torture: {', '.join(missing)} is missing in {PARTS}: run make torture again.")
    tried = [one for file in files for one in load_json(file)]
    write_atomically(PAGE, page(tried).encode())
    for file in files:
        file.unlink()
    return int(not all(one["stood"] for one in tried))


if __name__ == "__main__":
    sys.exit(main())
