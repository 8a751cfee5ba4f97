"""What a reader of an executed notebook need not see at once."""

from __future__ import annotations

IMPORTS = ("import ", "from ")


def fold_imports(notebook: dict) -> None:
    """Fold the first cell of imports: MyST-NB's tag shows it when its heading is clicked."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "".join(cell["source"]).startswith(IMPORTS):
            tags = cell["metadata"].get("tags", [])
            cell["metadata"]["tags"] = [*tags, "hide-input"]
            words = {"code_prompt_show": "Imports", "code_prompt_hide": "Imports"}
            cell["metadata"]["mystnb"] = words
            return
