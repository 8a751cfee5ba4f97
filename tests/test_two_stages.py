"""A training by rewards that goes on from a fine-tuned model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_ablations import ORIGIN, write_predictions

from foodseg.ablations import execute as one
from foodseg.ablations import run_all as table
from foodseg.ablations import two_stages, why
from foodseg.ablations.rows import TWO_STAGES, Row, choose_rows, differences
from foodseg.ablations.runs import Run, Runs
from foodseg.common.errors import DataError
from foodseg.common.files import write_json, write_lines
from foodseg.evaluation.predictions import load_result
from foodseg.presets import SMOKE
from foodseg.recipes import GRPO
from foodseg.supervised.targets import SFT

(ROW, *_) = TWO_STAGES
RUN = Run(ROW, 1)


@pytest.fixture()
def runs(home):
    return Runs(replace(SMOKE, steps=1, max_new_tokens=32))


def test_every_second_stage_names_a_row_that_is_fine_tuned():
    for row in TWO_STAGES:
        (first,) = choose_rows(row.after)
        assert first.method == SFT and not first.after
        assert Run(row, 2, "validation").first == Run(first, 2, "validation")
    assert ROW.name == "sft-then-grpo" and replace(ROW.method, name="grpo", title="GRPO") == GRPO
    assert Run(choose_rows("grpo")[0]).first is None and differences(ROW) == "after: sft"


def test_its_base_is_the_fine_tuned_model_and_is_made_once(runs, monkeypatch):
    with pytest.raises(DataError, match="sft-seed1: not trained yet; `python -m .* sft --seed 1"):
        runs.preset_of(RUN)
    two_stages.make_base(runs, RUN)
    base = Path(runs.preset_of(RUN).mllm)
    assert base.parent.name == "merged" and base.name.startswith("sft-seed1-")
    before, after = (load_file(Path(p.mllm) / "model.safetensors")
                     for p in (runs.preset, runs.preset_of(RUN)))  # fmt: skip
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("proj" in name for name in changed)  # LoRA's layers, and no others
    monkeypatch.setattr(two_stages, "merge", None)  # it would be called in vain
    two_stages.make_base(runs, RUN)
    two_stages.make_base(runs, Run(choose_rows("grpo")[0]))  # it has no first stage


@pytest.fixture()
def first_stage(runs):
    """A first stage that is trained and merged, as far as folders tell."""
    first = runs.log(RUN.first).with_name("result.json")
    write_json(first, {"adapter": "abc"})
    base = Path(runs.preset_of(RUN).mllm)
    base.mkdir(parents=True)
    (base / "model.safetensors").write_bytes(b"merged")
    return base


def test_training_and_evaluation_get_that_base(runs, first_stage, monkeypatch):
    bases = []

    def train(preset, recipe, seed, samples):
        bases.append(preset.mllm)
        write_lines(preset.run_folder(recipe.name, seed) / "log.jsonl", [{"peak_memory_mb": 1}])
        return {"seconds": 2.0, "steps": 1}

    def evaluate(preset, run, samples):
        bases.append(preset.mllm)
        write_predictions(runs, run.name, (5, 5))
        return load_result(preset.predictions_folder(run.name)) | ORIGIN

    monkeypatch.setattr(one, "make_base", lambda runs, run: None)
    monkeypatch.setattr(one, "train", train)
    monkeypatch.setattr(one, "_evaluate", evaluate)
    monkeypatch.setattr(one, "write_card", None)  # it names a base that others have
    outcome = one.execute(runs, RUN)
    assert bases == [str(first_stage)] * 2 and outcome["giou"] == 0.5 and runs.finished(RUN)
    with pytest.raises(DataError, match="only recipes on the preset's base"):
        one.train_as_worker(runs, RUN)


def test_the_first_stage_decides_its_scores(runs, monkeypatch):
    """Also before it is trained: what it will be is known."""
    identity = runs.identity(RUN)
    base = identity["training"]["base"]
    assert base == {"run": "sft-seed1", "training": runs.identity(RUN.first)["training"]}
    other = replace(SFT, template="Of {Question}")
    (first,) = choose_rows("sft")
    monkeypatch.setattr(Run, "first", property(lambda run: Run(replace(first, method=other), 1)))
    assert runs.identity(RUN) != identity


def test_why_compares_with_the_merged_weights(runs, first_stage):
    folder = runs.run_folder(RUN)
    write_json(folder / "config.json", runs.config(RUN, runs.preset_of(RUN)))
    assert why.reason(runs, folder) == "today's, unfinished"
    (first_stage / "model.safetensors").write_bytes(b"merged anew")
    assert why.reason(runs, folder) == "made again when asked for, since it differs: base"
    runs.log(RUN.first).with_name("result.json").unlink()
    assert "sft-seed1: not trained yet" in why.reason(runs, folder)


def test_no_two_processes_train_one_first_stage():
    def child(run):
        return table._Child(run, None, 0.0)

    sft, grpo = (Run(choose_rows(name)[0], 1) for name in ("sft", "grpo"))
    twin = Run(Row("sft-then-twin", "Twin", replace(GRPO, name="sft-then-twin"), after="sft"), 1)
    assert table._next([RUN, grpo], []) == RUN
    assert table._next([RUN, grpo], [child(sft)]) == grpo
    assert table._next([sft, twin], [child(RUN)]) is None
    assert table._next([twin, Run(ROW, 2)], [child(RUN)]) == Run(ROW, 2)
    assert table._next([], []) is None
