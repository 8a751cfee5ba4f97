"""Asking about any photo: the evaluation's own answer, in upright pixels, and faults in a line."""

import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import exif
from PIL import Image
from safetensors.torch import load_file, save_file

from foodseg import system as adapters
from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, write_json
from foodseg.data.photos import read_photo
from foodseg.data.references import Reference, decode_mask
from foodseg.evaluation.evaluate import evaluate
from foodseg.evaluation.predictions import load_predictions
from foodseg.models.segmenter import save_decoder
from foodseg.presets import KITCHEN, PAPER, SMOKE
from foodseg.recipes import GRPO
from foodseg.segment import __main__ as command
from foodseg.segment.answer import load_system, segment
from foodseg.segment.picture import picture_png, scaled_down
from foodseg.segment.written import as_json, describe
from foodseg.system import load_segmenter
from foodseg.training.trainer import run_config

QUESTION = "Show me the food that is sold at a fruit stand."
TWO = (
    "<think>It is the rice.</think><answer>"
    '[{"bbox_2d": [0, 0, 83, 167], "point_2d": [40, 80]},'
    ' {"bbox_2d": [84, 84, 999, 100], "point_2d": [100, 90]}]</answer>'
)


@pytest.fixture(scope="module")
def system():
    return load_system(SMOKE)


@pytest.fixture(scope="module")
def knowing_system(knowing):
    return load_system(replace(SMOKE, mllm=knowing))


@pytest.fixture()
def plate(test_samples):
    return SMOKE.dataset / test_samples[0].image


@pytest.fixture()
def run(system, monkeypatch, capsys):
    """The command line with the base's models already loaded: (status, stdout, stderr)."""
    monkeypatch.setattr(command, "load_system", lambda *_: system)

    def call(*arguments):
        status = command.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


def test_it_answers_as_the_evaluation_does(test_samples, knowing_system):
    sample = replace(test_samples[0], question=QUESTION)
    evaluate(SMOKE, "one", [sample], knowing_system.mllm, knowing_system.segmenter)
    (expected,) = load_predictions(SMOKE.predictions_folder("one"))
    answer = segment(knowing_system, read_photo(SMOKE.dataset / sample.image), QUESTION)
    assert expected.parsed and answer.parsed
    assert (answer.text, answer.references) == (expected.completion, expected.references)
    assert np.array_equal(answer.mask, decode_mask(expected.mask)) and answer.mask.any()


def test_a_turned_photo_is_answered_in_the_pixels_that_one_sees(plate, tmp_path, knowing_system):
    upright = Image.open(plate).convert("RGB")
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.png", exif=exif(6))
    turned, plain = (
        segment(knowing_system, read_photo(photo), QUESTION)
        for photo in (tmp_path / "turned.png", plate)
    )
    assert turned.references == plain.references and np.array_equal(turned.masks, plain.masks)
    written = as_json(turned, knowing_system)
    assert (written["width"], written["height"]) == upright.size
    assert written["exif_orientation"] == 6 and "after EXIF's orientation" in written["pixels"]
    assert "turned upright" in describe(turned) and "turned upright" not in describe(plain)


def test_all_that_is_asked_for_is_written_and_agrees(plate, tmp_path, says, run):
    says(TWO)
    picture, mask_file, json_file = (tmp_path / name for name in ("o.png", "m.png", "a.json"))
    outputs = ["-o", picture, "--mask", mask_file, "--json", json_file]
    status, out, err = run(plate, " which\n food? ", *outputs)
    assert status == 0
    answer = json.loads(json_file.read_text())
    assert (answer["question"], answer["thinking"]) == ("which food?", "It is the rice.")
    assert answer["text"] == TWO
    width, height = Image.open(plate).size
    scale = [width / 168, height / 168] * 2
    assert [one["box"] for one in answer["references"]] == [
        [int(value * factor + 0.5) for value, factor in zip(box, scale, strict=True)]
        for box in ([0, 0, 83, 167], [84, 84, 167, 100])
    ]
    masks = [decode_mask(one["mask"]) for one in answer["references"]]
    union = decode_mask(answer["mask"])
    assert union.shape == (height, width) and np.array_equal(union, masks[0] | masks[1])
    assert answer["area"] == union.sum()
    mask = Image.open(mask_file)
    assert mask.mode == "L" and np.array_equal(np.asarray(mask), union * np.uint8(255))
    assert Image.open(picture).width > 400
    assert list(answer["seconds"]) == ["load", "prompt", "answer", "embedding", "masks"]
    assert answer["provenance"]["adapter"] is None and answer["provenance"]["preset"] == "smoke"
    assert "It is the rice." in out and str(answer["references"][1]["box"]) in out
    assert "the base model, without an adapter" in err and str(mask_file) in err
    # Without a file's name, JSON is all that stands on stdout.
    status, out, _ = run(plate, "which food?", "--json")
    assert status == 0 and json.loads(out)["parsed"] is True


