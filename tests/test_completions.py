"""Another model's completions: each form read as stated, scored as our own are, the same twice."""

import json
import shutil
from dataclasses import replace

import pytest
from test_report import prediction, sample, write_all_rows, write_row

from foodseg.common.errors import DataError
from foodseg.data.references import Reference
from foodseg.data.samples import save_samples
from foodseg.evaluation import leaderboard
from foodseg.evaluation.base_rows import ANY_FORM, evaluate_any_form
from foodseg.evaluation.evaluate import evaluate
from foodseg.evaluation.external import completions as scoring
from foodseg.evaluation.external.__main__ import main
from foodseg.evaluation.external.completions import read_completions, score_completions
from foodseg.evaluation.external.readings import Reading, parse_reading
from foodseg.evaluation.external.rows import ExternalRow
from foodseg.evaluation.predictions import load_predictions, load_result
from foodseg.presets import SMOKE
from foodseg.report import results, results_notes
from foodseg.report.baselines import BASELINES
from foodseg.report.seeds import seed_rows
from foodseg.rl.evidence import to_original
from foodseg.system import load_segmenter

ROW = ExternalRow("lisa-7b", "LISA 7B", "generate-then-segment")
SIDE = 168
PHOTO = replace(sample(0), width=336, height=252)  # twice and one and a half times the model image
HERE = Reference((20, 30, 120, 105), (66, 60))
THERE = Reference((200, 15, 300, 66), (250, 30))
PIXELS = '{"bbox_2d": [10, 20, 60, 70], "point_2d": [33, 40]}'  # HERE in the model image
OTHER = '{"bbox_2d": [100, 10, 150, 44], "point_2d": [125, 20]}'
THOUGHT = "<think>It is the kiwi.</think>\n"
PROSE = "The kiwi lies at (10, 20, 60, 70), around (33, 40)."
PAIR = '{"bbox": [10, 20, 60, 70], "points_1": [33, 40], "points_2": [12, 24]}'
BOTH_POINTS = replace(HERE, more=((24, 36, 1),))
LABELLED = '{"bbox_2d": [10, 20, 60, 70], "points": [[1, 2, 0], [33, 40, 1]]}'
ORIGINAL = '{"bbox_2d": [20, 30, 120, 105], "point_2d": [66, 60]}'
UNIT = '{"bbox_2d": [0.0595, 0.119, 0.357, 0.4166], "point_2d": [0.1964, 0.238]}'
THOUSAND = '{"bbox_2d": [59.5, 119, 357, 416.6], "point_2d": [196.4, 238]}'
CORNER = Reference((0, 0, 335, 251), (335, 251))
TWICE = f"{THOUGHT}<answer>[{PIXELS}]</answer> No: <answer>[{OTHER}]</answer>"

