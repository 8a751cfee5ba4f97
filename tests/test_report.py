"""Tables and pictures say what the predictions say, and name what is missing."""

import io
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from foodseg import presets
from foodseg.common import tables
from foodseg.common.errors import DataError
from foodseg.common.files import write_json, write_lines
from foodseg.common.tables import write_text
from foodseg.data.references import Reference, encode_mask
from foodseg.data.samples import Sample, load_samples, samples_hash, save_samples
from foodseg.evaluation.base_rows import ANY_FORM, BEST_OF, KNOWLEDGE, PARENTS
from foodseg.evaluation.predictions import Prediction, summarise
from foodseg.presets import Protocol, parse_seeds, require
from foodseg.report import (
    bars,
    baselines,
    completions,
    costs,
    curves,
    failures,
    gains,
    qualitative,
    results,
    results_notes,
    style,
)
from foodseg.report.paper import PAPER
from foodseg.rl.answers import parse_answer
from foodseg.supervised.targets import LISA, SFT

MASK = np.zeros((4, 6), dtype=bool)
MASK[1:3, 1:4] = True
REFERENCE = Reference(box=(1, 1, 3, 2), point=(2, 1))
NO_POINT = '{"bbox_2d": [1, 1, 3, 2], "point_2d": '
ITEM = NO_POINT + "[2, 1]}"
# A preset that keeps its base's knowledge.
SMOKE = replace(presets.SMOKE, knowledge="knowledge.safetensors")
# The table's first methods: the base's rows, then the paper's others.
METHODS = [line.method for line in PAPER]
METHODS[1:1] = [results.ANY_FORM_TITLE, results.BEST_OF_TITLE]


def sample(number: int, foods=("steak",)) -> Sample:
    return Sample(
        sample_id=f"test-{number}-0",
        dish_id=str(number),
        split="test",
        image=f"{number}.jpg",
        width=6,
        height=4,
        question="Which food is rich in iron?",
        answer="The steak.",
        foods=tuple(foods),
        references=(REFERENCE,),
        reference_foods=tuple(foods),
        masks=(encode_mask(MASK),),
    )


def prediction(number: int, intersection: int, union: int = 10, **changes) -> Prediction:
    one = Prediction(
        sample_id=f"test-{number}-0",
        image=f"{number}.jpg",
        completion=f"<think>That is the steak.</think><answer>[{ITEM}]</answer>",
        parsed=True,
        foods_named=("steak",),
        foods_right=True,
        references=(REFERENCE,),
        mask=encode_mask(MASK),
        intersection=intersection,
        union=union,
    )
    return replace(one, **changes)


def write_row(row: str, run: list[Prediction], adapter: str | None = None, **more) -> None:
    folder = SMOKE.predictions_folder(row)
    lines = [vars(p) | {"references": [vars(r) for r in p.references]} for p in run]
    write_lines(folder / "predictions.jsonl", lines)
    result = {"row": row, "seconds": 1.0, "commit": "abc", "device": "CPU", "adapter": adapter}
    result["processor"] = "EPYC" if row == "base" else "Xeon"
    result["versions"] = {"torch": "2", "transformers": "5"}
    write_json(folder / "result.json", result | summarise(run) | more)


def write_all_rows() -> None:
    """Two seeds of GRPO and DAPO, and all that notebook 02 measures, of two questions."""
    if not SMOKE.samples_file("test").exists():
        save_samples([sample(0), sample(1, ("steak", "corn"))], SMOKE.samples_file("test"))
    base, bound, dapo = ([prediction(0, n), prediction(1, n)] for n in (0, 9, 5))
    rows = {"base": base, "bound": bound, "dapo-seed0": dapo, "dapo-seed1": dapo}
    rows["grpo-seed0"] = [prediction(0, 10), prediction(1, 0)]
    rows["grpo-seed1"] = [prediction(0, 10), prediction(1, 10)]
    rows |= {ANY_FORM: [prediction(0, 4), prediction(1, 0)], KNOWLEDGE: [prediction(0, 8)] * 2}
    rows[KNOWLEDGE][1] = prediction(1, 8)
    for row, run in rows.items():
        write_row(row, run)
    write_row(BEST_OF, [prediction(0, 6), prediction(1, 0)], sampled_giou=0.125)