def test_labelled_points_are_an_answer_too(plate, says, system):
    says('<answer>[{"bbox_2d": [0, 0, 83, 167], "points": [[40, 80, 1], [9, 9, 0]]}]</answer>')
    (found,) = segment(system, read_photo(plate), "which food?").references
    assert [label for *_, label in found.more] == [0]


@pytest.mark.parametrize("text", ["I see no food.", "", '<answer>[{"bbox_2d": [1, 2]}]</answer>'])
def test_an_answer_that_cannot_be_parsed_is_said_and_is_no_fault(plate, tmp_path, says, run, text):
    says(text)
    status, out, _ = run(plate, "why?", "-o", tmp_path / "o.png", "--mask", tmp_path / "m.png")
    assert status == 0 and "no answer could be parsed" in out and (text or "nothing") in out
    assert not np.asarray(Image.open(tmp_path / "m.png")).any()
    assert (tmp_path / "o.png").exists()
    status, out, _ = run(plate, "why?", "--json")
    answer = json.loads(out)
    assert (answer["parsed"], answer["references"], answer["area"]) == (False, [], 0)
    assert answer["text"] == text and not decode_mask(answer["mask"]).any()


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000), (2500, 1900)])
def test_photos_of_any_size(tmp_path, says, run, size):
    says(TWO)
    Image.new("RGB", size, (90, 120, 40)).save(tmp_path / "a.png")
    status, out, _ = run(tmp_path / "a.png", "which food?", "-o", tmp_path / "o.png", "--json")
    answer = json.loads(out)
    assert status == 0 and decode_mask(answer["mask"]).shape == size[::-1]
    for one in answer["references"]:
        assert 0 <= one["box"][0] <= one["box"][2] < size[0]
        assert 0 <= one["box"][1] <= one["box"][3] < size[1]
    picture = Image.open(tmp_path / "o.png")
    assert max(picture.size) < 1000 and min(picture.size) > 40


def test_what_a_large_picture_shows_lies_where_it_belongs():
    photo = Image.new("RGB", (4800, 2400))
    mask = np.zeros((2400, 4800), dtype=bool)
    mask[400:800, 1200:2400] = True
    reference = Reference(box=(1200, 400, 2399, 799), point=(1800, 600))
    small, small_mask, (moved,) = scaled_down(photo, mask, [reference])
    assert small.size == (1200, 600) and small_mask.shape == (600, 1200)
    assert np.array_equal(small_mask, mask[2::4, 2::4])
    assert moved == Reference(box=(300, 100, 600, 200), point=(450, 150))


@pytest.mark.filterwarnings("error")
def test_the_picture_takes_any_words(plate, says, system):
    says(f"<think>{'$x_1$ costs 5$ ' * 200}</think>" + TWO.partition("</think>")[2])
    answer = segment(system, read_photo(plate), "what costs $5 or $6? 哪种食物含铁？")
    assert answer.parsed and picture_png(answer).startswith(b"\x89PNG")


