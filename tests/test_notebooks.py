"""Every notebook at the smoke preset, run by the Makefile's own rules into a temporary folder."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = sorted((PROJECT / "notebooks").glob("*.ipynb"))
DEFAULTS = {"PRESET": '"kitchen"', "SEEDS": '"0,1,2"', "ROWS": '""'}
SEEDS = "0,1"
# A path from the root of some machine, as against a link or a path inside the project.
ABSOLUTE = re.compile(r"(?<![\w.:/~-])/(home|root|tmp|var|usr|opt|mnt|data|work|Users|private)/")
every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


class Smoke:
    """One `make PRESET=smoke`, and where its files went."""

    def __init__(self, home: Path):
        self.home, self.build = home, home / "build" / "smoke"
        self.done = self.make("--keep-going", "all")

    def make(self, *arguments: str) -> subprocess.CompletedProcess:
        # Flags of the make that runs these tests are not meant for this one.
        outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
        here = [f"BUILD={self.home}/build", f"VENV={sys.prefix}", "ENVIRONMENT="]
        return subprocess.run(
            ["make", *arguments, *here, "PRESET=smoke", f"SEEDS={SEEDS}"],
            cwd=PROJECT,
            env=outside | {"FOODSEG_HOME": str(self.home)},
            text=True,
            capture_output=True,
        )

    def executed(self, source: Path) -> nbformat.NotebookNode:
        path = self.build / source.name
        assert path.exists(), f"{source.stem} did not run to its end:\n{self.done.stderr[-3000:]}"
        return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Smoke:
    return Smoke(tmp_path_factory.mktemp("smoke"))


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def written(output: nbformat.NotebookNode) -> str:
    """What a reader sees of an output as text; pictures are left out."""
    data = output.get("data", {})
    texts = [value for kind, value in data.items() if kind.startswith("text/")]
    return "\n".join([output.get("text", ""), *texts])


@every_notebook
def test_no_parameter_is_bound_again(source):
    """An import of the same name would take the place of what the command line gave."""
    after = code(nbformat.read(source, as_version=4))[1:]
    bound = {
        name
        for cell in after
        for node in ast.walk(ast.parse(re.sub(r"^%.*", "", cell.source, flags=re.M)))
        for name in (
            [alias.asname or alias.name for alias in node.names]
            if isinstance(node, ast.Import | ast.ImportFrom)
            else [node.id]
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            else []
        )
    }
    assert not bound & DEFAULTS.keys()


@every_notebook
def test_it_runs_to_its_end_without_a_warning(smoke, source):
    for cell in code(smoke.executed(source)):
        assert cell.execution_count is not None, cell.source
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{cell.source}\n---\n{output.text}"
            assert not re.search(r"\w*Warning: ", written(output)), written(output)


@every_notebook
def test_it_names_no_path_of_this_machine(smoke, source):
    notebook = smoke.executed(source)
    texts = [cell.source for cell in notebook.cells]
    texts += [written(output) for cell in code(notebook) for output in cell.outputs]
    for text in texts:
        assert str(PROJECT) not in text and str(smoke.home) not in text, text
        assert not ABSOLUTE.search(text), text


@every_notebook
def test_its_source_has_no_outputs_and_the_usual_defaults(source):
    notebook = nbformat.read(source, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    for line in parameters.source.splitlines():
        name, value = line.split("#")[0].split("=")
        assert value.strip() == DEFAULTS[name.strip()]
    assert notebook.metadata.kernelspec.name == "python3"


def test_make_runs_every_notebook_once_and_its_products_are_there(smoke):
    ran = sorted(path.name for path in smoke.build.glob("*.ipynb"))
    assert ran == [source.name for source in SOURCES]
    assert smoke.done.returncode == 0, smoke.done.stderr[-3000:]
    figures = smoke.build / "figures"
    for name in ("results_table.md", "results_table.tex", "results_table.csv"):
        assert (figures / name).read_text().strip()
    for name in ("segmentation_results.png", "ablations.png"):
        assert (figures / name).read_bytes().startswith(b"\x89PNG")
    assert (figures / "segmentation_results.pdf").read_bytes().startswith(b"%PDF")
    table = (figures / "ablations.md").read_text()  # with the quick look's rows
    assert "## Not trained" in table and "Rollouts: the runs of recipes sampled" in table
    assert smoke.make("--question", "all").returncode == 0  # a second make has nothing to do