def write_run(name: str, **result) -> None:
    """A finished run's result, of rollouts of 2 questions x 3 completions."""
    sizes = {"preset": {"prompts_per_step": 2, "group_size": 3}}
    folder = SMOKE.run_folder(*name.split("-seed"))
    write_json(folder / "result.json", {"seconds": 8.0} | sizes | result)


def test_missing_input_names_the_notebook_and_the_command(empty_home):
    with pytest.raises(DataError) as error:
        require(SMOKE.samples_file("test"), "01_build_foodreasonseg_single")
    message = str(error.value)
    assert "datasets/smoke/foodreasonseg_single_test.parquet is missing" in message
    assert "make build/smoke/01_build_foodreasonseg_single.ipynb" in message
    assert str(empty_home) not in message
    with pytest.raises(DataError, match="run notebook 05_train_dapo first"):
        results.read_predictions(SMOKE, "dapo-seed2")


def test_seeds_are_read_from_text():
    assert parse_seeds("0,1,2") == [0, 1, 2]
    assert parse_seeds("7") == [7]
    for wrong in ("", "0 1", "0,0", "a", "-1"):
        with pytest.raises(DataError, match="SEEDS"):
            parse_seeds(wrong)


def test_results_by_hand(empty_home):
    write_all_rows()
    frame = results.results_frame(SMOKE, [0, 1])
    grpo = frame.loc["GRPO"]
    assert grpo.giou == pytest.approx(0.75)  # 0.5 and 1
    assert (grpo.giou_one, grpo.giou_several) == (1.0, 0.5)
    assert grpo.giou_sd == pytest.approx(np.sqrt(0.125))
    assert (grpo.paper_giou, grpo.paper_ciou) == (0.46, 0.41)
    # Two seeds (0.5 and 1) on two plates tell nothing yet.
    assert (grpo.giou_low, grpo.giou_high) == (0, 1)
    assert frame.loc["DAPO"].giou_sd == 0
    assert np.isnan(frame.loc["Base + SAM2, zero-shot"].giou_sd)
    table = results.readable(frame)
    for method in ("LISA 7B", "FoodLMM-Chat 7B"):  # what was not measured stays empty
        assert set(table.loc[method].drop(["paper: gIoU", "paper: cIoU"])) == {"–"}
    bound = table.loc[results.BOUND_TITLE]
    assert (bound["paper: gIoU"], bound["paper: cIoU"], bound["gIoU"]) == ("–", "–", "0.900")
    assert table.loc["GRPO"]["gIoU"] == "0.750 ± 0.354"
    assert list(table.index) == [*METHODS, results.KNOWLEDGE_TITLE, results.BOUND_TITLE]
    for title, giou in ((results.ANY_FORM_TITLE, 0.2), (results.BEST_OF_TITLE, 0.3)):
        assert frame.loc[title].giou == pytest.approx(giou)


def test_each_trained_row_has_its_share_of_the_recoverable_gap(empty_home):
    write_all_rows()
    frame = results.results_frame(SMOKE, [0, 1])
    # Base 0, in any form 0.2, knowledge 0.8; GRPO 0.75, DAPO 0.5.
    assert frame.loc["GRPO", ["gap", "gap_any_form"]].tolist() == pytest.approx([15 / 16, 11 / 12])
    assert frame.loc["DAPO", ["gap", "gap_any_form"]].tolist() == pytest.approx([5 / 8, 1 / 2])
    table = results.readable(frame)
    assert table.loc["GRPO", ["of the gap", "of the gap, form aside"]].tolist() == ["94%", "92%"]
    assert set(frame.index[frame["gap"].notna()]) == {"GRPO", "DAPO"}
    write_row(KNOWLEDGE, [prediction(0, 4), prediction(1, 0)])  # as much as in any form: no gap
    shares = results.results_frame(SMOKE, [0, 1]).loc["DAPO", ["gap", "gap_any_form"]]
    assert shares.iloc[0] == pytest.approx(5 / 2) and np.isnan(shares.iloc[1])


def test_without_weights_of_the_knowledge_its_row_is_left_out(empty_home):
    write_all_rows()
    preset = replace(SMOKE, knowledge=None)
    frame = results.results_frame(preset, [0, 1])
    assert list(frame.index) == [*METHODS, results.BOUND_TITLE]
    assert results.readable(frame).loc["GRPO", "of the gap"] == "–"
    assert KNOWLEDGE not in results.provenance_frame(preset, [0, 1]).index


