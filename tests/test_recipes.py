"""Recipes: what they compose, what a run writes down of them, and that they train and resume."""

import json
import lzma
from dataclasses import replace
from functools import partial

import pytest

from foodseg import presets, recipes
from foodseg.ablations.rows import all_rows, nothing_rows
from foodseg.ablations.runs import same_settings
from foodseg.common.files import PROJECT, read_lines
from foodseg.methods.dr_seg import RankQueue, look_prompt
from foodseg.models import prompts
from foodseg.recipes import DAPO, DR_SEG, GRPO, SAM_R1, SD_GRPO, VISURF, Recipe
from foodseg.rl.evidence import accuracy, term_name
from foodseg.system import load_policy
from foodseg.training.identity import as_json
from foodseg.training.trainer import train

ALL = [
    recipe
    for value in vars(recipes).values()
    for recipe in (value if isinstance(value, tuple) else (value,))
    if isinstance(recipe, Recipe)
]
PRESET = replace(
    presets.SMOKE,
    steps=2,
    prompts_per_step=2,
    group_size=6,
    max_new_tokens=160,
    learning_rate=1e-3,
)


def test_every_recipe_is_one_of_its_own():
    assert len(ALL) >= 30
    assert len({recipe.name for recipe in ALL}) == len({recipe.title for recipe in ALL}) == len(ALL)
    written = [as_json(replace(recipe, name="", title="")) for recipe in ALL]
    assert all(json.loads(json.dumps(one)) == one for one in written)
    texts = {json.dumps(one): recipe.name for one, recipe in zip(written, ALL, strict=True)}
    assert len(texts) == len(ALL)


def test_the_recipes_are_as_the_records_ran_them():
    """Field by field, each objective's constants among them; only code may differ."""
    methods = {row.name: row.method for row in all_rows() + nothing_rows()}
    compared = 0
    for file in (PROJECT / "figures" / "records").glob("*.json.xz"):
        outcome = json.loads(lzma.decompress(file.read_bytes()))["outcome"]
        if isinstance(method := methods[outcome["row"]], Recipe):
            ran, today = outcome["identity"]["training"]["recipe"], json.dumps(as_json(method))
            assert same_settings(ran, json.loads(today)), file.name
            compared += 1
    assert compared > 200


def test_parts_together_are_dapo_and_sam_r1_and_each_term_is_left_out_once():
    names = ("CLIP_HIGHER", "DYNAMIC_SAMPLING", "TOKEN_LOSS", "NO_KL")
    parts = [getattr(recipes, f"GRPO_{name}") for name in names]
    assert changed(GRPO, *parts) == changed(GRPO, DAPO)
    assert len(changed(GRPO, DAPO)) == 4
    grpo = recipes.SAM_R1_GRPO
    parts = (recipes.SAM_R1_CLIP_HIGH, recipes.SAM_R1_TOKEN_LOSS)
    assert changed(grpo, *parts) == changed(grpo, SAM_R1)
    assert len(changed(grpo, SAM_R1)) == 2
    assert changed(grpo, GRPO).keys() == {"reward", "prompt", "labelled_points"}
    kept = {term_name(term) for term in DAPO.reward}
    whole = [
        kept - {term_name(term) for term in recipe.reward} for recipe in recipes.DAPO_WITHOUT_TERMS
    ]
    formats = {"thinking_format", "segmentation_format"}
    assert whole[:1] == [formats] and set(map(len, whole[1:])) == {1}
    assert whole[1:4] == [{"thinking_format"}, {"segmentation_format"}, {"non_repeat"}]
    assert whole[4:] == [{"accuracy"}] * 3
    parts = [recipe.reward[2].keywords["part"] for recipe in recipes.DAPO_WITHOUT_TERMS[4:]]
    assert parts == ["iou", "box_l1", "point_l2"]


def changed(base: Recipe, *others: Recipe) -> dict:
    """What the others change, field by field, the objective's among them."""
    return {
        name: value
        for other in others
        for name, value in flat(other).items()
        if value != flat(base)[name]
    }


def flat(recipe: Recipe) -> dict:
    fields = vars(recipe) | vars(recipe.objective)
    return {k: v for k, v in fields.items() if k not in ("name", "title", "objective")}


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(ValueError, match="reward of 'x': two terms are called accuracy"):
        replace(GRPO, name="x", reward=(accuracy, partial(accuracy)))

    def ranked(evidence):
        return 0.0

    replace(GRPO, reward=(ranked,))
    with pytest.raises(ValueError, match="two terms are called ranked"):
        replace(GRPO, reward=(ranked,), ranking=RankQueue)
    with pytest.raises(ValueError, match="doesn't go with a ranking"):
        replace(VISURF, ranking=RankQueue)
    with pytest.raises(ValueError, match="labelled_points not with a tool"):
        replace(SAM_R1, tool=recipes.GRTO.tool)


@pytest.mark.parametrize(
    "recipe", [SAM_R1, DR_SEG, SD_GRPO, VISURF], ids=lambda recipe: recipe.name
)
def test_a_recipe_trains_and_goes_on_after_a_stop_with_the_same_bits(
    home, samples, recipe, knowing
):
    preset = replace(PRESET, mllm=knowing)  # the base seldom earns a reward in two steps
    run = preset.run_folder(recipe.name, 0)
    train(preset, recipe, 0, samples)
    whole = run.rename(home / "whole")

    def stop_after_first_step(log):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(preset, recipe, 0, samples, stop_after_first_step)
    assert (run / "state.pt").exists()
    train(preset, recipe, 0, samples)
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    rows = read_lines(run / "log.jsonl")
    for ours, theirs in zip(rows, read_lines(whole / "log.jsonl"), strict=True):
        own = [key for key in ours if key.startswith("points_")]
        terms = [*map(term_name, recipe.reward), *["ranked"] * bool(recipe.ranking)]
        assert own == ["points_total", *(f"points_{term}" for term in terms)]
        assert ours["points_total"] == pytest.approx(sum(ours[key] for key in own[1:]))
        assert [ours[key] for key in own] == [theirs[key] for key in own]
        assert ours["reward_total"] > 0 and "seconds_update" in ours
    assert max(row["gradient_norm"] for row in rows) > 0


def test_an_adapter_is_evaluated_with_the_prompt_that_it_was_trained_with(samples):
    short = replace(PRESET, steps=1, prompt_template=prompts.PAPER)
    train(short, DR_SEG, 0, samples)
    mllm = load_policy(short)
    assert mllm.template == prompts.PAPER
    adapter = short.run_folder("dr-seg", 0) / "adapter"
    mllm.load_adapter(adapter)
    assert mllm.template == look_prompt(prompts.PAPER) != prompts.PAPER
    (adapter / "prompt_template.txt").unlink()
    with pytest.raises(ValueError, match="prompt_template.txt: it is missing"):
        load_policy(short).load_adapter(adapter)
