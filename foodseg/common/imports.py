"""Which of the package's files a module imports, and what their code says.

A result depends on the code that was imported to compute it. Both questions are answered from the
syntax trees, without importing anything, so make can ask them before the environment exists:

    python -m foodseg.common.imports NOTEBOOK ...    each file that a notebook imports, as name:file
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from foodseg.common.files import PROJECT

# What an identity writes down value by value, so that these files need not be hashed.
VALUES = ("foodseg.recipes", "foodseg.presets")


def module_file(module: str) -> Path | None:
    """The file of one of the package's modules, such as "foodseg.rl.rewards"; None if it has none.

    Of a package it is the `__init__.py`.
    """
    path = PROJECT.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def import_closure(roots: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """The package's modules that importing `roots` loads, roots included, sorted.

    Imports inside functions count, those for type checking don't. without: modules that are not
    entered, unless they are roots.
    """
    todo, seen = list(roots), set()
    barred = set(without) - set(todo)
    while todo:
        module = todo.pop()
        if module not in seen | barred:
            seen.add(module)
            todo += imported_modules(module_file(module).read_text(encoding="utf-8"))
    return sorted(seen)


def imported_modules(source: str) -> list[str]:
    """The package's modules that this source imports."""
    return [name for name in _imported_names(source) if module_file(name)]


@lru_cache(maxsize=1024)
def _imported_names(source: str) -> list[str]:
    """What could be a module of the package among the names that this source imports."""
    tree = ast.parse(source)
    typing_only = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for part in test.body
        for node in ast.walk(part)
    }
    names = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What a package gives is one of its modules, or else stands in its __init__.py.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "foodseg"]


def code_hash(modules: Iterable[str]) -> str:
    """First 16 hexadecimal digits of a SHA-256 over the modules' code, in order of name.

    Comments, docstrings and formatting do not count: to reword or reformat a file must not cost a
    training.
    """
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(f"{module}\n{bare_code(module_file(module).read_text('utf-8'))}\n".encode())
    return digest.hexdigest()[:16]


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=1024)
def bare_code(source: str) -> str:
    """The source's syntax tree as text, without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def notebook_code(path: Path) -> str:
    """The code cells of a notebook, as one source."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def main(notebooks: list[str]) -> None:
    """Print what each notebook imports, for make."""
    for path in map(Path, notebooks):
        for module in import_closure(imported_modules(notebook_code(path))):
            print(f"{path.name}:{module_file(module).relative_to(PROJECT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
