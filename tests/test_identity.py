"""What decides a run's bits: the files that its functions import, its settings, its data."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

from foodseg import presets
from foodseg.common import imports
from foodseg.evaluation.unfinished import depends_on
from foodseg.methods.dr_seg import RankQueue, look_prompt
from foodseg.presets import SMOKE
from foodseg.recipes import B_GRTO, DAPO, DR_SEG, GRPO, SAM_R1, SD_GRPO, VISURF
from foodseg.rl.evidence import accuracy
from foodseg.supervised.targets import LISA
from foodseg.supervised.training import baseline_config
from foodseg.training.identity import as_json, goes_on, run_config, used_code

METHODS = {"GRPO": GRPO, "DAPO": DAPO, "SAM-R1": SAM_R1, "Dr. Seg": DR_SEG, "SD-GRPO": SD_GRPO}
METHODS |= {"ViSurf": VISURF, "B-GRTO": B_GRTO, "ranked": replace(GRPO, ranking=RankQueue)}
EVERYTHING = {*METHODS, "LISA", "evaluation"}


@pytest.fixture()
def package(tmp_path, monkeypatch):
    """A copy of the package's code, which a test may change."""
    code = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(presets.PACKAGE, tmp_path / "foodseg", ignore=code)
    monkeypatch.setattr(imports, "PROJECT", tmp_path)
    return tmp_path / "foodseg"


def codes() -> dict[str, str]:
    """What each method's training depends on, a supervised one's, and an evaluation."""
    made = {name: run_config(SMOKE, recipe, 0, [])["code"] for name, recipe in METHODS.items()}
    made["LISA"] = baseline_config(SMOKE, LISA, 0, [])["code"]
    evaluation = "foodseg.evaluation.evaluate"
    both = used_code([evaluation]) + depends_on(SMOKE, [], evaluation)["code"]
    return made | {"evaluation": both}


STALE = {
    **dict.fromkeys(("data/photos.py", "models/rollouts.py"), EVERYTHING),
    **dict.fromkeys(("training/updates.py", "rl/objectives.py"), set(METHODS)),
    **dict.fromkeys(("methods/grto.py", "training/mask_decoder.py"), {"B-GRTO"}),
    "methods/sam_r1.py": {"SAM-R1", "B-GRTO"},
    "methods/dr_seg.py": {"Dr. Seg", "ranked"},
    "methods/sd_grpo.py": {"SD-GRPO"},
    **dict.fromkeys(("methods/visurf.py", "training/true_answers.py"), {"ViSurf"}),
    "supervised/updates.py": {"LISA"},
    "evaluation/metrics.py": {"evaluation"},
    **dict.fromkeys(("report/style.py", "kitchen/plates.py", "rl/exports.py"), set()),
    # Of the last two, the values are written down one by one.
    **dict.fromkeys(("training/launch.py", "recipes.py", "presets.py"), set()),
    "training/watched.py": set(),
}


@pytest.mark.parametrize("file", STALE)
def test_a_change_makes_stale_what_runs_the_file(package, file):
    before = codes()
    with (package / file).open("a") as code:
        code.write("\nONE_MORE = 1\n")
    after = codes()
    assert {name for name in before if before[name] != after[name]} == STALE[file]


def test_words_and_layout_are_no_change_and_numbers_are(package):
    file = package / "training" / "updates.py"
    text, before = file.read_text(), codes()
    reworded = text.replace('"""', '"""In other words: ', 1)
    file.write_text(reworded.replace("    def ", "    # why\n\n    def "))
    assert file.read_text() != text and codes() == before
    file.write_text(text.replace("weight_decay=0.01", "weight_decay=0.02"))
    assert file.read_text() != text and codes() != before


def test_imports_for_type_checking_load_nothing_and_those_in_functions_do():
    source = """
from typing import TYPE_CHECKING
import torch
from foodseg.rl import rewards, no_module
if TYPE_CHECKING:
    from foodseg.data.samples import Sample
def late():
    from foodseg.models.prompts import build_messages
"""
    expected = ["foodseg.rl", "foodseg.rl.rewards", "foodseg.models.prompts"]
    assert imports.imported_modules(source) == expected


def test_other_settings_give_another_configuration(samples):
    def config(recipe=GRPO, samples=samples):
        return json.dumps(run_config(SMOKE, recipe, 0, samples))

    def brief(evidence):
        return 1.0

    first = brief

    def brief(evidence):
        """In words."""
        return 1.0  # and why

    assert as_json(brief) == as_json(first)  # it counts by what it does and not by its words

    def brief(evidence):
        return 2.0

    rewards = [(first,), (brief,), (brief, accuracy), (accuracy, brief)]
    rewards += [(partial(first, one),) for one in (1, 2)] + [(partial(first, a=1),)]
    configs = [config(replace(GRPO, reward=reward)) for reward in rewards]
    configs += [config(), config(replace(GRPO, prompt=look_prompt)), config(DAPO), config(B_GRTO)]
    # the same number of samples, one answer of which differs
    configs.append(config(samples=[replace(samples[0], question="Why?"), *samples[1:]]))
    assert len(set(configs)) == len(configs)
    assert config(replace(GRPO, reward=(first,))) == configs[0]


def test_every_field_of_a_preset_counts_but_paths_and_the_evaluations():
    changes = {"image_side": 336, "segmenter_config": presets.SAM2_LARGE}
    changes["extra_reward"] = (accuracy,)
    configs = [run_config(replace(SMOKE, **{k: v}), GRPO, 0, []) for k, v in changes.items()]
    same = run_config(replace(SMOKE, evaluation_batch=1, published="elsewhere"), GRPO, 0, [])
    plain = run_config(SMOKE, GRPO, 0, [])
    assert same == plain and all(config != plain for config in configs)


def plus(weight):
    def own(evidence):
        return weight

    return own


def test_what_cannot_be_told_apart_by_its_source_is_refused():
    @dataclass
    class Own:
        weight: float = 1.0

        def __call__(self, evidence):
            return self.weight

    scope = {}
    exec("def own(evidence): return 1.0", scope)
    for value, words in (
        (replace(GRPO, reward=(plus(1.0),)), "settings: .*plus.*functools.partial"),
        (replace(GRPO, reward=(lambda evidence: 1.0,)), "lambda.*named functions"),
        (partial(accuracy, np.zeros(3)), "ndarray|array"),
        (scope["own"], "read"),
        (Own().__call__, "Own.__call__"),
    ):
        with pytest.raises(ValueError, match=words):
            as_json(value)


def test_only_a_larger_budget_lets_a_run_go_on():
    def config(steps=3, rounds=10, **other):
        recipe = replace(DAPO, max_rounds=rounds, **other)
        return run_config(replace(SMOKE, steps=steps), recipe, 0, [])

    full = [{"groups": SMOKE.prompts_per_step}]
    fewer = [*full, {"groups": SMOKE.prompts_per_step - 1}]
    before = config()
    for after in (config(steps=4), config(rounds=11), config(rounds=0), config(4, 11)):
        assert goes_on(before, after, full)
    # A step that learnt from fewer groups would have asked for more.
    assert goes_on(before, config(steps=4), fewer)
    for after in (config(rounds=11), config(rounds=0), config(4, 11)):
        assert not goes_on(before, after, fewer)
    for after in (config(steps=2), config(rounds=9), config(4, 9), config(budget=2)):
        assert not goes_on(before, after, full)
    assert not goes_on(config(rounds=0), before, full)
    assert not goes_on(before, run_config(replace(SMOKE, steps=4), GRPO, 0, []), full)
