"""Which of the package's files a module imports, and what their code says.

A result depends on the code that was imported to compute it. Both questions are answered from the
syntax trees, without importing anything, so make can ask them before the environment exists.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from foodseg.common.home import PROJECT


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
    roots = list(roots)
    seen, todo, barred = set(), list(roots), set(without) - set(roots)
    while todo:
        module = todo.pop()
        if module not in seen | barred:
            seen.add(module)
            todo += imported_modules(module_file(module).read_text(encoding="utf-8"))
    return sorted(seen)


def imported_modules(source: str) -> list[str]:
    """The package's modules that this source imports."""
    tree = ast.parse(source)
    typing_only = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for part in test.body
        for node in ast.walk(part)
    }
    names = [name for node in ast.walk(tree) if node not in typing_only for name in _names(node)]
    return [name for name in names if name.split(".")[0] == "foodseg" and module_file(name)]


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or not node.module:
        return []
    # What is imported from a package is one of its modules, or else stands in its __init__.py.
    return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]


def code_hash(modules: Iterable[str]) -> str:
    """First 16 hexadecimal digits of a SHA-256 over the modules' code, in order of name.

    Comments, docstrings and formatting do not count: to reword or reformat a file must not cost a
    training.
    """
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(f"{module}\n{bare_code(module_file(module).read_text('utf-8'))}\n".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1024)
def bare_code(source: str) -> str:
    """The source's syntax tree as text, without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
