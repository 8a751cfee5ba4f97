"""API pages of the core: signatures and docstrings, read from the source without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# The rooms of the core, in the order in which they import one another.
CORE = (
    *("data", "models", "rl", "methods", "presets", "recipes", "system", "training"),
    "evaluation",
)
INTRODUCTION = """# API of the core

Each module's docstrings, and its source. A room imports only from those above it. Shapes, dtypes
and pixel spaces stand in the docstrings.
"""
Function = ast.FunctionDef | ast.AsyncFunctionDef
# A line that begins with the name of an argument or a field.
NAMED = re.compile(r"(?<=[^\n])\n(?=(`?\w+`?)(, `?\w+`?)*( \([^)\n]*\)[\w ]*)?: )")
MARK = re.compile(r"<|(?<=_)\*")
CODE = re.compile(r"(`[^`]*`|^ {4}.*$)", re.MULTILINE)


def api_pages(project: Path) -> dict[PurePosixPath, str]:
    """Markdown by the page's path: one page and one source page for each module, and a list."""
    pages, rooms = {}, {}
    for room in CORE:
        rooms[room] = list(_modules(project / "foodseg", room))
        for path in rooms[room]:
            file = PurePosixPath("foodseg", path)
            pages[file.with_suffix(".md")] = module_page(project, file)
            pages[file.with_name(f"{file.name}.md")] = source_page(project, file)
    pages[PurePosixPath("foodseg/index.md")] = _list(project, rooms)
    return pages


def _modules(package: Path, room: str) -> Iterator[PurePosixPath]:
    """The room's modules, by their paths in the package; what only starts a program is left out."""
    folder = package / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    for file in files:
        if not file.name.startswith("__"):
            yield PurePosixPath(file.relative_to(package).as_posix())


def _list(project: Path, rooms: dict[str, list[PurePosixPath]]) -> str:
    parts = [INTRODUCTION]
    for room, paths in rooms.items():
        parts += [f"## {room}", "| module | what is in it |\n| --- | --- |"]
        for path in paths:
            tree = ast.parse((project / "foodseg" / path).read_text("utf-8"))
            first = re.split(r"(?<=[.:])\s", (ast.get_docstring(tree) or "") + " ")[0]
            first = escaped(" ".join(first.rstrip(":").split())).replace("|", "\\|")
            name = path.with_suffix("")
            parts[-1] += f"\n| [{name}]({name}.md) | {first} |"
        names = (path.with_suffix("").as_posix() for path in paths)
        parts.append("\n".join(["```{toctree}", ":hidden:", "", *names, "```"]))
    return "\n\n".join(parts) + "\n"


def source_page(project: Path, file: PurePosixPath) -> str:
    """A page with a file's source, which the search leaves out."""
    source = (project / file).read_text("utf-8")
    return f"---\norphan: true\nnosearch: true\n---\n# {file}\n\n``````python\n{source}``````\n"


def module_page(project: Path, file: PurePosixPath) -> str:
    """A page with the docstrings of a module and of its public classes and functions."""
    tree = ast.parse((project / file).read_text("utf-8"))
    module = ".".join(file.with_suffix("").parts)
    parts = [f"# {module}", f":::{{py:module}} {module}\n:::", docstring(tree)]
    parts += [f"[Source of {file.name}]({file.name}.md)"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _public(node):
            parts.append(_class(node))
        elif isinstance(node, Function) and _public(node):
            parts.append(directive("py:function", signature(node), docstring(node)))
    return "\n\n".join(parts) + "\n"


def _public(node: ast.ClassDef | Function) -> bool:
    return not node.name.startswith("_") or node.name == "__call__"


def _class(node: ast.ClassDef) -> str:
    members = [docstring(node)]
    for member in node.body:
        if isinstance(member, Function) and _public(member) and not _is_setter(member):
            members.append(_method(member))
    return directive("py:class", node.name + _fields(node), "\n\n".join(members), depth=4)


def _is_setter(node: Function) -> bool:
    return any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list)


def _fields(node: ast.ClassDef) -> str:
    """What a dataclass is made from, in brackets; of another class, its `__init__`'s arguments."""
    for member in node.body:
        if isinstance(member, Function) and member.name == "__init__":
            return signature(member, method=True).removeprefix("__init__").split(" -> ")[0]
    fields = [ast.unparse(member) for member in node.body if isinstance(member, ast.AnnAssign)]
    return f"({', '.join(fields)})" if fields else ""


def _method(node: Function) -> str:
    decorators = {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property"}:
        type_ = [f":type: {ast.unparse(node.returns)}"] if node.returns else []
        return directive("py:property", node.name, docstring(node), *type_)
    kind = {"classmethod", "staticmethod"} & decorators
    plain = signature(node, method="staticmethod" not in kind)
    return directive("py:method", plain, docstring(node), *(f":{name}:" for name in kind))


def signature(node: Function, method: bool = False) -> str:
    """The name, arguments and result of a function; of a method without `self` or `cls`."""
    arguments = ast.unparse(node.args)
    if method:
        arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({arguments}){returns}"


def directive(name: str, argument: str, body: str, *options: str, depth: int = 3) -> str:
    """A MyST directive; `depth`, its number of colons, is larger than those of what it holds."""
    fence = ":" * depth
    return "\n".join([f"{fence}{{{name}}} {argument}", *options, "", body, fence])


def docstring(node: ast.Module | ast.ClassDef | Function) -> str:
    """A docstring as Markdown: what it says of each argument begins a line, as in the source."""
    return NAMED.sub(r"\\\n", escaped(ast.get_docstring(node) or ""))


def escaped(text: str) -> str:
    """Text in which, outside code, `<` begins no HTML and the star of `reward_*` no emphasis."""
    parts = CODE.split(text)
    return "".join(p if i % 2 else MARK.sub(r"\\\g<0>", p) for i, p in enumerate(parts))
