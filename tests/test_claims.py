"""The claims: the rule at its edges, each measure by hand, and the page from stand-ins of runs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_ablations import finish, runs  # noqa: F401  a fixture
from test_report import prediction

from foodseg.ablations.rows import all_rows, choose_rows
from foodseg.ablations.runs import Run
from foodseg.claims import __main__ as command
from foodseg.claims import measures
from foodseg.claims.claim import Claim
from foodseg.claims.field import CLAIMS, OURS, claimed_rows
from foodseg.claims.frame import claims_frame, difference, false_discovery
from foodseg.claims.measures import (
    GIOU,
    GIOU_MANY,
    GIOU_SEVERAL,
    MORE_FOR_MANY,
    OfLog,
    answers_difference,
    log_difference,
)
from foodseg.claims.outputs import claims_path, page, read_claims, verdict_text, write_claims
from foodseg.claims.picture import claims_picture
from foodseg.claims.rule import (
    CONTRADICTED,
    NOT_HERE,
    NOT_SEEN,
    OPEN,
    RULE,
    SEEDS,
    SEEN,
    Difference,
    verdict,
)
from foodseg.common.files import PROJECT, read_lines, write_json, write_lines
from foodseg.data.samples import Sample
from foodseg.evaluation.predictions import paired_difference
from foodseg.recipes import GRPO


def asking(count: int, plate: str = "a.jpg") -> Sample:
    foods = ("rice", "corn", "steak", "fish", "egg")[:count]
    return Sample("q", "d", "test", plate, 8, 8, "Which?", "", foods, (), foods, ())


def answered(samples, intersections, text: str = ""):
    """Predictions of ten pixels each."""
    made = [prediction(i, value) for i, value in enumerate(intersections)]
    pairs = zip(made, samples, strict=True)
    return [replace(one, image=sample.image, completion=text) for one, sample in pairs]


@pytest.mark.parametrize(
    "low, high, seeds, expected",
    [
        (0.001, 0.3, SEEDS, SEEN),
        (0.0, 0.3, SEEDS, NOT_SEEN),
        (-0.2, 0.3, SEEDS, NOT_SEEN),
        (-0.2, 0.0, SEEDS, NOT_SEEN),
        (-0.2, -0.001, SEEDS, CONTRADICTED),
        (0.001, 0.3, SEEDS - 1, OPEN),
        (float("nan"), float("nan"), SEEDS, OPEN),
        (0.0, 0.0, SEEDS, OPEN),  # no run has anything of it
        (1.0, 1.0, SEEDS, SEEN),
    ],
)
def test_the_verdict_is_the_intervals(low, high, seeds, expected):
    assert verdict(Difference((low + high) / 2, low, high, seeds)) == expected
    turned = Difference((low + high) / 2, low, high, seeds).turned()
    assert (turned.mean, turned.low, turned.high) == pytest.approx(
        (-(low + high) / 2, -high, -low), nan_ok=True
    )


def test_one_seed_is_enough_where_a_claim_says_so_and_the_difference_is_large():
    for low, high, expected in (
        (0.16, 0.3, SEEN),
        (0.15, 0.3, NOT_SEEN),
        (-0.3, -0.15, NOT_SEEN),
        (-0.3, -0.16, CONTRADICTED),
    ):
        assert verdict(Difference((low + high) / 2, low, high, 1), seeds_needed=1) == expected


def test_every_claim_compares_rows_that_are_there_and_papers_stand_together():
    names = {row.name for row in all_rows()}
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) >= 30
    papers = [claim.paper for claim in CLAIMS]
    changes = sum(a != b for a, b in zip(papers, papers[1:], strict=False))
    assert changes + 1 == len(set(papers))
    for claim in CLAIMS:
        assert set(claim.rows) <= names, claim.name
        assert bool(claim.treated) != bool(claim.reason), claim.name
        assert claim.control or not claim.treated or isinstance(claim.measure, OfLog), claim.name
        assert claim.says.endswith(".") and claim.own
    long = {claim.name for claim in CLAIMS if claim.seeds < SEEDS}
    assert long == {"kl-collapse"}
    budgets = {row.name: getattr(row.method, "budget", 1) for row in all_rows()}
    for claim in CLAIMS:  # the same number of completions on both sides
        trained = [row for row in claim.rows if row != "base"]
        assert len({budgets[row] for row in trained}) <= 1, claim.name
        assert claim.control or not claim.acts  # whose runs tell it


def test_differences_of_answers_are_the_tables():
    samples = [asking(1, f"{i % 5}.jpg") for i in range(15)]
    rng = np.random.default_rng(0)
    mine, others = (
        [answered(samples, rng.integers(0, 11, 15)) for _ in range(3)] for _ in range(2)
    )
    found = answers_difference(GIOU, mine, others, samples)
    assert (found.mean, found.low, found.high) == paired_difference(mine, others)
    assert found.seeds == 3
    assert answers_difference(GIOU, mine, [], samples).seeds == 0


def test_questions_are_counted_by_the_foods_asked_for():
    samples = [asking(count) for count in (1, 1, 2, 3, 4, 5)]
    run = answered(samples, (10, 8, 6, 4, 2, 0))
    several = GIOU_SEVERAL.values(run, samples)
    assert np.isnan(several[:2]).all() and several[2:].tolist() == [0.6, 0.4, 0.2, 0.0]
    assert np.nanmean(GIOU_MANY.values(run, samples)) == pytest.approx(0.2)
    # Without a question that counts there is nothing to compare.
    one = samples[:2], answered(samples[:2], (10, 8))
    assert answers_difference(GIOU_MANY, [one[1]], [one[1]], one[0]).seeds == 0
    # Three and more: (0.4 + 0.2 + 0) / 3; one: 0.9.
    assert MORE_FOR_MANY.values(run, samples).mean() == pytest.approx(0.2 - 0.9)


def test_habits_and_right_foods_of_answers():
    samples = [asking(1)] * 2
    said = "<think>I see rice. I see rice. I see rice. I see rice.</think>"
    run = answered(samples, (1, 1), said)
    assert measures.RAMBLES.values(run, samples).tolist() == [1, 1]
    assert measures.LOOKS.values(run, samples).tolist() == [0, 0]
    run = [replace(run[0], foods_right=True), replace(run[1], foods_right=False)]
    assert measures.RIGHT.values(run, samples).tolist() == [1, 0]


def test_figures_of_a_log_by_hand():
    rows = [{"entropy": float(i)} for i in range(7)]
    assert measures.third(rows, "entropy") == 6.0  # thirds of 3, 3 and 1 steps
    assert measures.third(rows, "entropy", 1) == 4.0
    assert measures.growth(rows, "entropy") == 6.0 - 1.0
    assert np.isnan(measures.third(rows, "points_mask_tiers"))
    steps = [{"tool_iou": float(step)} for step in range(1, 38)]
    assert measures.TOOL_AT_STEPS.value(steps) == (9 + 24) / 2
    assert np.isnan(measures.TOOL_AT_STEPS.value(steps[:8]))
    steps[10]["tool_iou"] = None  # a step without a reference
    assert measures.TOOL_AT_STEPS.value(steps) == pytest.approx((16.5 * 16 - 11) / 15)
    bins = {"p0_10": (10, 0.2), "p10_50": (30, 0.0), "p50_90": (40, 0.05), "p90_100": (0, None)}
    row = {f"gain_tokens_{name}": tokens for name, (tokens, _) in bins.items()}
    row |= {f"clip_high_{name}": share for name, (_, share) in bins.items()}
    assert measures.clipped_unlikely([row, row]) == pytest.approx(4 / 80 - 4 / 80)
    assert measures.clipped_unlikely([row | {"clip_high_p10_50": 0.1}]) == pytest.approx(3 / 40)
    logs = [[{"kl": 0.01}, {"kl": None}], [{"kl": 0.03}]]
    assert measures.KL.text(logs) == "the KL to the base is 0.020 nats"
    assert measures.KL.text([]) == ""


def test_differences_of_logs_are_paired_students_t():
    last = OfLog("x", "y", lambda rows: rows[-1]["x"])
    mine, others = ([[{"x": v}] for v in values] for values in ((1, 2, 4, 3), (0, 1, 5, 1)))
    found = log_difference(last, mine, others)
    expected = stats.ttest_rel((1, 2, 4, 3), (0, 1, 5, 1)).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, *expected))
    alone = log_difference(last, mine, None)
    expected = stats.ttest_1samp((1, 2, 4, 3), 0).confidence_interval(0.95)
    assert (alone.mean, alone.low, alone.high) == pytest.approx((2.5, *expected))
    assert log_difference(last, mine[:1], others[:1]).seeds == 0


def test_a_log_is_compared_with_the_control_of_the_same_seed():
    rows = {"dapo": {0: 5, 1: 6, 2: 7}, "grpo": {1: 1, 2: 2, 3: 90}}
    ended = SimpleNamespace(
        ended=lambda row: [SimpleNamespace(seed=seed) for seed in rows[row]],
        logs=lambda row: [[{"x": value}] for value in rows[row].values()],
    )
    last = OfLog("x", "y", lambda log: log[-1]["x"])
    claim = Claim("more", "A", "DAPO has more x.", "none", "dapo", "grpo", last)
    found = difference(claim, ended)
    assert (found.mean, found.seeds) == (5, 2)  # 6 - 1 and 7 - 2; one seed is either's alone
    assert difference(replace(claim, below=True), ended).mean == -5


def test_what_a_verdict_is_worth_among_many_by_hand():
    # An interval that ends at 0 has p = 0.05 on either side; one of twice the distance, by a table
    # of Student's t with 7 degrees of freedom (2 x 2.3646 = 4.729), p = 0.0021.
    for mean, low, high in ((0.1, 0.0, 0.3), (-0.1, -0.3, 0.0)):
        assert Difference(mean, low, high, 8).chance == pytest.approx(0.05)
    twice = Difference(0.2, 0.1, 0.3, 8)
    assert twice.chance == pytest.approx(0.0021, abs=5e-5)
    assert Difference(0.5, 0.5, 0.5, 8).chance == 0  # the same in all runs
    # t of 0.8 is 0.896: the interval's half and 0.896 / 2.3646 of it.
    assert twice.seen_from == pytest.approx(0.1 * (1 + 0.896 / 2.3646), abs=1e-5)
    # Benjamini and Hochberg: p of rank i times n / i, not above that of a higher rank.
    found = false_discovery(pd.Series({"a": 0.04, "b": 0.01, "c": np.nan, "d": 0.03}))
    assert found[["b", "d", "a"]].tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert np.isnan(found["c"]) and false_discovery(pd.Series({"c": np.nan})).isna().all()


def test_seen_from_is_what_four_of_five_tables_see():
    generator, half = np.random.default_rng(0), 2.3646
    least = Difference(1.0, 1.0 - half, 1.0 + half, 8).seen_from
    drawn = least + generator.standard_normal((4000, 8)) * 8**0.5
    spread = drawn.std(1, ddof=1) / 8**0.5
    seen = (drawn.mean(1) / spread > half).mean()
    assert 0.76 < seen < 0.84  # 0.8, to within what shifting t instead of its noncentral form costs


def test_the_claims_are_those_that_the_page_judges():
    """What a claim says is data: with its sides exchanged it is a claim as well, and another."""
    judged = pd.read_csv(
        PROJECT / "figures" / "claims.csv", index_col="claim", keep_default_na=False
    )
    assert list(judged.index) == [claim.name for claim in CLAIMS]
    for claim in CLAIMS:
        row = judged.loc[claim.name]
        for name in ("paper", "says", "own", "here", "treated", "control", "below", "reason"):
            assert row[name] == getattr(claim, name), (claim.name, name)
        assert row["measure"] == (claim.measure.name if claim.rows else ""), claim.name


GROWS = Claim("grows", "B", "More later.", "a figure", "grpo", "", measures.NO_SIGNAL)
BETTER = Claim("better", "A", "DAPO is better.", "0.51 against 0.46", "dapo", "grpo")
WORSE = replace(BETTER, name="worse", says="DAPO is worse.", below=True)
BASE_TOO = Claim("base", "A", "Better than the base.", "none", "grpo", "base")
OLD = replace(BETTER, name="old", paper=OURS, treated="grpo-no-kl", acts=measures.VANISHED)
NEVER = Claim("never", "B", "It is large.", "none", reason="no weights")
SHORT = (BETTER, WORSE, BASE_TOO, OLD, GROWS, NEVER)


@pytest.fixture()
def ended(runs):  # noqa: F811
    """Eight seeds of GRPO and DAPO, and the base, on two questions of one plate each."""
    samples = runs.samples("test")[1]
    plates = list(dict.fromkeys(sample.image for sample in samples))
    (base,) = choose_rows("base")
    finish(runs, Run(base), tuple([0] * len(samples)))
    rng = np.random.default_rng(1)
    for name, mean in (("grpo", 3), ("dapo", 6)):
        (row,) = choose_rows(name)
        for seed in range(SEEDS):
            scores = tuple(int(v) for v in mean + rng.integers(0, 3, len(samples)))
            finish(runs, Run(row, seed), scores)
            log = [{"zero_variance": 0.1 * step + 0.01 * seed} for step in range(3)]
            write_lines(runs.log(Run(row, seed)), log)
    # One of other settings is no evidence.
    (stale,) = choose_rows("grpo-no-kl")
    finish(runs, Run(stale), tuple([0] * len(samples)))
    outcome = runs.outcome(Run(stale)) | {"identity": {}}
    write_json(runs.folder(Run(stale)) / "outcome.json", outcome)
    assert len(plates) > 3
    return runs


def test_a_log_without_the_figure_leaves_a_claim_open(ended):
    (grpo,) = choose_rows("grpo")
    against = replace(GROWS, name="more", treated="dapo", control="grpo")
    assert claims_frame(ended, range(SEEDS), (against,)).loc["more", "seeds"] == SEEDS
    log = ended.log(Run(grpo, 3))
    rows = read_lines(log)
    write_lines(log, [{"other": 1.0} for _ in rows])  # of one seed of eight
    frame = claims_frame(ended, range(SEEDS), (GROWS, against))
    assert frame["verdict"].tolist() == [OPEN] * 2 and frame["seeds"].tolist() == [0, 0]
    write_lines(log, rows)
    (ended.folder(Run(grpo, 3)) / "outcome.json").unlink()  # the control lacks a seed
    frame = claims_frame(ended, range(SEEDS), (GROWS, against))
    assert frame["verdict"].tolist() == [OPEN] * 2 and frame["seeds"].tolist() == [7, 7]


def test_a_claim_of_one_seed_has_no_q_and_moves_no_others(ended):
    several = claims_frame(ended, range(SEEDS), (BETTER, BASE_TOO))
    alone = replace(BETTER, name="alone", seeds=1)
    frame = claims_frame(ended, range(SEEDS), (BETTER, BASE_TOO, alone))
    assert frame.loc["alone", ["q", "seen_from"]].isna().all()
    assert frame.loc[["better", "base"], "q"].tolist() == several["q"].tolist()


def test_the_page_has_every_claim_with_its_verdict(ended):
    frame = claims_frame(ended, range(SEEDS), SHORT)
    verdicts = frame["verdict"].to_dict()
    assert verdicts == {
        "better": SEEN, "worse": CONTRADICTED, "base": SEEN, "old": OPEN, "grows": SEEN,
        "never": NOT_HERE,
    }  # fmt: skip
    assert frame.loc["worse", "mean"] == -frame.loc["better", "mean"] < 0
    assert frame["seeds"].tolist() == [SEEDS] * 3 + [0, SEEDS, 0]
    assert frame.loc["grows", "mean"] == pytest.approx(0.2)
    text = "\n".join(page(ended.preset, frame))
    counted = "5 claims of the field: 3 seen, 1 contradicted, 1 can't be asked here."
    assert RULE in text and f"{counted} 1 of our recipe: 1 open." in text
    for claim in SHORT:
        assert f"{claim.says} (`{claim.name}`)" in text
    assert "GRPO less DAPO: gIoU" in text and "can't be asked here: no weights" in text
    assert "c1 on EPYC" in text and text.count("of groups | 0.000 | 0.000 | 8 | **seen** |") == 1
    assert "GRPO: 13.5% of the groups have no signal" in text
    write_claims(ended, frame)
    path = ended.preset.figures / "claims"
    assert path.with_suffix(".png").stat().st_size > 10_000
    pd.testing.assert_frame_equal(read_claims(ended.preset), frame, check_dtype=False, rtol=1e-5)


def test_with_too_few_seeds_a_claim_is_open_and_without_runs_there_is_no_picture(runs, ended):  # noqa: F811
    few = claims_frame(ended, range(SEEDS - 1), SHORT)
    assert few.loc["better", "verdict"] == OPEN and few.loc["better", "mean"] > 0
    none = claims_frame(ended, [99], (BETTER, NEVER))
    assert none["verdict"].tolist() == [OPEN, NOT_HERE] and none["mean"].isna().all()
    (ended.preset.figures / "claims.png").unlink(missing_ok=True)
    write_claims(ended, none)
    assert not (ended.preset.figures / "claims.png").exists()
    unclear = few.loc["better"].copy()
    unclear["verdict"], unclear["high"] = NOT_SEEN, 0.0312
    assert verdict_text(unclear) == "not seen (smaller than 0.031)"
    tokens = unclear.copy()
    tokens["unit"] = "tokens"
    assert verdict_text(tokens) == "not seen (smaller than 0.031 tokens)"
    alone = unclear.copy()
    alone["seeds"] = 1
    assert verdict_text(alone) == "not seen (one seed: not beyond 0.15)"
    unclear["verdict"], unclear["low"], unclear["high"] = OPEN, 0.0, 0.0
    assert verdict_text(unclear) == "**open**: 0 in all runs"


def test_the_picture_has_a_mark_for_each_difference(ended):
    frame = claims_frame(ended, range(SEEDS), SHORT)
    frame.loc["base", ["mean", "low", "high"]] = 1.0  # the same in all answers
    (ax,) = claims_picture(frame).axes
    verdicts = [v for _, own in frame.groupby("paper", sort=False) for v in own["verdict"]]
    assert [text.get_text().split("  ")[-1] for text in ax.texts] == verdicts
    assert sum("+" in text.get_text() or "-" in text.get_text() for text in ax.texts) == 4
    assert not any("nan" in text.get_text() for text in ax.texts)
    drawn = [line for line in ax.lines if len(line.get_xdata())]
    marks = [line for line in drawn if line.get_marker() in ("<", "o", ">")]
    (key,) = claims_picture(frame).legends
    assert [text.get_text() for text in key.get_texts()] == [SEEN, NOT_SEEN, CONTRADICTED, OPEN]
    assert len(marks) == 4 and marks[2].get_marker() == ">"  # a line without width is drawn too


def test_the_command_runs_what_the_claims_need_and_writes(ended, monkeypatch, capsys):
    asked = []

    def interrupt(_):
        raise KeyboardInterrupt  # before there is anything to show

    def run_all(_, wanted, jobs, after_seed):
        asked.extend(wanted)
        after_seed([0])
        return []

    page = claims_path(ended.preset).with_suffix(".md")

    monkeypatch.setattr(command, "run_all", run_all)
    assert command.main(["dapo", "--preset", "smoke", "--seeds", "0,1"]) == 0
    assert sorted(run.name for run in asked) == [
        "dapo-seed0",
        "dapo-seed1",
        "grpo-seed0",
        "grpo-seed1",
    ]
    told = capsys.readouterr().out
    assert "DAPO segments better than GRPO. (`dapo`)" in told and "**open**" in told
    assert not page.exists()  # it would have no other claim
    asked.clear()
    assert command.main(["lisa", "--preset", "smoke"]) == 0 and not asked  # it needs no run
    assert command.main(["--only-write", "--preset", "smoke"]) == 0 and not asked
    assert "claims of the field: " in capsys.readouterr().out and page.exists()
    monkeypatch.setattr(command, "choose_claims", interrupt)
    assert command.main(["--preset", "smoke"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_what_is_asked_for_wrongly_is_said_in_one_sentence(capsys):
    assert command.main(["nonsense", "--preset", "smoke"]) == 1
    assert "'nonsense' is no claim; use some of dapo" in capsys.readouterr().err


def test_less_than_one_run_at_once_is_refused(runs, capsys):  # noqa: F811
    assert command.main(["dapo", "--preset", "smoke", "--jobs", "0"]) == 1
    said = "claims: --jobs 0: nothing would ever start; give 1 or more.\n"
    assert capsys.readouterr().err == said


def test_rows_that_are_claimed_are_each_named_once():
    rows = claimed_rows()
    assert len(set(rows)) == len(rows) and {"base", "grpo", "dapo", "ours"} <= set(rows)
    assert GRPO.name in rows
