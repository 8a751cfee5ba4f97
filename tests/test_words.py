"""Numbers in prose come from the files that hold them, or from the code that counts them."""

import json
import re
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import pytest
from made_again import figures_made_again, words_of_the_figures
from test_memory import paper_mllm

from foodseg.ablations.differences import NOT_SHOWN, difference_word, gain_text, modes_sentence
from foodseg.ablations.records import read_record
from foodseg.ablations.rows import all_rows, choose_rows
from foodseg.ablations.runs import Run
from foodseg.claims.field import PUBLISHED
from foodseg.claims.measures import third
from foodseg.claims.rule import CONTRADICTED, NOT_HERE, NOT_SEEN, SEEDS, SEEN
from foodseg.common.number_text import NOTHING, signed_interval, with_deviation
from foodseg.data.single import build_single
from foodseg.evaluation.predictions import Prediction, paired_difference
from foodseg.kitchen.dataset import write_kitchen
from foodseg.methods.dr_seg import non_repeat_normalised
from foodseg.presets import KITCHEN
from foodseg.recipes import Recipe
from foodseg.rl.evidence import non_repeat
from foodseg.rl.habits import habits
from foodseg.rl.named_foods import food_names, named_foods
from foodseg.training.memory import GroupTokens, ModelSizes, plan_table

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
RECORDS = PROJECT / "figures" / "records"
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
EXECUTED = sorted((PROJECT / "notebooks" / "executed").glob("*.ipynb"))
RESULTS = pd.read_csv(PROJECT / "figures" / "results_table.csv", index_col="method")
BOTH_ENDS = ("Base + SAM2", "Knowledge")
VERDICTS = (SEEN, CONTRADICTED, NOT_SEEN)