def test_a_slip_on_the_command_line_overwrites_nothing(plate, tmp_path, run):
    photo = tmp_path / "a.png"
    Image.open(plate).save(photo)
    (tmp_path / "folder.json").mkdir()
    before = photo.read_bytes()
    for question, arguments, words in (
        ("which food?", ["-o", photo], ""),
        ("which food?", ["--mask", tmp_path / "x" / ".." / photo.name], ""),
        ("which food?", ["-o", tmp_path / "b.png", "--mask", tmp_path / "b.png"], ""),
        ("which food?", ["-o", tmp_path / "b.jpg"], ""),
        ("which food?", ["--json", photo], ""),
        ("  \n", [], "empty"),
        ("what is <|image_pad|>?", [], "leave it out"),
        ("what is \udcff?", [], "no UTF-8"),  # a byte of the command line that is none
        ("which food?", ["-o", photo / "b.png"], "b.png: it can't be written there"),
        ("which food?", ["--mask", tmp_path], f"{tmp_path}: "),
        ("which food?", ["--json", tmp_path / "folder.json"], "folder.json: it can't be written"),
    ):
        status, out, err = run(photo, question, *arguments)
        assert status == 1 and err.startswith("segment: ") and err.count("\n") == 1, err
        assert words in err and not out
    assert photo.read_bytes() == before and [*tmp_path.glob("b.*")] == []


@pytest.mark.parametrize(
    "option, name", [("-o", "o.png"), ("--mask", "m.png"), ("--json", "j.json")]
)
def test_a_full_disk_leaves_nothing_and_names_the_output(
    plate, tmp_path, says, run, monkeypatch, option, name
):
    says(TWO)

    def full(_):  # as the system says it: without a file's name
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out" / name
    status, _, err = run(plate, "which food?", option, out)
    assert status == 1 and list(out.parent.iterdir()) == []
    said = f"segment: {out}: it can't be written (No space left on device); make room"
    assert err.splitlines()[-1].startswith(said)


