"""The long campaigns are all run, in two halves, and a fallen one is said to have fallen."""

import subprocess
import sys

import campaigns
import pytest

from foodseg.common.files import PROJECT, write_json


def collected(*options: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    files = ["tests/test_faults.py", "tests/test_run_folder.py", "tests/test_single.py"]
    done = subprocess.run([*command, *files, *options], cwd=PROJECT, capture_output=True, text=True)
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_the_halves_are_all_campaigns_and_nothing_twice():
    first, second = collected("--torture", "1/2"), collected("--torture", "2/2")
    assert first and second and not first & second
    assert first | second == collected("--torture", "1/1") < collected()


@pytest.mark.parametrize("text", ["2", "0/2", "3/2", "one/two", "1/20"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(pytest.UsageError, match="write it as 1/2"):
        campaigns.part(text)


def test_the_page_adds_up_both_halves(tmp_path, monkeypatch):
    monkeypatch.setattr(campaigns, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(campaigns, "PARTS", tmp_path)
    one = {"what": "kills", "times": 20, "seconds": 1.6, "stood": True}
    write_json(tmp_path / "1-of-2.json", [one, one | {"what": "bits", "times": 5_000}])
    with pytest.raises(SystemExit, match="2-of-2.json is missing"):
        campaigns.main()
    write_json(tmp_path / "2-of-2.json", [one])
    assert campaigns.main() == 0
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| bits | 5,000 | 2 | stood |" in lines and "| kills | 40 | 3 | stood |" in lines
    write_json(tmp_path / "1-of-2.json", [one])
    write_json(tmp_path / "2-of-2.json", [one | {"stood": False}])
    assert campaigns.main() == 1
    assert "| kills | 40 | 3 | **fell** |" in (tmp_path / "page.md").read_text()
