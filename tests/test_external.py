"""Another system's masks become a row: read as meant or refused by name, never half written."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from test_report import MASK, prediction, sample, write_all_rows, write_row

from foodseg.common.errors import DataError
from foodseg.data.references import encode_mask
from foodseg.data.samples import save_samples
from foodseg.evaluation import predictions as saving
from foodseg.evaluation.external import score as scoring
from foodseg.evaluation.external.__main__ import main
from foodseg.evaluation.external.describe import describe
from foodseg.evaluation.external.entries import named
from foodseg.evaluation.external.masks import decode_rle
from foodseg.evaluation.external.rows import ExternalRow, external_rows
from foodseg.evaluation.external.score import score
from foodseg.evaluation.predictions import load_predictions, load_result
from foodseg.presets import SMOKE
from foodseg.report import bars, results, results_notes
from foodseg.supervised.targets import LISA

SIZE = (6, 4)  # of test_report's photos; MASK has 6 pixels of them
HALF = MASK.copy()
HALF[2] = False  # 3 of its 6 pixels
ROW = ExternalRow("lisa-7b", "LISA 7B", "generate-then-segment")


@pytest.fixture()
def home(empty_home):
    save_samples([sample(0), sample(1)], SMOKE.samples_file("test"))
    (empty_home / "masks").mkdir()
    return empty_home


def write_masks(home, *masks, first=0):
    """Masks of the questions test-0-0, test-1-0 and so on, from the first."""
    for number, mask in enumerate(masks, first):
        Image.fromarray(mask).save(home / "masks" / f"test-{number}-0.png")
    return home / "masks"


def refused(home, words, row=ROW):
    """The masks are refused in these words, and nothing is written."""
    with pytest.raises(DataError, match=words):
        score(SMOKE, home / "masks", row)
    assert not SMOKE.predictions_folder(row.name).exists()


def with_palette(mask: np.ndarray, *colours: int) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(colours)
    return image


GREY = MASK.astype(np.uint8)
OPAQUE = np.full_like(GREY, 255)
IMAGES = {
    "1 bit": Image.fromarray(MASK),
    "0 and 1": Image.fromarray(GREY),
    "0 and 255": Image.fromarray(GREY * 255),
    "16 bit": Image.fromarray(GREY.astype(np.uint16) * 40000),
    "palette": with_palette(GREY * 7, 0, 0, 0, *[200, 30, 40] * 255),
    # Index 1 is black too, but no pixel has it.
    "palette of two blacks": with_palette(GREY * 2, 0, 0, 0, 0, 0, 0, 9, 9, 9),
    "RGB": Image.fromarray(np.stack([GREY * 100] * 3, axis=-1)),
    "RGBA": Image.fromarray(np.stack([GREY * 100] * 3 + [OPAQUE], axis=-1)),
    "LA": Image.fromarray(np.stack([GREY * 100, OPAQUE], axis=-1)),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_png_is_the_same_mask(home, kind):
    for number in (0, 1):
        IMAGES[kind].save(home / "masks" / f"test-{number}-0.png")
    result = score(SMOKE, home / "masks", ROW)
    assert (result["giou"], result["ciou"], result["parse_rate"]) == (1, 1, 1)
    assert result["masks"]["many_valued"] == []
    (first, _) = load_predictions(SMOKE.predictions_folder("lisa-7b"))
    assert first.mask == encode_mask(MASK)


def png(image: np.ndarray | Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind)
    return file.getvalue()


WHITE = GREY * 255
NOISE = np.random.default_rng(0).integers(0, 255, (4, 6), np.uint8)
BROKEN = {
    "odd-sized mask, 4x6; the photo has 6x4": png(WHITE.T),
    "JPEG under a PNG's name": png(WHITE, "JPEG"),
    "coloured pixels": png(np.stack([WHITE, WHITE, WHITE // 2], axis=-1)),
    "transparent pixels": png(np.stack([WHITE, WHITE], axis=-1)),
    "it can be read in two ways": png(with_palette(MASK, 255, 255, 255, 0, 0, 0)),
    "unreadable": png(NOISE)[:-30],
    "unreadable mask; this is no image": b"no picture",
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_mask_that_cannot_be_used_is_named_and_nothing_is_written(home, reason):
    (write_masks(home, MASK, MASK) / "test-1-0.png").write_bytes(BROKEN[reason])
    words = f"1 masks can't be used, so none was scored(.|\n)*test-1-0.png(.|\n)*{reason}"
    refused(home, words)


def test_masks_of_more_than_two_values_are_scored_and_reported(home):
    soft = MASK.astype(np.uint8) * 200
    soft[0, 0] = 3
    result = score(SMOKE, write_masks(home, soft, MASK), ROW)
    assert result["giou"] == pytest.approx((6 / 7 + 1) / 2)
    assert result["masks"]["many_valued"] == ["test-0-0"]
    assert "1 masks have more than two values" in describe([result])


def test_run_lengths_are_decoded_as_the_library_does():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < rng.random()
        text = encode_mask(mask)
        runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=2, append=2)))
        counts = [0, *runs.tolist()] if mask[0, 0] else runs.tolist()
        size = (int(width), int(height))
        for rle in (text, text | {"counts": counts}):
            assert np.array_equal(decode_rle(rle, size, "f", "x"), mask)
        assert np.array_equal(coco.decode(text), mask)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counts": [9, 2]}, "broken run lengths; they cover 11 of 24 pixels"),
        ({"counts": [25]}, "broken run lengths"),
        ({"counts": [-1, 25]}, "broken run lengths"),
        ({"counts": []}, "broken run lengths"),
        ({"counts": ""}, "broken run lengths"),
        ({"counts": encode_mask(MASK)["counts"][:-1]}, "broken run lengths"),
        ({"counts": "P"}, "no run lengths"),  # 32: more follows, and nothing does
        ({"counts": "~"}, "no run lengths"),
        ({"counts": None}, "no run lengths"),
        ({"counts": ["a"]}, "no run lengths"),
        ({"counts": [11.5, 12.5]}, "no run lengths"),
        ({"counts": [float("inf"), 24]}, "no run lengths"),
        ({"counts": [True, 23]}, "no run lengths"),
        ({"size": [4, 6.5]}, "no run lengths"),
        ({"size": [6, 4]}, "odd-sized mask, 4x6; the photo has 6x4"),
        ({"size": 24}, "no run lengths"),
    ],
)
def test_broken_run_lengths_are_refused(change, reason):
    with pytest.raises(DataError) as error:
        decode_rle(encode_mask(MASK) | change, SIZE, "predictions.json", "line 3")
    assert str(error.value).startswith("predictions.json, line 3: ") and reason in str(error.value)


NAMED = [{"sample_id": f"test-{n}-0", "segmentation": encode_mask(HALF)} for n in (0, 1)]
LISTS = {
    "predictions.json": json.dumps({one["sample_id"]: one["segmentation"] for one in NAMED}),
    "list.json": json.dumps(NAMED),
    "predictions.jsonl": "\n\n".join(map(json.dumps, NAMED)),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_file_of_run_lengths_is_scored(home, name):
    path = home / "masks" / name
    path.write_text(LISTS[name])
    result = score(SMOKE, path if name == "list.json" else path.parent, ROW)
    assert result["giou"] == 0.5 and result["masks"]["source"] in (name, "masks")


def test_own_predictions_scored_again_give_the_same_numbers(home):
    first = score(SMOKE, write_masks(home, HALF), ROW)
    again = replace(ROW, name="again", system="again")
    second = score(SMOKE, SMOKE.predictions_folder("lisa-7b") / "predictions.jsonl", again)
    assert (second["giou"], second["ciou"]) == (0.25, 0.25)
    assert first["giou_interval"] == second["giou_interval"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"sample_id": "test-0-0"', "broken JSON"),
        ('{"sample_id": "test-0-0", "segmentation": {}}\n{"sample_id": "test-0-0"}', "wrong shape"),
        ('{"sample_id": "test-0-0", "segmentation": {}}\n' * 2, "line 2: repeated sample_id"),
    ],
)
def test_a_broken_list_is_refused(home, text, reason):
    (home / "masks" / "predictions.jsonl").write_text(text)
    refused(home, reason)


def test_a_missing_mask_counts_as_empty_and_is_named(home):
    folder = write_masks(home, HALF)
    write_masks(home, MASK, first=7)
    (folder / "notes.txt").write_text("x")
    result = score(SMOKE, folder, ROW)
    # 3 of 6 pixels, and 0 of 6.
    assert (result["giou"], result["ciou"], result["parse_rate"]) == (0.25, 0.25, 0.5)
    masks = {"given": 1, "missing": ["test-1-0"], "unknown": ["test-7-0"], "many_valued": []}
    masks |= {"other_files": ["notes.txt"], "source": "masks"}
    assert result["masks"] == masks | {"sha256": result["masks"]["sha256"]}
    first, second = load_predictions(SMOKE.predictions_folder("lisa-7b"))
    assert (first.sample_id, first.intersection, first.union) == ("test-0-0", 3, 6)
    assert (second.intersection, second.union) == (0, 6) and (first.parsed, second.parsed) == (1, 0)
    said = describe([result])
    assert "| lisa-7b | LISA 7B | generate-then-segment | masks | 1 of 2 | masks | 0.250 (" in said
    assert "1 questions have no answer and count as empty: test-1-0." in said
    assert "1 entries are named after no test question and were left out: test-7-0." in said
    assert "notes.txt" in said
    assert named(range(30)).endswith("18, 19, and 10 more")  # cut in print only
    assert "more" not in named(range(20))


def test_folders_without_a_mask_of_these_questions_are_refused(home):
    refused(home, "0 PNG files and 0 of")
    write_masks(home, MASK, first=7)
    refused(home, "named after a test question")
    (home / "masks/predictions.json").write_text("{}")
    refused(home, "1 PNG files and 1 of")
    shutil.rmtree(home / "masks")
    refused(home, "there is no such folder")


def test_two_files_for_one_question_are_refused(home):
    folder = write_masks(home, MASK)
    shutil.copy(folder / "test-0-0.png", folder / "test-0-0.PNG")
    refused(home, "test-0-0.PNG, name: repeated sample_id")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"protocol": ""},
            "say how the answers were made, generate-then-segment or teacher-forced",
        ),
        ({"name": "base"}, "no name of the kit's own rows"),
        ({"name": "knowledge"}, "no name of the kit's own rows"),
        ({"name": "dapo-seed0"}, "no name of the kit's own rows"),
        ({"name": "../x"}, "no name for another system's row"),
        ({"name": ""}, "no name for another system's row"),
        ({"system": " "}, "no title"),
    ],
)
def test_a_row_needs_a_name_and_a_protocol(home, changes, reason):
    write_masks(home, MASK)
    refused(home, reason, replace(ROW, **changes))
    assert not (home / "runs").exists()


def test_two_rows_cannot_have_one_title_but_one_can_be_replaced(home):
    folder = write_masks(home, MASK)
    score(SMOKE, folder, ROW)
    with pytest.raises(DataError, match="the row 'lisa-7b' is 'LISA 7B, generate-then-segment'"):
        score(SMOKE, folder, replace(ROW, name="other"))
    score(SMOKE, folder, replace(ROW, name="forced", protocol="teacher-forced"))
    write_masks(home, MASK, first=1)
    assert score(SMOKE, folder, ROW)["giou"] == 1
    assert [row.name for row in external_rows(SMOKE)] == ["lisa-7b", "forced"]


def interrupt(*_):
    raise KeyboardInterrupt


def command(home, *options):
    return main([str(home / "masks"), "--preset", "smoke", "--protocol", ROW.protocol, *options])


def test_an_interrupted_scoring_leaves_the_row_before_or_none(home, monkeypatch, capsys):
    write_masks(home, MASK)
    assert command(home, "--name", "lisa-7b") == 0
    before = load_result(SMOKE.predictions_folder("lisa-7b"))
    write_masks(home, MASK, first=1)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "read_mask", interrupt)
        assert command(home, "--name", "lisa-7b") == 130
    assert load_result(SMOKE.predictions_folder("lisa-7b")) == before
    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_json", interrupt)
        assert command(home, "--name", "lisa-7b") == 130
    assert external_rows(SMOKE) == []
    assert "interrupted; start it again" in capsys.readouterr().err


def test_the_command_names_the_row_after_the_folder_and_prints_it(home, capsys):
    write_masks(home, MASK)
    assert command(home) == 0
    assert "| masks | masks | generate-then-segment | masks | 1 of 2 |" in capsys.readouterr().out
    assert main(["", "--preset", "smoke", "--protocol", ROW.protocol]) == 1
    assert "PREDICTIONS=folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["masks", "--preset", "smoke"])
    assert "--protocol" in capsys.readouterr().err


def test_masks_are_scored_without_the_libraries_of_the_models(home):
    """They take longer to import than masks take to be scored."""
    folder = write_masks(home, MASK, MASK)
    code = (
        "import sys; from foodseg.evaluation.external.__main__ import main; "
        "status = main(sys.argv[1:]); "
        "sys.exit(status or str({'torch', 'transformers', 'peft', 'sam2'} & set(sys.modules)))"
    )
    options = [str(folder), "--preset", "smoke", "--protocol", ROW.protocol]
    run = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True)
    assert "| 2 of 2 | masks | 1.000" in run.stdout and run.stderr.endswith("set()\n")


def test_the_results_table_has_the_row_with_its_protocol(home):
    write_all_rows()
    without = results.results_frame(SMOKE, [0, 1])
    folder = write_masks(home, HALF, MASK)
    score(SMOKE, folder, replace(ROW, protocol="teacher-forced"))
    frame = results.results_frame(SMOKE, [0, 1])
    title = "LISA 7B, teacher-forced"
    assert list(frame.index[4:7]) == ["FoodLMM-Chat 7B", title, "GRPO"]
    assert frame.drop(title).equals(without)
    row = results.readable(frame).loc[title]
    assert (row["gIoU"], row["paper: gIoU"]) == ("0.750", "–")
    # Nobody knows which foods a mask names.
    assert (row["parsed"], row["food right"]) == ("–", "–")
    notes = results_notes.notes(SMOKE, [0, 1])
    assert "teacher-forced" in notes and "were not measured here" not in notes
    # 0.75 less 0.5 on each of two plates.
    assert f"* {title}: given 100%; gIoU less DAPO's +0.250 (" in notes
    assert bars.results_bars(frame, results.seed_values(SMOKE, [0, 1])).axes
    provenance = results.provenance_frame(SMOKE, [0, 1])
    assert provenance.index[-1] == "lisa-7b"
    assert provenance.loc["lisa-7b", "torch"] == "–"
    assert (
        load_result(SMOKE.predictions_folder("lisa-7b"))["masks"]["sha256"]
        in provenance.loc["lisa-7b", "adapter"]
    )


def test_a_row_may_be_called_as_a_baseline_is_and_must_be_about_these_questions(home):
    write_all_rows()
    for seed in (0, 1):
        write_row(f"lisa-seed{seed}", [prediction(0, 2), prediction(1, 4)])
    score(SMOKE, write_masks(home, MASK, MASK), replace(ROW, name="lisa"))
    frame = results.results_frame(SMOKE, [0, 1])
    assert (frame.loc[ROW.title].giou, frame.loc[LISA.title].giou) == pytest.approx((1, 0.3))
    save_samples([sample(0), sample(2)], SMOKE.samples_file("test"))
    score(SMOKE, home / "masks", replace(ROW, name="lisa"))
    with pytest.raises(DataError, match="predictions of LISA 7B, gen.*run `make score` again"):
        results.results_frame(SMOKE, [0, 1])