@pytest.mark.parametrize(
    ("changed", "again"),
    [([], False), (["figures/a.md"], True), (["figures/a.md", "README.md"], False)],
)
def test_only_figures_that_were_made_again_excuse_the_words(tmp_path, own_git, changed, again):
    """Who changes words as well is to be told when they don't fit."""
    for name in ("figures/a.md", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    own_git(tmp_path)
    for name in changed:
        (tmp_path / name).write_text("after")
    assert figures_made_again(tmp_path) is again


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@words_of_the_figures
def test_the_readmes_results_are_the_tables():
    """Each row of it, column by column by its heading; the figures' page has more columns."""
    whole = table_rows((PROJECT / "figures" / "results_table.md").read_text())
    heads, rows = whole[0], {row[0]: row for row in whole[2 : 2 + len(RESULTS)]}
    shown = table_rows(README[README.index("| method | paper: gIoU") :])
    for row in shown[2 : 2 + len(RESULTS)]:
        assert row == [rows[row[0]][heads.index(head)] for head in shown[0]]
    assert len(rows) == len(RESULTS)


@words_of_the_figures
def test_the_readmes_sentences_about_the_gap_the_form_and_blind_answers():
    words = " ".join(README.split())
    won = re.search(r"GRPO closes (\d+)% of the gap .*?, DAPO (\d+)%", words)
    assert [int(share) for share in won.groups()] == [
        round(100 * RESULTS.gap[name]) for name in ("GRPO", "DAPO")
    ]
    page = (PROJECT / "figures" / "results_table.md").read_text()
    form = re.search(r"gain over the base: (\d+%) of GRPO's .*?, (\d+%) of DAPO's", page)
    assert f"({form[1]} and {form[2]})" in words
    blind = pd.read_csv(PROJECT / "figures" / "blind_answers.csv", index_col="reward of").blind
    assert f"[{blind['DAPO']:.1f} of the paper's 7 points]" in words


@pytest.mark.parametrize("document, groups", [("performance.md", 8), ("paper_preset.md", 4)])
def test_memory_by_count(document, groups):
    sizes = ModelSizes.of(paper_mllm(None))
    plans = plan_table(sizes, [GroupTokens(1100, (150,) * 8)] * groups, (12, 16, 24, 48, 80))
    counted = {
        f"{plan['GPU (GB)']} GB": [
            f"{plan['groups in a forward']:g}",
            f"{plan['layers checkpointed']} of 36" if plan["layers checkpointed"] else "none",
            f"{plan['peak, counted (GB)']} GB",
        ]
        for plan in plans
    }
    rows = table_rows((PROJECT / "docs" / document).read_text())
    told = {row[0]: row[1:] for row in rows if re.fullmatch(r"\d+ GB", row[0])}
    assert len(told) >= 3 and told == {name: counted[name] for name in told}


@words_of_the_figures
def test_the_readme_says_what_the_notes_of_the_table_say():
    notes = (PROJECT / "figures" / "results_table.md").read_text()
    difference = re.search(r"GRPO less DAPO, over plates and seeds: gIoU (.*\))\.\n", notes)[1]
    assert f"GRPO less DAPO is {difference}" in " ".join(README.split())
    several, one = (
        [f"{RESULTS.loc[method, name]:.3f}" for method in ("GRPO", "DAPO")]
        for name in ("giou_several", "giou_one")
    )
    words = " ".join(README.split())
    assert f"({several[0]} and {several[1]}; one food {one[0]} and {one[1]})" in words


@words_of_the_figures
def test_the_relatives_pages_numbers_are_the_ablations():
    frame = pd.read_csv(PROJECT / "figures" / "ablations.csv").set_index("title")
    page = (PROJECT / "docs" / "relatives.md").read_text()
    shown = table_rows(page[page.index("| method | gIoU") : page.index("\n## ")])[2:]
    assert len(shown) > 15
    for title, *numbers in shown:
        row = frame.loc[title]
        gain = gain_text(row) if row["row"] != "dapo" else NOTHING
        score = with_deviation(row.giou, row.giou_sd)
        named = [f"{share:.0%}" for share in (row.foods_right, row.foods_right_several)]
        assert numbers == [score, gain, *named, str(int(row.seeds))], title
    assert modes_sentence(frame.reset_index()) in " ".join(page.split())
    by_row = frame.reset_index().set_index("row")
    words = " ".join(README.split())
    assert f"GRTO is above DAPO, by {gain_text(by_row.loc['grto'])}" in words
    assert f"and ViSurf below, by {gain_text(by_row.loc['visurf'])}; of the others no" in words
    unnamed = by_row.loc["ours-without-names"]
    both, tuned = by_row.loc["sft-then-grpo"], by_row.loc["sft"]
    words = f"followed by GRPO has {both.giou:.3f} where fine-tuning has {tuned.giou:.3f}."
    assert words in " ".join(page.split()) and both.seeds == tuned.seeds == SEEDS
    assert "Intel" in both.processor
    assert set(frame.processor[frame["row"] != "sft-then-grpo"]) == {"AMD EPYC"}
    words = f"Ours without names has {unnamed.giou:.3f} (three seeds)"
    assert words in " ".join(page.split()) and unnamed.seeds == 3
    long, free = (by_row.loc[name, "giou"] for name in ("sam-r1-long", "sam-r1-no-kl-long"))
    words = f"SAM-R1 has {long:.3f}, and {free:.3f} without its KL term: no collapse"
    assert words in " ".join(page.split())
    without, ours = (by_row.loc[name, "giou"] for name in ("dapo-without-non-repeat", "ours"))
    words = f"without it has {without:.3f} where ours has {ours:.3f}"
    assert words in " ".join(page.split())
    others = by_row.loc[[*PUBLISHED]].drop(["sft", "dapo", "grto", "visurf"])
    assert {difference_word(row) for row in others.itertuples()} == {NOT_SHOWN}


@words_of_the_figures
def test_the_trainings_of_make_are_the_records_bit_for_bit():
    """What today's code trained again has the adapters of the code that made the records."""
    rows = table_rows((PROJECT / "figures" / "results_table.md").read_text())
    names = next(row for row in rows if "adapter" in row and "steps" in row)
    made = [dict(zip(names, row, strict=True)) for row in rows if re.match(r"\w+-seed\d", row[0])]
    assert len(made) == 6
    compared = 0
    for training in made:
        method, _, seed = training["row"].partition("-seed")
        (row,) = choose_rows(method)
        kept = read_record(RECORDS, Run(row, int(seed)))["outcome"]
        if kept["processor"] == training["processor"]:  # another make rounds otherwise
            assert kept["adapter"] == training["adapter"], training["row"]
            compared += 1
    if not compared:
        pytest.skip("the tables of make and the records were made on unlike processors")


@words_of_the_figures
def test_what_the_non_repeat_reward_goes_with_is_counted():
    page = " ".join((PROJECT / "docs" / "relatives.md").read_text().split())
    frame = pd.read_csv(PROJECT / "figures" / "ablations.csv", index_col="row")
    counts = {True: [0, 0], False: [0, 0]}  # trainings; those that end step by step
    for row in all_rows():
        if isinstance(row.method, Recipe) and frame.loc[row.name, "seeds"]:
            paid = any(term in (non_repeat, non_repeat_normalised) for term in row.method.reward)
            for place, name in enumerate(("seeds", "stepwise")):
                counts[paid][place] += int(frame.loc[row.name, name])
    (paid, stepwise), (unpaid, others) = counts[True], counts[False]
    assert f"Of {unpaid} trainings without R_rep {others} end step by step" in page
    assert f"of {paid} with it {stepwise}." in page


@words_of_the_figures
def test_that_dapos_three_seeds_are_low_is_what_the_eight_have():
    frame = pd.read_csv(PROJECT / "figures" / "ablations.csv", index_col="row")
    dapo = frame.loc["dapo"]
    assert dapo.seeds == frame.seeds["grpo"] == SEEDS
    words = " ".join(README.split())
    three = f"{RESULTS.loc['DAPO', 'giou']:.3f} over these three"
    assert f"(DAPO has {three}, {dapo.giou:.3f} over eight)" in words
    base, knowledge = (RESULTS.giou[RESULTS.index.str.startswith(n)].iloc[0] for n in BOTH_ENDS)
    closed = [(frame.giou[name] - base) / (knowledge - base) for name in ("grpo", "dapo")]
    assert "of eight seeds {:.0%} and {:.0%}".format(*closed) in words


@words_of_the_figures
def test_how_far_rounding_carries_is_what_was_measured():
    rounding = pd.read_csv(PROJECT / "figures" / "rounding.csv", index_col="row")
    grpo, dapo = (rounding.loc[name] for name in ("grpo", "dapo"))
    page = " ".join((PROJECT / "docs" / "relatives.md").read_text().split())
    less = signed_interval(dapo.difference, dapo.low, dapo.high)
    told = f"GRPO has {grpo.giou_second:.3f}, DAPO {dapo.giou_second:.3f}, {less} from the table's"
    assert told in page and dapo.giou_second < dapo.giou
    apart = f"{grpo.two_processors:.3f} in the mean (GRPO) and {dapo.two_processors:.3f} (DAPO)"
    assert f"{apart}, two seeds by {grpo.two_seeds:.3f} and {dapo.two_seeds:.3f}." in page
    assert {grpo.seeds, dapo.seeds} == {SEEDS}
    for row in (grpo, dapo):  # "as far off as another seed"
        assert 0.5 < row.two_processors / row.two_seeds < 2
    words, figure = " ".join(README.split()), (PROJECT / "figures" / "rounding.md").read_text()
    both = re.search(r"\| GRPO less DAPO \| .*? \| .*? \| (.*?) \|", figure)[1]
    assert f"GRPO less DAPO is {both} (" in page and f"[{both}](figures/rounding.md)" in words
    assert f"{grpo.giou:.3f} here and {grpo.giou_second:.3f} on an Intel Xeon" in words
    assert f"Xeon, DAPO {dapo.giou:.3f} and {dapo.giou_second:.3f}." in words
    ours, grto, sft = (rounding.giou_second[name] for name in ("ours", "grto", "sft"))
    told = f"ours {ours:.3f}, GRTO {grto:.3f}, fine-tuning {sft:.3f}, DAPO {dapo.giou_second:.3f};"
    assert told in page
    lines = {row[0]: row[1:] for row in table_rows(figure) if " less DAPO" in row[0]}
    ours, grto = (next(v for k, v in lines.items() if k.startswith(n)) for n in ("Ours", "GRTO"))
    assert f"ours is ahead of DAPO by {ours[2]}, GRTO by {grto[2]} (" in page
    assert f"seeds on an Intel Xeon: [{ours[1].split()[0]}](figures/rounding.md)" in words


def test_how_thoughts_change_in_training_is_what_the_logs_have():
    page = " ".join((PROJECT / "docs" / "relatives.md").read_text().split())
    shares, scores = {}, {}
    for name in ("dapo", "dapo-without-non-repeat", "ours"):
        (row,) = choose_rows(name)
        logs, ends = [], []
        for seed in range(SEEDS):
            record = read_record(RECORDS, Run(row, seed))
            named = {Path(file).name: lines for file, lines in record["files"].items()}
            logs.append([third(named["log.jsonl"], "habit_step_by_step", n) for n in (0, 2)])
            answers = [habits(one["completion"]) for one in named["predictions.jsonl"]]
            ends.append((mean(one["step by step"] for one in answers), record["outcome"]["giou"]))
        shares[name], scores[name] = np.array(logs), ends
    first, last = (f"{share:.0%}" for share in shares["dapo"].mean(0))
    changes = np.diff(shares["dapo"])[:, 0]
    told = f"(DAPO, eight seeds: {first} in the first third, {last} in the last; it falls in four"
    assert f"{told}, by up to {-changes.min():.2f}, and rises in four, by up to" in page
    assert f"by up to {changes.max():.2f})" in page and (changes < 0).sum() == 4
    least, most = (f"{end(shares['dapo'][:, 1]):.0%}" for end in (np.min, np.max))
    assert f"by seed, {least} to {most} of DAPO's samples in the last third go" in page
    rise = {"dapo-without-non-repeat": "seed ({}, then {})", "ours": "too ({}, then {})"}
    for name, words in rise.items():
        assert (np.diff(shares[name]) > 0).all()
        assert words.format(*(f"{share:.0%}" for share in shares[name].mean(0))) in page
    stepwise = sorted(score for share, score in scores["dapo"] if share > 0.5)
    hasty = sorted(score for share, score in scores["dapo"] if share < 0.5)
    assert len(stepwise) == 2 and stepwise[0] > hasty[-1]
    assert "({:.3f} and {:.3f}; the others".format(*stepwise) in page
    assert f"have {hasty[0]:.3f} to {hasty[-1]:.3f})" in page


def weighed(claim: pd.Series) -> str:
    q = "below 0.001" if claim.q < 5e-4 else f"{claim.q:.3f}"
    return f"{claim['mean']:+.3f}, q {q}"


@words_of_the_figures
def test_the_readmes_verdicts_are_the_claims():
    claims = pd.read_csv(PROJECT / "figures" / "claims.csv", index_col="claim")
    words = " ".join(README.split())
    judged = claims["verdict"].isin((SEEN, NOT_SEEN, CONTRADICTED)).sum()
    asked = (claims["verdict"] != NOT_HERE).sum()
    have = f"all {asked}" if judged == asked else f"{judged} of the {asked}"
    assert f"eight seeds; {have} that can be asked have one; among them:" in words
    dapo, rft = claims.loc["dapo"], claims.loc["rft-sft"]
    lines = {name: words[words.index(f"- *{name}*") :].split(" - ")[0] for name in VERDICTS}
    assert dapo.verdict == NOT_SEEN
    assert f"better than GRPO (smaller than {dapo.high:.3f})" in lines[NOT_SEEN]
    rep, ours = claims.loc["non-repeat-score"], claims.loc["ours-dapo"]
    b_grto = claims.loc["b-grto"]
    assert {rft.verdict, rep.verdict, b_grto.verdict} == {CONTRADICTED}
    assert f"told the foods' names ({weighed(rft)});" in lines[CONTRADICTED]
    assert f"improves gIoU ({weighed(rep)}; without seed 0" in lines[CONTRADICTED]
    assert f"better than GRTO ({weighed(b_grto)})" in lines[CONTRADICTED]
    ranked, visurf = claims.loc["ranked"], claims.loc["visurf"]
    assert {ranked.verdict, visurf.verdict} == {CONTRADICTED}
    assert f"better than thresholds ({weighed(ranked)})" in lines[CONTRADICTED]
    assert f"ViSurf does better than GRPO ({weighed(visurf)})" in lines[CONTRADICTED]
    lisa = claims.loc["rft-lisa"]
    assert lisa.verdict == SEEN and f"same backbone ({weighed(lisa)})" in lines[SEEN]
    assert claims.loc["kl-collapse"].verdict == NOT_SEEN
    assert "without the KL term a training of ten times" in lines[NOT_SEEN]
    tiers = claims.loc[["tiers-0.5", "tiers-0.7", "tiers-0.8"]]
    assert set(tiers.verdict) == {NOT_SEEN}
    ends = f"({tiers['mean'].max():+.3f} to {tiers['mean'].min():+.3f})"
    assert f"better than one threshold {ends}" in lines[NOT_SEEN]
    assert ours.verdict == SEEN and f"than DAPO ({weighed(ours)};" in lines[SEEN]


def test_where_grto_loses_foods_is_counted(tmp_path):
    """Of its test answers: what the list of the foods on the plate has, what the conclusion has."""
    folder = tmp_path / "FoodSeg103"
    write_kitchen(folder, 1, KITCHEN.test_plates, seed=0)
    samples, _ = build_single(folder, "test")
    names = food_names(samples)
    several, one = [], []
    for seed in range(SEEDS):
        files = read_record(RECORDS, Run(*choose_rows("grto"), seed))["files"]
        (answers,) = (rows for name, rows in files.items() if name.endswith("predictions.jsonl"))
        for sample, answer in zip(samples, answers, strict=True):
            assert sample.sample_id == answer["sample_id"]
            asked, named = set(sample.foods), set(answer["foods_named"])
            if len(asked) > 1:
                seen = re.search(r"I see .*?\.", answer["completion"]) or [""]
                listed = asked <= set(named_foods(f"<think>{seen[0]}</think>", names))
                several.append((listed, listed and not asked <= named))
            else:
                one.append(bool(named) and not asked & named)
    listed, lost = np.mean(several, axis=0)
    page = " ".join((PROJECT / "docs" / "relatives.md").read_text().split())
    told = (
        f"{listed:.0%} list all of them among the foods on the plate, yet {lost:.0%} of all answers"
    )
    assert f"{told} do so and leave some out of the conclusion" in page
    assert f"to questions for one food, {np.mean(one):.0%} conclude with other foods alone" in page


def test_how_many_trainings_have_a_spike_of_the_kl_is_counted():
    """Where the parents' clamp of k3 may have acted, which is not in our loss."""
    spikes = []
    for row in all_rows():
        if isinstance(row.method, Recipe) and row.method.objective.kl_weight:
            records = (read_record(RECORDS, Run(row, seed)) for seed in range(SEEDS))
            for record in filter(None, records):
                (log,) = (rows for name, rows in record["files"].items() if "log.jsonl" in name)
                late = np.array([step["kl"] for step in log][len(log) // 3 :])
                spikes.append((late > 3 * np.median(late)).sum())
    counted = (
        f"In {np.count_nonzero(spikes)} of {len(spikes)} trainings with a KL term up to three steps"
    )
    assert counted in (PROJECT / "docs" / "reproduction_notes.md").read_text()
    assert max(spikes) == 3


@words_of_the_figures
def test_without_the_seed_that_was_known_the_non_repeat_claim_is_not_seen():
    """What the claim says of itself, from the records' answers."""
    rows = []
    for name in ("dapo", "dapo-without-non-repeat"):
        records = [read_record(RECORDS, Run(*choose_rows(name), seed)) for seed in range(SEEDS)]
        rows.append([_answers(record) for record in records])
    (mean, low, high), later = (
        paired_difference(*(row[first:] for row in rows)) for first in (0, 1)
    )
    claim = pd.read_csv(PROJECT / "figures" / "claims.csv", index_col="claim").loc[
        "non-repeat-score"
    ]
    assert (mean, low, high) == pytest.approx((claim["mean"], claim.low, claim.high), rel=1e-4)
    assert later[1] < 0 < later[2] and "without which it is not seen" in claim.here


def _answers(record: dict) -> list[Prediction]:
    (name,) = (name for name in record["files"] if name.endswith("predictions.jsonl"))
    return [Prediction(**one | {"mask": {}, "references": []}) for one in record["files"][name]]


@pytest.mark.parametrize("document", [*DOCUMENTS, *EXECUTED], ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    """Files, and headings of the same page or of another."""
    text = document.read_text()
    if document.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)|<img src=\"([^\"]+)\"", text)
    for target in links:
        path, _, heading = "".join(target).partition("#")
        page = document.parent / path if path else document
        assert page.exists(), f"{document.name}: {path}"
        if heading:
            slugs = re.findall(r"^#+ (.*)", page.read_text(), re.M)
            assert heading in [re.sub(r"[^\w\- ]", "", s.lower()).replace(" ", "-") for s in slugs]


def test_an_executed_notebook_names_no_folder_of_the_machine_that_made_it():
    assert len(EXECUTED) == 10
    for path in EXECUTED:
        made = json.loads(path.read_text())["metadata"]["papermill"]
        kept = f"build/kitchen/{path.stem}.running.ipynb"
        assert (made["input_path"], made["output_path"]) == (f"notebooks/{path.name}", kept)
