"""A mark for tests that hold the committed words against the committed figures.

`make` writes figures over the committed ones; another make of processor gives other scores.
"""

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


def figures_made_again(project: Path) -> bool:
    """Whether figures differ from the commit's, and README.md and docs don't."""
    git = ["git", "-C", str(project), "status", "--porcelain", "--", "figures", "README.md", "docs"]
    try:
        said = subprocess.run(git, capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return False
    changed = [line[3:] for line in said.stdout.splitlines()]
    return bool(changed) and all(path.startswith("figures/") for path in changed)


words_of_the_figures = pytest.mark.xfail(
    figures_made_again(PROJECT),
    reason="figures were made again here; `git checkout figures` brings the committed ones back",
)