def test_a_preset_with_the_parents_protocol_has_a_second_base_row(empty_home):
    write_all_rows()
    preset = replace(SMOKE, parents=Protocol("{question}", 10))
    with pytest.raises(DataError, match="run notebook 02_model_and_zero_shot first"):
        results.results_frame(preset, [0, 1])
    write_row(PARENTS, [prediction(0, 2), prediction(1, 0)])
    frame = results.results_frame(preset, [0, 1])
    title = results.PARENTS_TITLE
    assert list(frame.index).index(title) == list(frame.index).index(results.BEST_OF_TITLE) + 1
    assert frame.loc[title, "giou"] == pytest.approx(0.1)
    assert PARENTS in results.provenance_frame(preset, [0, 1]).index
    assert title in results_notes.notes(preset, [0, 1]) and title not in results_notes.notes(
        SMOKE, [0, 1]
    )


def test_all_sampled_completions_are_counted_beside_those_learnt_from(empty_home):
    write_all_rows()
    without = results.readable(results.results_frame(SMOKE, [0, 1])).loc["DAPO"]
    assert set(without[["sampled", "learnt from", "seconds"]]) == {"–"}
    write_run("dapo-seed0", steps=2, sampled=30)
    write_run("dapo-seed1", steps=1, sampled=24, seconds=9.0)
    frame = results.results_frame(SMOKE, [0, 1])
    assert frame.loc["DAPO", list(costs.COSTS)].tolist() == pytest.approx([27, 9, 8.5])
    folder = SMOKE.run_folder("dapo", 0)
    write_lines(folder / "log.jsonl", [{"groups": 2}, {"groups": 1}])  # a step found one alone
    assert costs.run_costs(folder) == (30, 9, 8.0)
    write_run("sft-seed0", steps=1, sampled=0)
    sampled, learnt_from, seconds = costs.run_costs(SMOKE.run_folder("sft", 0))
    assert np.isnan(sampled) and np.isnan(learnt_from) and seconds == 8.0


def test_a_supervised_row_is_in_the_table_once_every_seed_is_measured(empty_home):
    write_all_rows()
    write_row("sft-seed0", [prediction(0, 2), prediction(1, 4)])
    without = results.results_frame(SMOKE, [0, 1])
    assert list(without.index[:-2]) == METHODS
    notes = results_notes.notes(SMOKE, [0, 1])
    assert notes.startswith(results_notes.NOTES) and "has gIoU 0.125 in the mean" in notes
    assert "Measured on: EPYC, Xeon." in notes
    assert "ablations.md" not in notes
    missing = baselines.missing_baselines(SMOKE, [0, 1])
    assert SFT.title in missing and "ROWS=sft,lisa,lisa-ingredients" in missing
    write_row("sft-seed1", [prediction(0, 2), prediction(1, 4)])
    frame = results.results_frame(SMOKE, [0, 1])
    assert list(frame.index[4:7]) == ["FoodLMM-Chat 7B", SFT.title, "GRPO"]
    assert frame.loc[SFT.title].giou == pytest.approx(0.3)
    assert "–" == results.readable(frame).loc[SFT.title]["paper: gIoU"]
    assert SFT.title not in baselines.missing_baselines(SMOKE, [0, 1])
    assert "sft-seed1" in results.provenance_frame(SMOKE, [0, 1]).index
    seed_values = results.seed_values(SMOKE, [0, 1])
    assert seed_values["giou"][SFT.title] == pytest.approx([0.3, 0.3])
    assert bars.results_bars(frame, seed_values).axes


