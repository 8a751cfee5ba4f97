"""“Nothing here” as an answer: data, kitchen, prompt, parsing, reward, training, metrics, page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from foodseg import presets, recipes
from foodseg.ablations import nothing_here
from foodseg.ablations.rows import all_rows, choose_rows, nothing_rows
from foodseg.ablations.runs import Run, Runs
from foodseg.common.files import read_lines, write_json
from foodseg.data.build_report import describe
from foodseg.data.foodreasonseg import read_conversations
from foodseg.data.foodseg103 import CATEGORIES
from foodseg.data.own.__main__ import main as own
from foodseg.data.own.build import save_own
from foodseg.data.references import encode_mask
from foodseg.data.samples import load_samples, save_samples
from foodseg.data.single import build_single
from foodseg.evaluation.any_form import read_any_form
from foodseg.evaluation.evaluate import evaluate_bound, segment
from foodseg.evaluation.export import foodlmm, lisa
from foodseg.evaluation.external.describe import nothing_sentence
from foodseg.evaluation.external.rows import ExternalRow
from foodseg.evaluation.external.score import score
from foodseg.evaluation.predictions import (
    compare,
    load_predictions,
    save_predictions,
    summarise,
)
from foodseg.kitchen import dataset as kitchen
from foodseg.kitchen.knowledge import CLUES
from foodseg.kitchen.plates import KITCHEN_FOODS, Plate
from foodseg.kitchen.questions import (
    TEMPLATES,
    absent_questions,
    ask_for_nothing,
    converse,
    questions_for,
    split_of,
)
from foodseg.methods.dr_seg import RankQueue
from foodseg.methods.nothing_here import nothing_prompt, told_nothing
from foodseg.methods.sam_r1 import box_tiers, mask_tiers
from foodseg.models import prompts
from foodseg.models.segmenter import Segmenter
from foodseg.presets import SMOKE, SMOKE_NOTHING
from foodseg.recipes import GRPO, NOTHING_HERE, NOTHING_HERE_UNAIDED, Recipe
from foodseg.report.cards.dataset import drawn_plates, write_card
from foodseg.report.failures import FOUND, OTHER_FOOD, outcome
from foodseg.report.results import measured_table
from foodseg.report.seeds import summarise_seeds
from foodseg.rl.answers import parse_answer, write_items
from foodseg.rl.evidence import award, gather_evidence, total
from foodseg.rl.exports import compute_score, ground_truth
from foodseg.rl.habits import failure_kind
from foodseg.supervised.targets import LISA, SFT, SFT_NOTHING
from foodseg.supervised.training import baseline_config
from foodseg.system import load_policy
from foodseg.training.identity import payable_told, run_config
from foodseg.training.sampler import GroupSampler

SIDE = SMOKE.image_side
NOTHING = "<think>Nothing on this plate comes from a hen.</think>\n<answer>[]</answer>"


@pytest.fixture()
def there(samples):
    """A question that the plate answers with one food."""
    return next(sample for sample in samples if len(sample.references) == 1)


@pytest.fixture()
def absent(there):
    """A question about the same plate that nothing answers."""
    empty = {"foods": (), "references": (), "reference_foods": (), "masks": ()}
    words = {"question": "Which food here comes from a hen?", "sample_id": "train-absent-0"}
    return replace(there, answer="Nothing on this plate comes from a hen.", **words, **empty)


def right_answer(sample):
    [evidence] = gather_evidence(sample, [""], SIDE)
    return f"<think>It is this.</think>\n<answer>{write_items(evidence.references)}</answer>"


# -- Data ------------------------------------------------------------------------------------------


def test_own_questions_may_have_nothing_that_answers_them(tmp_path, capsys):
    root = tmp_path / "mine"
    (root / "masks/plate").mkdir(parents=True)
    (root / "images").mkdir()
    Image.new("RGB", (64, 48), "olive").save(root / "images/plate.png")
    mask = np.zeros((48, 64), bool)
    mask[10:30, 10:40] = True
    Image.fromarray(mask).save(root / "masks/plate/spinach.png")
    line = {"image": "plate.png", "question": "Iron?", "things": ["spinach"], "split": "train"}
    other = line | {"question": "Vitamin B12?", "things": []}
    (root / "questions.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(other)}\n")
    assert own([str(root)]) == 0
    text = "2 of 2 questions are good, with 1 references; 1 photos; 1 of them nothing in the photo"
    assert text in capsys.readouterr().out
    report = save_own(root, tmp_path / "out")["train"]
    assert report.counts["no_target"] == 1 and "1 turns that nothing" in report.describe()
    found, nothing = load_samples(tmp_path / "out/foodreasonseg_single_train.parquet")
    assert (found.no_target, nothing.no_target) == (False, True)
    assert nothing.references == nothing.masks == nothing.foods == ()
    assert nothing.union_mask().shape == (48, 64) and not nothing.union_mask().any()
    assert describe([found, nothing]).loc["spinach", "samples"] == 1


def test_a_turn_of_foodreasonseg_says_so_by_things_and_talk_stays_talk(tmp_path):
    said = {"form": "answer", "value": "None of them."}
    turns = [
        ("Any egg?", said),
        ("Which is from a hen?", said | {"things": []}),
        ("Which is from a cow?", said | {"things": ["milk"]}),
        ("Which is green?", {"form": "answer", "value": "The {pear} [SEG1].", "things": []}),
    ]
    messages = [m for q, a in turns for m in ({"form": "question", "value": q}, a)]
    file = tmp_path / "FoodReasonSeg_train.json"
    file.write_text(json.dumps([{"dish_id": "1", "conversations": messages}]))
    [conversation] = read_conversations(file, CATEGORIES)
    assert [turn.asks for turn in conversation.turns] == [False, True, False, True]
    reasons = [[problem.reason for problem in turn.problems] for turn in conversation.turns]
    assert reasons == [[], [], ["wrong shape"], ["[SEG] where nothing answers"]]


# -- The kitchen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_absent_questions_are_the_kitchens_own_and_nothing_on_the_plate_fits(split):
    rng = np.random.default_rng(0)
    for _ in range(5):
        foods = set(map(int, rng.choice(KITCHEN_FOODS, 4, replace=False)))
        for question in absent_questions(foods, split):
            template, clue = TEMPLATES[question.template], CLUES[question.clue]
            assert question.text == template.ask(clue) and question.foods == ()
            assert not foods & (clue.foods | clue.debatable)
            assert split_of(question.template, question.clue) == split
            # Some other plate is asked the same words.
            whole = set(sorted(clue.foods)[: 5 if template.number != "one" else 1])
            assert question.text in {q.text for q in questions_for(whole, split)}
        messages = ask_for_nothing(foods, split, rng, 3)
        assert len({m["value"] for m in messages[::2]}) == 3
        assert all(m["things"] == [] and "{" not in m["value"] for m in messages[1::2])


def test_a_tenth_of_the_questions_and_all_others_as_they_are(monkeypatch):
    rng, asked, extra = np.random.default_rng(0), 0, 0
    for seed in range(1_000_000, 1_000_600):
        foods = tuple(map(int, rng.choice(KITCHEN_FOODS, 3, replace=False)))
        talk = converse(foods, "train", np.random.default_rng([1, seed]))
        plate = Plate(None, None, foods)
        more = kitchen._ask_for_nothing(plate, "train", seed, talk, 0.1)
        assert more == kitchen._ask_for_nothing(plate, "train", seed, talk, 0.1)
        assert kitchen._ask_for_nothing(plate, "train", seed, talk, 0.0) == []
        asked += sum("[SEG" in message["value"] for message in talk)
        extra += len(more) // 2
    assert extra / (asked + extra) == pytest.approx(0.1, abs=0.015)


def test_a_dataset_with_them_holds_the_one_without(tmp_path):
    kitchen.write_kitchen(tmp_path / "plain", 4, 0, seed=0, workers=1)
    kitchen.write_kitchen(tmp_path / "more", 4, 0, seed=0, workers=1, no_target_share=0.6)
    plain, _ = build_single(tmp_path / "plain", "train")
    more, report = build_single(tmp_path / "more", "train")
    assert [sample for sample in more if not sample.no_target] == plain
    assert report.counts["no_target"] == len(more) - len(plain) > 4
    nothing = [sample for sample in more if sample.no_target]
    assert all(sample.answer.endswith(" points to none.") for sample in nothing)
    assert presets.KITCHEN.no_target_share == 0 < presets.KITCHEN_NOTHING.no_target_share
    assert presets.get_preset("smoke-nothing") == SMOKE_NOTHING


def test_what_the_page_draws_has_the_reports_that_its_card_reads(empty_home):
    small = replace(SMOKE_NOTHING, train_plates=2, test_plates=2)
    nothing_here.draw(small)
    report = small.samples_file("train").with_suffix(".report.json")
    told = report.read_text()
    assert write_card(report.parent, drawn_plates("x")).exists()
    report.unlink()  # an earlier version wrote none
    nothing_here.draw(small)
    assert report.read_text() == told


@pytest.mark.parametrize("arguments", [["--only-write"], ["--seeds", "x"], ["--jobs", "0"]])
def test_its_command_refuses_in_one_sentence(home, monkeypatch, capsys, arguments):
    monkeypatch.setattr(nothing_here, "PRESETS", {"smoke": (presets.SMOKE, presets.SMOKE)})
    monkeypatch.setattr(nothing_here, "draw", lambda preset: None)
    assert nothing_here.main(["--preset", "smoke", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("nothing_here: ") and said.count("\n") == 1


# -- Prompt, parsing, reward -----------------------------------------------------------------------


def test_the_prompt_says_what_to_write_and_the_kitchens_stays_as_it_is():
    prompt = nothing_prompt(prompts.PAPER)
    assert prompt.startswith(prompts.PAPER)
    assert prompt.endswith("\nIf no food here fits, write <answer>[]</answer>.")
    assert prompt.format(question="Iron?")
    assert nothing_prompt(prompts.KITCHEN) == prompts.KITCHEN


@pytest.mark.parametrize(
    "body, parsed", [("[]", True), ("\n[ ]\n", True), ("{}", False), ("null", False), ("", False)]
)
def test_an_empty_list_is_an_answer_where_it_may_be_one(body, parsed):
    text = f"<think>No.</think><answer>{body}</answer>"
    assert not parse_answer(text).parsed and failure_kind(parse_answer(text))
    answer = parse_answer(text, nothing=True)
    assert (answer.parsed, answer.nothing, answer.objects) == (parsed, parsed, ())
    assert (failure_kind(answer) == "") == parsed
    assert read_any_form(f"None. ```json\n{body}\n```", nothing=True).nothing is False
    assert read_any_form(f"</think>```json\n{body}\n```", nothing=True).nothing == parsed
    assert not read_any_form(text).parsed


def rewards(sample, *texts, recipe=NOTHING_HERE):
    evidence = gather_evidence(sample, texts, SIDE, nothing=recipe.nothing)
    return [total(award(recipe.reward, one)) for one in evidence]


def test_rewards_by_hand(there, absent):
    """Thinking format 1, segmentation format 0 to 2, accuracy 0 to 3, non-repeat 1."""
    objects = right_answer(there)
    assert rewards(there, objects, NOTHING) == [1 + 2 + 3 + 1, 1 + 0 + 0 + 1]
    assert rewards(absent, objects, NOTHING) == [1 + 2 + 0 + 1, 1 + 0 + 3 + 1]
    assert rewards(absent, "<answer>[]</answer>", "Nothing.") == [0 + 0 + 3 + 1, 1]
    [right] = gather_evidence(absent, [NOTHING], SIDE, nothing=True)
    assert (right.score.iou, right.score.box_l1, right.score.point_l2) == (1, 1, 1)
    # Where it may be no answer, all is as it was.
    assert rewards(there, objects, NOTHING, recipe=GRPO) == [7, 2]
    assert rewards(absent, NOTHING, recipe=GRPO) == [2]
    # Other trainers are paid alike.
    assert compute_score("", NOTHING, ground_truth(absent, SIDE))["score"] == 5
    assert compute_score("", NOTHING, ground_truth(there, SIDE))["score"] == 2


def test_an_answer_that_is_always_nothing_earns_little(there, absent):
    """2.3 of 7 at a tenth; any box in the right form earns 4, wherever it lies."""
    blind = 0.9 * rewards(there, NOTHING)[0] + 0.1 * rewards(absent, NOTHING)[0]
    assert blind == pytest.approx(0.9 * 2 + 0.1 * 5) == pytest.approx(2.3)
    box = '<think>A.</think><answer>[{"bbox_2d": [0, 0, 1, 1], "point_2d": [0, 0]}]</answer>'
    assert 0.9 * rewards(there, box)[0] + 0.1 * rewards(absent, box)[0] == pytest.approx(4)


def test_rewards_of_masks_and_boxes_pay_it_too(absent):
    def no_masks(sample, references):
        return np.zeros((len(references), sample.height, sample.width), bool)

    texts = [NOTHING, "unreadable", right_answer(absent).replace("[]", '[{"bbox_2d": 1}]')]
    evidence = gather_evidence(absent, texts, SIDE, no_masks, nothing=True)
    for term in (mask_tiers, box_tiers):
        assert [term(one) for one in evidence] == [4, 0, 0]


def test_what_judges_objects_does_not_go_with_it():
    with pytest.raises(ValueError, match="'x': nothing doesn't go with"):
        replace(NOTHING_HERE, name="x", true_answer=None, ranking=RankQueue)
    for other in (recipes.GRTO, recipes.SD_GRPO):
        with pytest.raises(ValueError, match="which judge objects"):
            replace(other, nothing=True)


# -- Training --------------------------------------------------------------------------------------


def test_a_training_that_cannot_pay_for_them_leaves_them_out_and_says_so(samples, absent, capsys):
    mixed = [samples[0], absent, *samples[1:]]
    assert payable_told("GRPO", mixed) == samples
    said = f"GRPO: 1 of {len(mixed)} questions ask for nothing that is in the photo"
    assert said in capsys.readouterr().out
    assert run_config(SMOKE, GRPO, 0, mixed) == run_config(SMOKE, GRPO, 0, samples)
    with_it = [run_config(SMOKE, NOTHING_HERE, 0, some)["samples"] for some in (mixed, samples)]
    assert with_it == [len(mixed), len(samples)]


def test_a_supervised_baseline_learns_the_empty_list_if_it_may(samples, absent):
    assert SFT_NOTHING.write(absent, 168) == f"<think>{absent.answer}</think>\n<answer>[]</answer>"
    mixed = [samples[0], absent, *samples[1:]]
    counts = {b: baseline_config(SMOKE, b, 0, mixed)["samples"] for b in (SFT, SFT_NOTHING)}
    assert counts == {SFT: len(samples), SFT_NOTHING: len(mixed)}
    with pytest.raises(ValueError, match="nothing doesn't go with masks"):
        replace(LISA, nothing=True)


def test_the_true_answer_joins_the_groups_of_these_questions_alone(there, absent):
    assert told_nothing(there, SIDE) == ""
    assert told_nothing(absent, SIDE) == NOTHING
    preset = replace(SMOKE, prompts_per_step=2, group_size=2, max_new_tokens=8)
    mllm = load_policy(preset, NOTHING_HERE.prompt)
    mllm.add_lora(rank=2, alpha=4, seed=0)
    batch = GroupSampler(mllm, preset, NOTHING_HERE, [there, absent], seed=0).next_batch()
    assert sorted(len(group.rewards) for group in batch.groups) == [2, 3]
    [joined] = [group for group in batch.groups if group.sample == absent]
    assert joined.rollout.texts[-1] == NOTHING and joined.rewards[-1] == 5
    assert joined.evidence[-1].answer.nothing


# -- Metrics ---------------------------------------------------------------------------------------


def test_n_acc_t_acc_and_iou_by_hand(there, absent):
    empty, whole = np.zeros((there.height, there.width), bool), there.union_mask()
    right, wrong = compare(absent, empty, True), compare(absent, whole, True)
    unread = compare(absent, empty, False)
    found, denied = compare(there, whole, True), compare(there, empty, True)
    lost = compare(there, empty, False)
    pairs = [(p.intersection, p.union) for p in (right, wrong, unread, found, denied)]
    area = int(whole.sum())
    assert pairs == [(1, 1), (0, area), (0, 0), (area, area), (0, area)]
    told = summarise([right, wrong, unread, found, denied, lost, found, found])
    assert told["no_target"] == 3
    assert told["n_acc"] == pytest.approx(1 / 3)  # of right, wrong, unread
    assert told["t_acc"] == pytest.approx(4 / 5)  # all but denied
    assert told["giou"] == pytest.approx((1 + 3) / 8)
    # Intersections and unions as gRefCOCO adds them up, and one pixel for each right `[]`.
    assert told["ciou"] == (3 * area + 1) / (6 * area + 1)
    assert "n_acc" not in summarise([found, denied])
    assert outcome(absent, right) == FOUND and outcome(absent, wrong) == OTHER_FOOD
    assert summarise_seeds([[right, found], [wrong, found]])["n_acc"] == 0.5
    assert "n_acc" not in summarise_seeds([[found]])


def test_they_are_kept_and_shown_where_such_questions_are(home, there, absent):
    empty = np.zeros((there.height, there.width), bool)
    run = [compare(there, there.union_mask(), True), compare(absent, empty, True)]
    result = save_predictions(SMOKE, "with", run, 1.0)
    assert load_predictions(SMOKE.predictions_folder("with")) == run
    rows = read_lines(SMOKE.predictions_folder("with") / "predictions.jsonl")
    assert [row.get("no_target") for row in rows] == [None, True]
    table = measured_table([result])
    assert table.loc["with", ["N-acc", "T-acc"]].tolist() == ["100%", "100%"]
    without = save_predictions(SMOKE, "without", run[:1], 1.0)
    assert "N-acc" not in measured_table([without])
    assert nothing_sentence(result).startswith("with: N-acc 100% (1 questions")


def test_an_evaluation_reads_an_empty_list_where_some_question_has_no_target(home, there, absent):
    segmenter = Segmenter(SMOKE.segmenter_config)
    answers = [parse_answer(NOTHING, nothing=True)] * 2
    found = segment(SMOKE, "x", [there, absent], answers, [(), ()], segmenter)
    assert [p.parsed for p in found] == [True, True]
    assert [p.intersection for p in found] == [0, 1]
    assert [p.foods_right for p in found] == [False, True]
    bound = evaluate_bound(SMOKE, [there, absent], segmenter)
    assert (bound["n_acc"], bound["t_acc"], bound["parse_rate"]) == (1, 1, 1)


def test_masks_of_another_system_say_it_by_an_empty_mask(home, there, absent):
    test = [
        replace(one, split="test", sample_id=f"test-{i}") for i, one in enumerate([there, absent])
    ]
    save_samples([*test, replace(test[1], sample_id="test-2")], SMOKE.samples_file("test"))
    (home / "masks").mkdir()
    for sample, mask in zip(
        test, (there.union_mask(), np.zeros_like(there.union_mask())), strict=True
    ):
        Image.fromarray(mask).save(home / "masks" / f"{sample.sample_id}.png")
    result = score(SMOKE, home / "masks", ExternalRow("lisa-x", "LISA", "generate-then-segment"))
    assert result["giou"] == pytest.approx(2 / 3)  # the third has no mask: no answer
    assert (result["n_acc"], result["t_acc"]) == (0.5, 1.0)


def test_exports_take_them_or_say_what_was_left_out(home, tmp_path, there, absent):
    asked = SMOKE.dataset, "train", [there, absent]
    assert lisa.write_lisa(tmp_path / "lisa", *asked)["samples"] == 2
    [file] = (tmp_path / "lisa").rglob("train-absent-0.json")
    assert json.loads(file.read_text())["shapes"] == []
    report = foodlmm.write_foodlmm(tmp_path / "foodlmm", *asked)
    assert report["samples"] == 1
    assert "nothing in the photo fits" in report["problems"][-1]


# -- Rows and the page -----------------------------------------------------------------------------


def test_its_rows_are_no_rows_of_the_other_table():
    names = [row.name for row in nothing_rows()]
    assert names == [SFT_NOTHING.name, NOTHING_HERE.name, NOTHING_HERE_UNAIDED.name]
    assert not {row.name for row in all_rows()} & set(names)
    assert [row.name for row in choose_rows("nothing-here,base")] == ["base", "nothing-here"]
    assert [row.family for row in nothing_rows()] == [
        "Supervised",
        *["“Nothing here” is an answer"] * 2,
    ]
    same = {"name": "", "title": "", "nothing": False, "prompt": None}
    assert replace(NOTHING_HERE_UNAIDED, **same) == replace(GRPO, name="", title="")
    assert not Recipe("x", "X", GRPO.objective).nothing


def test_the_page_by_hand(home, samples, there, absent):
    test = [
        replace(one, split="test", sample_id=f"test-{i}") for i, one in enumerate([there, absent])
    ]
    for split, some in (("train", samples), ("test", test)):
        save_samples(some, SMOKE_NOTHING.samples_file(split))
    runs, empty = Runs(SMOKE_NOTHING), np.zeros((there.height, there.width), bool)
    origin = {"adapter": "a", "commit": "c", "device": "cpu", "processor": "p", "versions": {}}
    for row in nothing_here.measured_rows():
        for seed in (0, 1) if row.trained else (0,):
            said = there.union_mask() if row.name == "grpo" else empty
            masks = there.union_mask(), said
            run = [compare(s, m, True) for s, m in zip(test, masks, strict=True)]
            name = Run(row, seed).name
            save_predictions(SMOKE_NOTHING, name, run, 1.0)
            outcome = {"giou": 0.0, "seconds": 2.0, "peak_memory_mb": 1.0} | origin
            write_json(runs.folder(Run(row, seed)) / "outcome.json", outcome | {"identity": {}})
    nothing_here.write_page(runs, [0, 1], home / "page")
    frame = nothing_here.nothing_frame(runs, [0, 1])
    assert frame.loc["grpo", ["giou", "giou_target", "n_acc", "t_acc"]].tolist() == [0.5, 1, 0, 1]
    assert frame.loc["nothing-here", ["giou", "n_acc", "less_grpo"]].tolist() == [1, 1, 0.5]
    page = (home / "page.md").read_text()
    assert "1 of the 2 test questions are for nothing that is there." in page
    assert "| GRPO | 0.500 ± 0.000 | 1.000 ± 0.000 |" in page
    command = "python -m foodseg.ablations nothing-here --seed 0 --preset smoke-nothing"
    assert f"| 2 | `{command}` |" in page
    assert (home / "page.csv").read_text().startswith("row,title,")
    assert encode_mask(empty)["size"] == [there.height, there.width]