FORMS = {
    "the paper's": (f"{THOUGHT}<answer>[{PIXELS}, {OTHER}]</answer>", "model-pixels", HERE, THERE),
    "a fence": (f"```json\n[{PIXELS}]\n```", "model-pixels", HERE),
    "a fence inside": (f"<answer>```json\n[{PIXELS}]```</answer>", "model-pixels", HERE),
    "a bare dict": (f"{THOUGHT}<answer>{PIXELS}</answer>", "model-pixels", HERE),
    "dicts without a list": (f"<answer>{PIXELS} {OTHER}</answer>", "model-pixels", HERE, THERE),
    "no tags": (f"[{PIXELS}]", "model-pixels", HERE),
    "another key": (f"[{PIXELS.replace('bbox_2d', 'bbox')}]", "model-pixels", HERE),
    "two points": (f"<answer>{PAIR}</answer>", "model-pixels", BOTH_POINTS),
    "one of two points": (PAIR.replace("points_2", "x"), "model-pixels", HERE),
    "labelled points": (f"<answer>[{LABELLED}]</answer>", "model-pixels", HERE),
    "prose": (PROSE, "model-pixels", HERE),
    "a thought of boxes": (f"<think>{OTHER}?</think> ```[{PIXELS}]```", "model-pixels", HERE),
    "never closed": (f"{THOUGHT}<answer>[{PIXELS}", "model-pixels", HERE),
    "a rethink": (
        f"{THOUGHT}<answer>[{OTHER}]</answer><rethink>No {OTHER}.</rethink>"
        f"<answer>[{PIXELS}]</answer>",
        "model-pixels",
        HERE,
    ),
    "a rethink of a thought": (
        f"<think>{OTHER}</think><rethink>So.</rethink>{PIXELS}",
        "model-pixels",
        HERE,
    ),
    "a rethink that agrees": (
        f"<answer>{PIXELS}</answer><rethink>Yes.</rethink>",
        "model-pixels",
        HERE,
    ),
    "several answers": (TWICE, "model-pixels", HERE),
    "several, the last": (TWICE, "model-pixels,last", THERE),
    "the only one is the last": (f"<answer>[{PIXELS}]</answer>", "model-pixels,last", HERE),
    "original pixels": (f"[{ORIGINAL}]", "original-pixels", HERE),
    "shares": (f"<answer>[{UNIT}]</answer>", "unit", HERE),
    "thousandths": (f"{THOUGHT}<answer>[{THOUSAND}]</answer>", "thousand", HERE),
    "thousandths, two points": (
        THOUSAND.replace("point_2d", "points_1")[:-1] + ', "points_2": [71.4, 142.8]}',
        "thousand",
        BOTH_POINTS,
    ),
    "outside": ('{"bbox_2d": [-5, -1, 1e308, 2000], "point_2d": [1e9, 1e9]}', "thousand", CORNER),
    "the last pixel": (
        '{"bbox": [0, 0, 335, 251], "point_2d": [335, 251]}',
        "original-pixels",
        CORNER,
    ),
    # Stated otherwise it is read otherwise: nothing is guessed from the size of the numbers.
    "shares as pixels": (
        f"[{UNIT}]",
        "model-pixels",
        Reference((0, 0, 1, 1), (0, 0)),
    ),
    "no point": ('<answer>[{"bbox_2d": [10, 20, 60, 70]}]</answer>', "model-pixels"),
    "no answer": ("I see no kiwi.", "model-pixels"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_as_stated(form):
    text, stated, *expected = FORMS[form]
    reading = parse_reading(stated)
    assert reading.to_original(reading.read(text), PHOTO, SIDE) == tuple(expected)


def test_pixels_of_the_model_image_are_placed_as_our_own():
    reading = Reading("model-pixels")
    for x in (-3, 0, 0.4, 83.6, 167, 167.4, 1e300):
        text = f"[{x}, 1, 200, 90.5] [{x}, 2]"
        answer = reading.read(text)
        assert answer.parsed
        assert reading.to_original(answer, PHOTO, SIDE) == to_original(answer, PHOTO, SIDE)


@pytest.mark.parametrize("text", ["", "pixels", "unit,", "unit,second", "Unit", "unit, last"])
def test_a_reading_that_is_not_known_is_refused(text):
    with pytest.raises(DataError, match=r"reading: .*READING=model-pixels\|original-pixels\|unit"):
        parse_reading(text)


@pytest.fixture()
def two(empty_home):
    """A home with test_report's two questions."""
    save_samples([sample(0), sample(1)], SMOKE.samples_file("test"))
    return empty_home


LINES = [{"id": f"test-{n}-0", "text": "I see nothing."} for n in (0, 1)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"id": "test-0-0"}', "line 1: wrong shape; write {.id.: sample id, .text.: completion}"),
        ('{"id": 3, "text": "x"}', "line 1: wrong shape"),
        ('{"id": "test-0-0", "text": null}', "wrong shape"),
        ("\n".join([json.dumps(LINES[0])] * 2), "line 2: repeated sample_id; 'test-0-0' stands in"),
        ('{"id": "test-0-0", "text": "x"', "broken JSON"),
        ('{"id": "test-7-0", "text": "x"}', "none of its 1 entries is named after a test question"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_whole(two, text, reason):
    path = two / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=f"answers.jsonl(.|\n)*{reason}"):
        score_completions(SMOKE, path, ROW, Reading("unit"))
    assert not (two / "runs").exists()
    with pytest.raises(DataError, match="there is no such file"):
        read_completions(two)


def test_texts_without_a_reading_are_told_what_to_state(two, capsys):
    path = two / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    typed = [str(path), "--preset", "smoke", "--protocol", ROW.protocol]
    assert main(typed) == 1
    assert "READING=model-pixels|original-pixels|unit|thousand" in capsys.readouterr().err
    assert main([*typed, "--reading", "pixels"]) == 1
    assert "reading: 'pixels' is none" in capsys.readouterr().err


def rows_of(*names: str) -> list[bytes]:
    return [(SMOKE.predictions_folder(n) / "predictions.jsonl").read_bytes() for n in names]


def test_our_own_completions_score_as_the_table_has_them(test_samples, kitchen_mllm, capsys):
    segmenter = load_segmenter(SMOKE)
    base = evaluate(SMOKE, "base", test_samples, kitchen_mllm, segmenter)
    texts = [p.completion for p in load_predictions(SMOKE.predictions_folder("base"))]
    any_form = evaluate_any_form(SMOKE, test_samples, texts, segmenter)
    assert base["giou"] != any_form["giou"] > 0
    own = SMOKE.predictions_folder("base") / "predictions.jsonl"
    typed = [str(own), "--preset", "smoke", "--protocol", ROW.protocol, "--name", "ours"]
    assert main([*typed, "--reading", "model-pixels"]) == 0
    names = "ours-strict", "ours-lenient"
    strict, lenient = (load_result(SMOKE.predictions_folder(name)) for name in names)
    for ours, table in ((strict, base), (lenient, any_form)):
        numbers = "samples giou ciou giou_interval ciou_interval parse_rate foods_right predictions"
        assert [ours[name] for name in numbers.split()] == [table[n] for n in numbers.split()]
    assert rows_of(*names) == rows_of("base", ANY_FORM)
    said = capsys.readouterr().out
    unread = strict["completions"]["failures"]
    assert sum(unread.values()) == round(len(texts) * (1 - base["parse_rate"])) > 0
    assert f"Not read, strict: {', '.join(f'{k} {n}' for k, n in unread.items())}." in said
    gained = any_form["giou"] - base["giou"]
    assert f"less strictly: gIoU {gained:+.3f} (" in said
    board = SMOKE.figures / "leaderboard.md"
    line = "| ours-lenient | ours | generate-then-segment | lenient: model-pixels |"
    assert line in board.read_text()
    # Scored again, the same bytes.
    files = [board, board.with_suffix(".csv")]
    before = [file.read_bytes() for file in files], rows_of(*names)
    assert main([*typed, "--reading", "model-pixels"]) == 0
    assert ([file.read_bytes() for file in files], rows_of(*names)) == before


def stand_in(preset, row, samples, answers, references, segmenter):
    """In SAM2's place: what is read is right."""
    return [
        prediction(int(s.sample_id[5]), 6 * a.parsed, 6, parsed=a.parsed, completion=a.completion)
        for s, a in zip(samples, answers, strict=True)
    ]


@pytest.fixture()
def drawn(two, monkeypatch):
    monkeypatch.setattr(scoring, "load_segmenter", lambda preset: None)
    monkeypatch.setattr(scoring, "segment", stand_in)
    return two


def write_texts(folder, *texts):
    path = folder / "answers.jsonl"
    lines = [{"id": f"test-{n}-0", "text": text} for n, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def board_of(*numbers):
    file = SMOKE.figures / "leaderboard.csv"
    return leaderboard.leaderboard_frame(SMOKE, [sample(number) for number in numbers], file)


def test_a_missing_completion_is_named_and_no_failure_of_form(drawn):
    strict, lenient = score_completions(SMOKE, write_texts(drawn, PROSE), ROW, Reading("unit"))
    assert strict["completions"]["missing"] == ["test-1-0"]
    assert strict["completions"]["failures"] == {"prose": 1}
    assert lenient["completions"]["failures"] == {}
    assert (strict["giou"], lenient["giou"], lenient["parse_rate"]) == (0, 0.5, 0.5)


def test_both_readings_are_rows_of_the_table_and_of_the_leaderboard(drawn):
    write_all_rows()
    path = write_texts(drawn, PROSE, f"{THOUGHT}<answer>[{PIXELS}]</answer>")
    score_completions(SMOKE, path, ROW, Reading("thousand", "last"))
    frame = results.results_frame(SMOKE, [0, 1])
    names = [f"{ROW.title}, {reading}" for reading in ("lenient: thousand, last answer", "strict")]
    assert list(frame.index[4 + 1 : 4 + 3]) == names
    assert list(results.readable(frame).loc[names, "parsed"]) == ["100%", "50%"]
    notes = results_notes.notes(SMOKE, [0, 1])
    assert all(f"* {name}: given 100%; gIoU less DAPO's" in notes for name in names)
    provenance = results.provenance_frame(SMOKE, [0, 1])
    assert list(provenance.index[-2:]) == ["lisa-7b-lenient", "lisa-7b-strict"]
    board = board_of(0, 1)
    assert list(board.index[:2]) == ["grpo-seed1", "lisa-7b-lenient"]
    assert board.loc["lisa-7b-strict", "less_dapo"] == pytest.approx(0)
    assert board["less_dapo"].isna().sum() == 2  # DAPO's own
    assert board_of(0, 1).equals(board)


def test_the_leaderboard_leaves_out_rows_of_other_questions_and_puts_forced_ones_last(drawn):
    write_all_rows()
    path = write_texts(drawn, PROSE, PROSE)
    score_completions(SMOKE, path, replace(ROW, protocol="teacher-forced"), Reading("unit"))
    for baseline in BASELINES:
        write_row(seed_rows(baseline, [0])[0], [prediction(0, 1), prediction(1, 1)])
    board = board_of(0, 1)
    assert list(board.index[-2:]) == ["lisa-7b-lenient", "lisa-7b-strict"]
    assert {"sft-seed0", "lisa-seed0", "lisa-ingredients-seed0"} <= set(board.index)
    write_row("grpo-seed0", [prediction(0, 10)])
    assert list(board_of(0).index) == ["grpo-seed0"]


def test_a_row_scored_as_masks_keeps_its_name_beside_the_readings(drawn):
    results_of = score_completions(SMOKE, write_texts(drawn, PROSE), ROW, Reading("unit"))
    assert [one["row"] for one in results_of] == ["lisa-7b-strict", "lisa-7b-lenient"]
    with pytest.raises(DataError, match="system: the row 'lisa-7b-strict' is"):
        other = ExternalRow("other", ROW.system, ROW.protocol)
        score_completions(SMOKE, write_texts(drawn, PROSE), other, Reading("unit"))


def test_rows_not_measured_here_stay_on_the_leaderboard_and_those_taken_out_do_not(drawn):
    write_all_rows()
    score_completions(SMOKE, write_texts(drawn, PROSE, PROSE), ROW, Reading("unit"))
    files = [leaderboard.write_leaderboard(SMOKE), SMOKE.figures / "leaderboard.csv"]
    whole = board_of(0, 1)
    for row in ("lisa-7b-strict", "grpo-seed0", "dapo-seed0", "dapo-seed1", "bound"):
        shutil.rmtree(SMOKE.predictions_folder(row))
    leaderboard.write_leaderboard(SMOKE)
    fresh = [file.read_bytes() for file in files]
    board = board_of(0, 1)
    assert set(whole.index) - set(board.index) == {"lisa-7b-strict"}
    assert list(board.index[~board["here"]]) == ["bound", "dapo-seed0", "dapo-seed1", "grpo-seed0"]
    kept = board.loc["bound"].drop("here"), whole.loc["bound"].drop("here")
    assert kept[0].equals(kept[1])
    assert b"| abc, not measured here | Xeon |" in fresh[0]
    leaderboard.write_leaderboard(SMOKE)
    assert [file.read_bytes() for file in files] == fresh
    save_samples([sample(0)], SMOKE.samples_file("test"))  # other questions, other numbers
    write_row("base", [prediction(0, 1)])
    leaderboard.write_leaderboard(SMOKE)
    assert list(board_of(0).index) == ["base"]
