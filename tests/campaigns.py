"""Campaigns: what `make test` tries in short and `make torture` in full.

A test that asks for the fixture `campaign` is one. It says what it tries and is told how often:

    for index in range(campaign("a state file cut at a random byte: refused", 20, 1000)): ...

`make torture` (`pytest --torture`) runs these tests alone and writes docs/reliability.md.
"""

import pytest

from foodseg.common.files import PROJECT, write_atomically
from foodseg.common.provenance import provenance

PAGE = PROJECT / "docs" / "reliability.md"
HEAD = """# What was tried to break the kit

`make torture` tries each of these in full and writes this page; `make test` tries them in short.

| tried | times | seconds | outcome |
|---|---:|---:|---|
"""


def pytest_addoption(parser):
    parser.addoption("--torture", action="store_true", help="run the campaigns alone, in full")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--torture"):
        left_out = [item for item in items if "campaign" not in item.fixturenames]
        kept = [item for item in items if "campaign" in item.fixturenames]
        # The longest first: a core that has nothing left takes over from the end of the list.
        items[:] = sorted(kept, key=lambda item: item.path.name != "test_faults.py")
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture()
def campaign(request):
    """(what is tried, how often in short, how often in full) -> how often."""

    def how_often(what: str, short: int, full: int) -> int:
        times = full if request.config.getoption("--torture") else short
        request.node.user_properties.append(("campaign", (what, times)))
        return times

    return how_often


def pytest_terminal_summary(terminalreporter, config):
    part = config.getoption("keyword") or config.args != config.getini("testpaths")
    # A worker of pytest-xdist has seen its own half only.
    if not config.getoption("--torture") or part or hasattr(config, "workerinput"):
        return
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
    ]
    tried: dict[str, list] = {}
    for report in reports:
        what, times = dict(report.user_properties)["campaign"]
        tried.setdefault(what, []).append((times, report.duration, report.outcome))
    lines = [
        f"| {what} | {sum(one[0] for one in of):,} | {sum(one[1] for one in of):.0f} "
        f"| {'**fell**' if 'failed' in [one[2] for one in of] else 'stood'} |"
        for what, of in sorted(tried.items())
    ]
    made = provenance("cpu")
    foot = f"\n\nAt commit {made['commit']}, on {made['processor']}, Python {made['python']}.\n"
    write_atomically(PAGE, (HEAD + "\n".join(lines) + foot).encode())
