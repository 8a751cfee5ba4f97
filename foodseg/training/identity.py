"""What decides a run's bits, as JSON values: its settings, data, weights and code.

The code is what the run's functions import (`common.imports`). Values of presets and recipes are
written down one by one, so the files that list them do not count; a published method's file counts
for the recipes that use it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from foodseg.common.errors import DataError
from foodseg.common.files import sha256
from foodseg.common.imports import VALUES, bare_code, code_hash, import_closure
from foodseg.common.progress import tqdm
from foodseg.data.samples import Sample, samples_hash
from foodseg.presets import Preset

if TYPE_CHECKING:  # a training loads only the methods that its recipe uses
    from foodseg.recipes import Recipe

# Paths (the weights and the data count by their hashes), and what only an evaluation or another
# method reads.
NO_TRAINING_FIELDS = frozenset(
    "mllm mllm_revision segmenter train_plates test_plates checkpoint_every evaluation_batch "
    "published knowledge supervised_learning_rate parents data no_target_share".split()
)
# The trainer imports these for recipes with a tool, or with true answers: others never run them.
TOOL, TRUE_ANSWERS = "foodseg.training.mask_decoder", "foodseg.training.true_answers"
# What a log keeps for the replay decides no bit.
WATCHED = "foodseg.training.watched"


def run_config(preset: Preset, recipe: Recipe, seed: int, samples: Sequence[Sample]) -> dict:
    """All that decides the result of `training.trainer.train`."""
    roots = ["foodseg.training.trainer", *recipe_modules(recipe)]
    samples = payable(samples, recipe.nothing)
    return {
        "preset": preset_values(preset),
        "recipe": as_json(recipe),
        **what_it_learns_from(preset, seed, samples),
        "code": used_code(roots),
    }


def goes_on(before: dict, config: dict, rows: Sequence[dict]) -> bool:
    """Whether a run of the configuration `before` is `config`'s so far: only its budget is smaller.

    rows: of its log. `steps` decides only where a run of a recipe ends. `max_rounds` decides
    nothing in a step that found all its groups; one that learnt from fewer would have asked on.
    """
    if _without_budget(before) != _without_budget(config):
        return False
    old, new = before["recipe"]["max_rounds"], config["recipe"]["max_rounds"]
    full = all(row["groups"] == config["preset"]["prompts_per_step"] for row in rows)
    asks_on = old == new or (full and 0 < old and (new == 0 or old < new))  # 0 sets no limit
    return asks_on and before["preset"]["steps"] <= config["preset"]["steps"]


def _without_budget(config: dict) -> dict:
    preset, recipe = config["preset"] | {"steps": None}, config["recipe"] | {"max_rounds": None}
    return config | {"preset": preset, "recipe": recipe}


def payable(samples: Sequence[Sample], nothing: bool = False) -> list[Sample]:
    """The samples that can be learnt from: without `nothing` only those with a target."""
    return [sample for sample in samples if nothing or not sample.no_target]


def payable_told(title: str, samples: Sequence[Sample], nothing: bool = False) -> list[Sample]:
    """The same; says how many are left out, if any are."""
    kept = payable(samples, nothing)
    if left_out := len(samples) - len(kept):
        tqdm.write(
            f"{title}: {left_out} of {len(samples)} questions ask for nothing that is in the photo "
            "and are left out; recipes.NOTHING_HERE and supervised.targets.SFT_NOTHING learn from "
            "them."
        )
    return kept


def check_learnable(preset: Preset, samples: Sequence[Sample]) -> None:
    """Raises DataError for what no training could learn from: no sample, or groups of one."""
    if not samples:
        raise DataError("samples: there is none to learn from; build the training split first.")
    if preset.group_size < 2:
        fix = "a completion is compared with others of its question; take 2 or more"
        raise DataError(f"group_size: {preset.group_size} teaches nothing; {fix}.")


def what_it_learns_from(preset: Preset, seed: int, samples: Sequence[Sample]) -> dict:
    """Seed, samples and weights of a run."""
    return {
        "seed": seed,
        "samples": len(samples),
        "data": samples_hash(samples),
        **preset.weights,
    }


def preset_values(preset: Preset) -> dict:
    """The preset's fields that a training reads."""
    kept = [field.name for field in fields(preset) if field.name not in NO_TRAINING_FIELDS]
    return {name: as_json(getattr(preset, name)) for name in kept}


def used_code(roots: Iterable[str]) -> str:
    """Hash of the code that these modules import, without what only other recipes run."""
    return code_hash(used_modules(roots))


def used_modules(roots: Iterable[str]) -> list[str]:
    """The names of the modules that `used_code` hashes."""
    return import_closure(roots, without=[*VALUES, TOOL, TRUE_ANSWERS, WATCHED])


def recipe_modules(recipe: Recipe) -> list[str]:
    """The package's modules that this recipe's own functions and fields stand in."""
    used = [*recipe.reward, recipe.advantages, recipe.ranking, recipe.prompt]
    used += [recipe.true_answer]
    used = [one for one in used if one]
    modules = [getattr(one, "func", one).__module__ for one in used]
    modules += [TOOL] if recipe.tool else []
    modules += [TRUE_ANSWERS] if recipe.true_answer else []
    return [module for module in modules if module.startswith("foodseg.")]


def as_json(value: Any) -> Any:
    """Settings as JSON: dataclasses, functions, classes, numbers, text, and sequences of them.

    A function is its module, name and source, a partial is that and its arguments, so settings
    that differ give values that differ; what a function calls or reads elsewhere is not seen.
    Raises ValueError for what can't be told apart: other objects, and functions without a name,
    with captured variables, or of which no source can be read.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [as_json(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, partial):
        keywords = {name: as_json(one) for name, one in sorted(value.keywords.items())}
        return as_json(value.func) | {"arguments": as_json(value.args), "keywords": keywords}
    named = inspect.isfunction(value) and value.__name__ != "<lambda>"
    if (named and not value.__closure__) or inspect.isclass(value):
        source = _source(value).encode()
        name = f"{value.__module__}.{value.__qualname__}"
        return {"function": name, "source": sha256(source)[:16]}
    raise ValueError(
        f"settings: {value!r} can't be written down; give numbers, text, and named functions of a "
        "file or of a notebook's cell, with their own settings by functools.partial."
    )


def _source(function: FunctionType | type) -> str:
    """The function's code, without comments and docstrings, which decide nothing."""
    try:
        return bare_code(textwrap.dedent(inspect.getsource(function)))
    except OSError:
        raise ValueError(
            f"settings: the source of {function.__qualname__} can't be read; write it in a file or "
            "in a notebook's cell."
        ) from None
