"""The rows of the ablation table: the recipes of `foodseg.recipes` and the baselines of
`foodseg.supervised.targets` but those with `nothing`, trainings in two stages, the untrained base,
and the upper bound.

A row's family is found from the prefix of its name, so a new recipe needs no entry here; a name
without a known prefix stands under "Other recipes".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from foodseg import recipes
from foodseg.common.errors import DataError
from foodseg.recipes import Recipe
from foodseg.supervised import targets
from foodseg.supervised.targets import Baseline
from foodseg.training.identity import as_json

UNTRAINED, SUPERVISED, OTHER = "Not trained", "Supervised", "Other recipes"
# Prefix of a row's name -> its family, in the table's order.
FAMILIES = {
    "base": UNTRAINED,
    "bound": UNTRAINED,
    "grpo": "The paper: GRPO and its parts",
    "dapo": "The paper: DAPO",
    "sam-r1": "SAM-R1",
    "dr-seg": "Dr. Seg",
    "sd-grpo": "SD-GRPO",
    "grto": "GRTO and B-GRTO",
    "b-grto": "GRTO and B-GRTO",
    "visurf": "ViSurf",
    "gdpo": "GDPO",
    "sft-then": "Fine-tuning, then rewards",
    "ours": "Our recipe",
    "nothing-here": "“Nothing here” is an answer",
}


@dataclass(frozen=True)
class Row:
    """One line of the table; method: how it is trained, None for the base and the bound.

    after: the row of a supervised baseline whose trained model is the base; "" for the preset's.
    """

    name: str
    title: str
    method: Recipe | Baseline | None = None
    after: str = ""

    @property
    def family(self) -> str:
        if isinstance(self.method, Baseline):
            return SUPERVISED
        parts = self.name.split("-")
        prefixes = ("-".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((FAMILIES[prefix] for prefix in prefixes if prefix in FAMILIES), OTHER)

    @property
    def trained(self) -> bool:
        """Whether it has seeds: the base and the bound answer greedily, always the same."""
        return self.method is not None


BASE = Row("base", "Base + SAM2, zero-shot")
BOUND = Row("bound", "True boxes and points + SAM2 (bound)")


def _two_stages(recipe: Recipe) -> Row:
    name, title = f"sft-then-{recipe.name}", f"Fine-tuning on references, then {recipe.title}"
    return Row(name, title, replace(recipe, name=name, title=title), after=targets.SFT.name)


# A training of each kind, so twice as long as a row of one stage; it samples as many completions.
TWO_STAGES = (_two_stages(recipes.GRPO),)


def all_rows() -> list[Row]:
    """Every row, family by family, in the order of recipes.py; DataError if two have one name.

    Without `nothing_rows`, which need questions that the others don't have.
    """
    one_stage = _rows(method for method in _methods() if not method.nothing)
    rows = [BASE, BOUND, *one_stage, *TWO_STAGES]
    by_name: dict[str, Row] = {}
    for row in rows:
        if by_name.setdefault(row.name, row) != row:
            raise DataError(f"recipes.py: two methods are named {row.name!r}; rename one.")
    order = list(dict.fromkeys([UNTRAINED, SUPERVISED, *FAMILIES.values(), OTHER]))
    return sorted(by_name.values(), key=lambda row: order.index(row.family))


def nothing_rows() -> list[Row]:
    """The rows of methods for which “nothing here” is an answer (`ablations.nothing_here`)."""
    return _rows(method for method in _methods() if method.nothing)


def _rows(methods: Iterable[Recipe | Baseline]) -> list[Row]:
    return [Row(method.name, method.title, method) for method in methods]


def _methods() -> list[Recipe | Baseline]:
    return [*_instances(vars(targets), Baseline), *_instances(vars(recipes), Recipe)]


def choose_rows(names: str) -> list[Row]:
    """The rows of those names, split by commas, in the table's order; all for "".

    `nothing_rows` come by their names only. Raises DataError for a name that no row has.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    rows = all_rows() + (nothing_rows() if asked else [])
    known = [row.name for row in rows]
    for name in asked:
        if name not in known:
            raise DataError(f"ROWS: {name!r} is no row; use some of {', '.join(known)}.")
    return [row for row in rows if not asked or row.name in asked]


def _instances(names: dict, kind: type) -> list:
    """A module's values of that kind, alone or in a tuple, in order."""
    values = [value if isinstance(value, tuple) else (value,) for value in names.values()]
    return [one for value in values for one in value if isinstance(one, kind)]


def differences(row: Row) -> str:
    """What a row has other than GRPO, as "name: value, ..."; "" for GRPO itself."""
    if isinstance(row.method, Baseline):
        return f"no rewards: cross-entropy on what {row.method.write.__name__} writes"
    if row.method is None:
        return "not trained"
    ours, theirs = _flat(as_json(row.method)), _flat(as_json(recipes.GRPO))
    changed = [f"after: {row.after}"] if row.after else []
    changed += [f"{key}: {value}" for key, value in ours.items() if theirs.get(key) != value]
    return ", ".join(changed)


def _flat(recipe: dict) -> dict[str, str]:
    """A recipe's fields, and those of the values it is made of, as short text."""
    fields = {key: value for key, value in recipe.items() if key not in ("name", "title")}
    if (tool := fields["tool"]) and not tool["off_policy_steps"]:
        fields["tool"] = {k: v for k, v in tool.items() if not k.startswith("off_policy")}
    parts = fields.pop("objective") | {"reward": [_short(term) for term in fields.pop("reward")]}
    return {key: _short(value) for key, value in (fields | parts).items()}


def _short(value) -> str:
    """A function by its name, its arguments after it; a list with commas; text in one line."""
    if isinstance(value, dict) and "function" in value:
        arguments = [*value.get("arguments", ()), *value.get("keywords", {}).values()]
        words = ", ".join(map(_short, arguments))
        return value["function"].rpartition(".")[2] + (f"({words})" if words else "")
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(one)}" for key, one in value.items()) + ")"
    if isinstance(value, list):
        return " + ".join(_short(one) for one in value)
    return " ".join(str(value).split())