def test_a_supervised_row_of_another_machine_stands_under_its_commit(empty_home):
    write_all_rows()
    asked = samples_hash(load_samples(SMOKE.samples_file("test")))
    row = {"row": "sft", "title": SFT.title, "giou": 0.31, "giou_sd": 0.01, "giou_low": 0.2}
    row |= {"giou_high": 0.4, "ciou": 0.3, "parse_rate": 1.0, "foods_right": 0.5, "seeds": 3}
    row |= {"adapters": "a1, a2", "commit": "c0ffee", "processor": "Xeon", "seconds": 60.0}
    row |= {"base": SMOKE.weights["base"], "questions": asked}
    other = row | {"row": "lisa", "title": LISA.title, "questions": "0" * 16}
    file = SMOKE.figures / "ablations.csv"
    write_text(file, pd.DataFrame([row, other]).to_csv(index=False))
    frame, title = results.results_frame(SMOKE, [0, 1]), f"{SFT.title} (by make ablations)"
    assert list(frame.index[4:7]) == ["FoodLMM-Chat 7B", title, "GRPO"]
    line = results.readable(frame).loc[title]
    assert line[["gIoU", "gIoU, 95%", "seeds"]].tolist() == ["0.310 ± 0.010", "0.20–0.40", "3"]
    assert line["of the gap"] == "39%"  # 0.31 of 0.8
    origins = results.provenance_frame(SMOKE, [0, 1])
    assert origins.loc[title, ["commit", "adapter"]].tolist() == ["c0ffee", "a1, a2"]
    assert '"(by make ablations)" was not measured in this run' in results_notes.notes(
        SMOKE, [0, 1]
    )
    missing = baselines.missing_baselines(SMOKE, [0, 1])
    assert SFT.title not in missing and LISA.title in missing  # about other questions
    for seed in (0, 1):  # measured here, that is what counts
        write_row(f"sft-seed{seed}", [prediction(0, 2), prediction(1, 4)])
    assert results.results_frame(SMOKE, [0, 1]).loc[SFT.title].giou == pytest.approx(0.3)
    assert title not in results.provenance_frame(SMOKE, [0, 1]).index


@pytest.mark.parametrize(
    ("method", "maker"), [("lisa", "`make ablations`"), ("dapo", "notebook 05_train_dapo")]
)
def test_rows_about_other_questions_are_refused(empty_home, method, maker):
    write_all_rows()
    for seed in (0, 1):
        write_row(f"{method}-seed{seed}", [prediction(0, 5), prediction(2, 5)])
    with pytest.raises(DataError, match=f"{method}-seed0.*run {maker} again"):
        results.results_frame(SMOKE, [0, 1])


def test_a_test_set_that_was_built_anew_is_noticed(empty_home):
    write_all_rows()
    save_samples([sample(0), sample(2)], SMOKE.samples_file("test"))
    with pytest.raises(DataError, match="the base: .*run notebook 02_model_and_zero_shot again"):
        results.results_frame(SMOKE, [0, 1])


def test_provenance_has_a_row_for_each_set_of_predictions(empty_home):
    write_all_rows()
    write_json(SMOKE.run_folder("grpo", 0) / "result.json", {"steps": 3, "adapter": "feed"})
    with pytest.raises(DataError, match="not those of the adapter in runs/smoke/grpo-seed0"):
        results.provenance_frame(SMOKE, [0, 1])
    write_row("grpo-seed0", [prediction(0, 10), prediction(1, 0)], adapter="feed")
    frame = results.provenance_frame(SMOKE, [0, 1])
    assert list(frame.index) == [
        "base", "base-any-form", "base-best-of-4", "grpo-seed0", "grpo-seed1", "dapo-seed0",
        "dapo-seed1", "knowledge", "bound",
    ]  # fmt: skip
    assert frame.loc["grpo-seed0", "adapter"] == "feed" and frame.loc["base", "adapter"] == "none"


def test_markdown_and_latex_are_escaped():
    frame = pd.DataFrame({"a|b": ["1 ± 2"], "c_%": ["x & y"]}, index=pd.Index(["r#1"], name="m"))
    assert tables.to_markdown(frame) == (
        "| m | a\\|b | c_% |\n| --- | ---: | --- |\n| r#1 | 1 ± 2 | x & y |\n"
    )
    latex = tables.to_latex(frame, "50% of {all}", "tab:x")
    assert r"r\#1 & 1 $\pm$ 2 & x \& y \\" in latex
    assert r"\caption{50\% of \{all\}}" in latex
    assert r"c\_\%" in latex
    escaped = r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"
    assert tables.escape_latex("a\\b~c^d") == escaped