def test_input_that_is_no_use_ends_with_one_sentence(plate, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("words")
    cases = [(tmp_path / name, [], str(tmp_path / name)) for name in ("none.jpg", "text.jpg", ".")]
    cases.append((plate, ["--preset", "lunch"], "smoke, kitchen, "))
    for photo, options, words in cases:
        assert command.main([str(photo), "which food?", *options]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and words in err


def test_a_test_plate_comes_with_its_questions(plate, test_samples, tmp_path, capsys):
    moved = tmp_path / "any name.jpg"
    shutil.copy(plate, moved)
    own = [sample.question for sample in test_samples if sample.image == test_samples[0].image]
    for photo in (plate, moved):
        assert command.main([str(photo), "--suggest", "--preset", "smoke"]) == 0
        assert capsys.readouterr().out.splitlines() == own
    Image.new("RGB", (40, 30)).save(tmp_path / "mine.png")
    for photo, why in (("mine.png", "no test plate of preset smoke"), ("none.png", "no such file")):
        assert command.main([str(tmp_path / photo), "--suggest", "--preset", "smoke"]) == 1
        assert why in capsys.readouterr().err.replace("there is no such file", "no such file")
    assert command.main([str(plate), QUESTION, "--suggest"]) == 1
    assert "leave the others out" in capsys.readouterr().err


def test_words_that_no_training_question_has_are_named(plate, samples, says, run):
    says(TWO)
    assert "No training question" not in run(str(plate), samples[0].question)[2]
    assert "No training question has “salmon”" in run(str(plate), "Where is the salmon?")[2]


def test_an_adapter_answers_in_the_bases_place(plate, saved_adapter, system, capsys):
    options = ["--preset", "smoke", "--adapter", str(saved_adapter), "--json"]
    assert command.main([str(plate), QUESTION, *options]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["provenance"]["adapter"] == file_hash(saved_adapter / "adapter_model.safetensors")
    assert answer["provenance"]["decoder"] is None and str(saved_adapter) in err
    assert answer["text"] != segment(system, read_photo(plate), QUESTION).text


def test_with_its_adapter_switched_off_it_answers_as_the_base(plate, saved_adapter, system):
    """So one system serves for both, where two might not fit a GPU (notebook 09)."""
    trained, photo = load_system(SMOKE, saved_adapter), read_photo(plate)
    with trained.mllm.reference_policy():
        before = segment(trained, photo, QUESTION)
    assert before.text == segment(system, photo, QUESTION).text
    assert before.text != segment(trained, photo, QUESTION).text


def test_a_decoder_beside_the_adapter_is_used(plate, saved_adapter, tmp_path, says, system):
    says(TWO)
    folder = shutil.copytree(saved_adapter, tmp_path / "adapter")
    trained = load_segmenter(SMOKE)
    for weight in trained.model.sam_mask_decoder.parameters():
        weight.data *= 1.2
    save_decoder(trained, folder / "decoder.safetensors")
    with_decoder = load_system(SMOKE, folder)
    assert with_decoder.segmenter.decoder_hash == file_hash(folder / "decoder.safetensors")
    ours, base = (segment(one, read_photo(plate), "which food?") for one in (with_decoder, system))
    assert ours.references == base.references and not np.array_equal(ours.masks, base.masks)
    assert as_json(ours, with_decoder)["provenance"]["decoder"]


FAULTS = {
    "nothing there": "no such folder",
    "the run": "name its adapter: .*adapter",
    "empty": "adapter_config.json is missing",
    "no template": "prompt_template.txt is missing",
    "cut": "copy it again",
    "baseline": "boxes and points",
    "zero": "not loaded whole",
    "larger base": "another base model",
    "longer base": "another base model",
    "other weights": "another base model",
    "other side": "840 pixels",
    "cut config": "config.json: it is no JSON",
    "list for config": "config.json: it is no run's configuration",
}


def break_adapter(run, fault):
    """Give the run's adapter one fault; returns the folder to name."""
    target, weights = run / "adapter", run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    match fault:
        case "nothing there":
            return run / "none"
        case "the run":
            return run
        case "empty":
            (run / "none").mkdir()
            return run / "none"
        case "no template":
            (target / "prompt_template.txt").unlink()
        case "cut":
            weights.write_bytes(weights.read_bytes()[:100])
        case "baseline":
            (target / "mask_head.safetensors").touch()
        case "zero":
            save_file({n: w * ("lora_A" in n) for n, w in tensors.items()}, weights)
        case "larger base":
            grown = {n: torch.cat([w, w], dim=int("lora_A" in n)) for n, w in tensors.items()}
            save_file(grown, weights)
        case "longer base":
            save_file({n.replace("layers.0", "layers.9"): w for n, w in tensors.items()}, weights)
        case "other weights":
            write_json(run / "config.json", {"base": "0" * 16})
        case "other side":
            write_json(run / "config.json", {"preset": {"image_side": 840}})
        case "cut config":
            (run / "config.json").write_text('{"base": "01')
        case "list for config":
            write_json(run / "config.json", [])
    return target


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_is_no_use_is_refused_in_one_sentence(
    saved_adapter, tmp_path, fault, monkeypatch, kitchen_mllm
):
    monkeypatch.setattr("foodseg.segment.answer.load_policy", lambda _: kitchen_mllm)
    shutil.copytree(saved_adapter, tmp_path / "adapter")
    folder = break_adapter(tmp_path, fault)
    with pytest.raises(DataError, match=FAULTS[fault]) as error:
        load_system(SMOKE, folder)
    named = tmp_path / "config.json" if "config" in fault else folder
    assert str(named) in str(error.value) and "\n" not in str(error.value)


def test_missing_weights_and_a_missing_gpu_are_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    changes = {"mllm": str(tmp_path / "none")}, {"device": "cuda"}
    for change, words in zip(changes, ("none: there is no such folder", "CUDA GPU"), strict=True):
        with pytest.raises(DataError, match=words) as error:
            load_system(replace(KITCHEN, **change))
        assert "\n" not in str(error.value)


def test_an_adapter_of_the_papers_preset_is_known_by_its_pinned_base(tmp_path):
    """The trainer writes hub id and revision down; the same preset must take its adapter back."""
    config = run_config(PAPER, GRPO, 0, [])
    assert config["base"].endswith(f"@{PAPER.mllm_revision}")
    (tmp_path / "config.json").write_text(json.dumps(config))
    adapters._check_run(tmp_path / "adapter", PAPER)
    with pytest.raises(DataError, match="trained on another base model"):
        adapters._check_run(tmp_path / "adapter", SMOKE)


def test_that_nothing_fits_is_an_answer_and_is_said(plate, tmp_path, says, run):
    says("<think>A hen points to none.</think>\n<answer>[]</answer>")
    status, out, _ = run(plate, "why?", "-o", tmp_path / "o.png", "--mask", tmp_path / "m.png")
    assert status == 0 and "A hen points to none.\nnothing in the photo fits" in out
    assert not np.asarray(Image.open(tmp_path / "m.png")).any()
    answer = json.loads(run(plate, "why?", "--json")[1])
    assert (answer["parsed"], answer["references"], answer["area"]) == (True, [], 0)