def test_same_picture_same_bytes(tmp_path):
    log = pd.DataFrame({"step": [1, 2, 3], "reward_total": [1.0, 2.0, 3.0]})
    for name in ("one", "two"):
        figure = curves.compare_curves({"grpo": ("GRPO", [log])}, {"reward_total": "reward"})
        style.save(figure, tmp_path / name, pdf=True)
    for suffix in ("png", "pdf"):
        one, two = (tmp_path / f"{name}.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_a_rare_colour_survives_the_palette():
    rng = np.random.default_rng(0)
    photo = rng.integers(60, 200, (200, 200, 3)).astype(np.uint8)
    photo[:5], photo[100, :20] = 255, (0, 114, 178)  # white above; a thin line of style.BLUE
    picture = np.asarray(style.quantize(Image.fromarray(photo)).convert("RGB"))
    assert (picture[:5] == 255).all()
    assert (np.abs(picture[100, 5:15].astype(int) - (0, 114, 178)).mean(axis=0) < 12).all()


FAULTY = [
    (f"<answer>[{ITEM}]</answer>", ""),
    ("That is the steak.", "no <answer>"),
    (f"<answer>[{ITEM}]", "<answer> is never closed"),
    ("<answer>[1, 2</answer>", "not JSON"),
    (f"<answer>{ITEM}</answer>", "JSON, but no list"),
    ("<answer>[]</answer>", "an empty list"),
    ("<answer>[3]</answer>", "an item is no object"),
    ('<answer>[{"bbox_2d": [1, 2, 3, 4]}]</answer>', "an item has no point_2d"),
    (f"<answer>[{NO_POINT}[2]}}]</answer>", "point_2d is no list of 2"),
    (f"<answer>[{NO_POINT}[true, 1]}}]</answer>", "point_2d holds something that is no number"),
]
NO_LABEL = "points is no list of [x, y, label] with a positive one"
LABELLED = [
    ("[[1, 2, 1], [3, 4, 0]]", ""),
    ("[[1, 2, 0]]", NO_LABEL),
    ("[[1, 2]]", NO_LABEL),
    ("3", NO_LABEL),
]


@pytest.mark.parametrize(("points", "why"), LABELLED)
def test_why_labelled_points_do_not_parse(points, why):
    text = f'<answer>[{{"bbox_2d": [1, 2, 3, 4], "points": {points}}}]</answer>'
    assert completions.why_unparsed(text, labelled=True) == why
    assert parse_answer(text, labelled=True).parsed == (why == "")
    assert completions.why_unparsed(text) == "an item has no point_2d"


@pytest.mark.parametrize(("completion", "why"), FAULTY)
def test_why_a_completion_does_not_parse(completion, why):
    assert completions.why_unparsed(completion) == why
    assert parse_answer(completion).parsed == (why == "")
    frame = completions.count_faults(["x", "y", completion])
    assert frame["completions"][why or "parsed"] == 1 + 2 * (why == "no <answer>")
    assert frame["completions"].sum() == 3


def test_every_prediction_has_one_outcome():
    steak, both = sample(0), sample(0, ("steak", "egg"))
    wrong = prediction(0, 9, foods_right=False)
    cases = {
        failures.FOUND: (steak, prediction(0, 5)),
        failures.ELSEWHERE: (steak, prediction(0, 4)),
        failures.SOME_FOODS: (both, wrong),
        failures.OTHER_FOOD: (steak, replace(wrong, foods_named=("egg",))),
        failures.NO_FOOD: (steak, replace(wrong, foods_named=())),
        failures.UNPARSED: (steak, prediction(0, 0, parsed=False)),
    }
    assert {kind: failures.outcome(*case) for kind, case in cases.items()} == {k: k for k in cases}
    assert set(cases) == set(failures.OUTCOMES)


def test_gains_are_split_by_what_changed_and_add_up():
    steak, both = sample(0), sample(0, ("steak", "egg"))
    start, egg = prediction(0, 2), {"foods_named": ("egg",)}
    moved = {"references": (replace(REFERENCE, point=(3, 2)),)}
    cases = [
        (steak, start, prediction(0, 0, parsed=False), gains.FORM),
        (steak, prediction(0, 0, parsed=False), prediction(0, 9), gains.FORM),
        (steak, prediction(0, 0, **egg), prediction(0, 9, **moved), gains.NAMING),
        (steak, start, prediction(0, 1, foods_named=()), gains.NAMING),
        (steak, prediction(0, 0, **egg), prediction(0, 3, foods_named=("pie",)), gains.NAMING),
        (both, start, prediction(0, 8, foods_named=("egg", "steak")), gains.COMPLETENESS),
        (both, start, prediction(0, 3, **egg), gains.COMPLETENESS),
        (both, start, prediction(0, 4, references=(REFERENCE,) * 2), gains.COMPLETENESS),
        (steak, start, prediction(0, 6, **moved), gains.BOXES),
        (steak, start, prediction(0, 3), gains.MASK),
    ]
    samples, any_form, trained, parts = zip(*cases, strict=True)
    assert [gains.part_of(*case[:3]) for case in cases] == list(parts)
    base = [replace(p, intersection=0) for p in any_form]
    runs = {"GRPO": [trained, any_form], "DAPO": [base]}
    frame = gains.gains_frame(samples, base, any_form, runs)
    # In tenths of ten questions. Read in any form: 14, kept by GRPO's second seed.
    assert frame.loc["GRPO"].tolist() == pytest.approx([0.175, 0.055, 0.045, 0.02, 0.005, 0.3])
    total = np.mean([failures.iou(p) for p in (*trained, *any_form)])
    assert frame.loc["GRPO", gains.TOTAL] == pytest.approx(total)
    # What form gives and the other answers take again.
    assert frame.loc["DAPO", gains.FORM] > 0 and frame.loc["DAPO", gains.TOTAL] == pytest.approx(0)
    assert gains.gains_sentence(frame).endswith(": 58% of GRPO's (0.175 of 0.300).")
    with pytest.raises(DataError, match="other questions than the test set"):
        gains.gains_frame(samples, base, any_form[::-1], {"DAPO": [[prediction(1, 2)] * 10]})
    figure = gains.gains_picture(frame, {"bound": 0.9})
    assert "+0.300" in {text.get_text() for text in figure.axes[0].texts}


def test_words_wrap_within_the_column_and_foods_are_bold():
    words = "It must be the tomatoes and the french fries; think of a fast food carton."
    lines = qualitative.wrap(words, qualitative.food_words(["tomato", "french fries"]))
    assert " ".join(run for line in lines for run, _, _ in line) == words
    bold = " ".join(run for line in lines for run, is_bold, _ in line if is_bold)
    assert bold == "tomatoes french fries;"
    assert len(lines) > 1
    for run, is_bold, start in chain.from_iterable(lines):
        end = start + sum(qualitative.word_width(c, is_bold) for c in run)
        assert end <= qualitative.COLUMN + 1e-9
    # Of a compound label, the half that is named.
    half = qualitative.food_words(["cheese butter"])
    (line,) = qualitative.wrap("The cheese.", half)
    assert half >= {"cheese"}
    assert [(run, bold) for run, bold, _ in line] == [("The", False), ("cheese.", True)]


def test_questions_are_chosen_by_rank_and_no_photo_twice():
    samples = [replace(sample(i), image=f"{i // 2}.jpg") for i in range(6)]
    base = [prediction(i, 0) for i in range(6)]
    trained = [prediction(i, gain) for i, gain in enumerate((5, 4, 3, 2, 1, 0))]
    chosen = qualitative.choose_questions(samples, base, trained, (1.0, 0.8, 0.0))
    # Ranked by gain: 5 4 3 2 1 0. 1.0 is question 0; 0.8 is 1, of the same photo, so 2; 0.0 is 5.
    assert chosen == [0, 2, 5]
    assert len({samples[i].image for i in chosen}) == 3


def test_the_figure_is_drawn_with_dollar_signs_in_the_words():
    photo = Image.new("RGB", (6, 4), "white")
    costly = prediction(0, 5, completion="It costs $5, or $6_x. The steak.", parsed=False)
    cells = [
        qualitative.question_cell(sample(0), photo),
        qualitative.answer_cell(costly, photo, style.BLUE),
        qualitative.truth_cell(sample(0), photo),
    ]
    assert cells[1].note == "IoU 0.50, no answer that parses"
    figure = qualitative.segmentation_figure(["photo", "method", "truth"], [cells])
    with Image.open(io.BytesIO(style.to_png(figure))) as image:
        assert image.width > 300
