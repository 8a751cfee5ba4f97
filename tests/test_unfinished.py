"""An interrupted evaluation goes on where it stopped, and believes only what is its own."""

from dataclasses import asdict, replace
from functools import partial
from unittest.mock import patch

import pytest
from conftest import watch
from faults import each_fault

from foodseg.common.errors import DataError
from foodseg.evaluation import evaluate as module
from foodseg.evaluation import predictions as saving
from foodseg.evaluation.evaluate import evaluate
from foodseg.evaluation.predictions import Prediction, compare, load_predictions, save_predictions
from foodseg.evaluation.unfinished import FILE, Unfinished
from foodseg.models.segmenter import Segmenter
from foodseg.presets import SMOKE


def test_values_are_made_once_and_again_after_a_broken_line(tmp_path):
    first = Unfinished(tmp_path, {"adapter": "a"})
    assert [first.once(name, lambda name=name: [name, 1.5]) for name in "abc"][2] == ["c", 1.5]
    file, whole = tmp_path / FILE, (tmp_path / FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    for place in range(0, len(whole), 7):  # one bit flipped
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        before = whole[:place].count(b"\n")  # whole lines, the first of which is no value
        assert list(Unfinished(tmp_path, {"adapter": "a"}).values) == list(
            "abc"[: max(before - 1, 0)]
        )
    for length in range(len(whole)):  # killed while it wrote
        file.write_bytes(whole[:length])
        kept = Unfinished(tmp_path, {"adapter": "a"})
        assert file.read_bytes() == (b"".join(lines[: whole[:length].count(b"\n")]) or lines[0])
        assert kept.once("d", lambda: 4) == 4 and kept.once("d", None) == 4


def test_values_of_other_settings_are_forgotten(tmp_path, capsys):
    Unfinished(tmp_path, {"adapter": "a"}).once("answers", lambda: 1)
    assert Unfinished(tmp_path, {"adapter": "a"}).values == {"answers": 1}
    assert "goes on after 1 parts" in capsys.readouterr().out
    assert Unfinished(tmp_path, {"adapter": "b"}).values == {}
    assert Unfinished(tmp_path, {"adapter": "a"}).values == {}


@pytest.mark.parametrize("name", ["roll_out", "read_photo"])
def test_an_evaluation_goes_on_with_the_same_bits(test_samples, kitchen_mllm, monkeypatch, name):
    """What was done before the stop, batches of answers and photos, is not done again."""
    preset = replace(SMOKE, evaluation_batch=2)
    asked = test_samples[:6]
    segmenter = Segmenter(SMOKE.segmenter_config)
    folder = preset.predictions_folder("base")
    evaluate(preset, "base", asked, kitchen_mllm, segmenter)
    whole = (folder / "predictions.jsonl").read_bytes()
    assert not (folder / FILE).exists()
    (folder / "result.json").unlink()
    total = len({sample.image for sample in asked}) if name == "read_photo" else 3
    stop = total - 1  # the last but one is done, the last is not
    with monkeypatch.context() as patched:
        done = watch(patched, module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(preset, "base", asked, kitchen_mllm, segmenter)
        assert len(done) == stop
    again = watch(monkeypatch, module, name)
    evaluate(preset, "base", asked, kitchen_mllm, segmenter)
    assert len(again) == total - stop + 1
    assert (folder / "predictions.jsonl").read_bytes() == whole and not (folder / FILE).exists()


def test_a_finished_evaluation_is_made_again_only_under_other_conditions(
    test_samples, kitchen_mllm, monkeypatch
):
    preset, asked = replace(SMOKE, evaluation_batch=2), test_samples[:2]
    segmenter = Segmenter(SMOKE.segmenter_config)
    first = evaluate(preset, "base", asked, kitchen_mllm, segmenter)
    done = watch(monkeypatch, module, "roll_out")
    assert evaluate(preset, "base", asked, kitchen_mllm, segmenter) == first and not done
    for conditions in (replace(preset, max_new_tokens=9), preset):
        evaluate(conditions, "base", asked, kitchen_mllm, segmenter)
    assert len(done) == 2
    file = preset.predictions_folder("base") / "predictions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b" ")  # changed since
    evaluate(preset, "base", asked, kitchen_mllm, segmenter)
    assert len(done) == 3 and file.read_bytes() == whole


@pytest.mark.parametrize("what", ["adapter", "decoder", "template", "question", "labelled"])
def test_whatever_decides_an_answer_makes_it_again(test_samples, kitchen_mllm, monkeypatch, what):
    asked, segmenter = test_samples[:1], Segmenter(SMOKE.segmenter_config)
    evaluate(SMOKE, "base", asked, kitchen_mllm, segmenter)
    done = watch(monkeypatch, module, "roll_out")
    if what == "adapter":
        kitchen_mllm.adapter_hash = "other"
    elif what == "decoder":
        segmenter.decoder_hash = "other"
    elif what == "template":
        kitchen_mllm.template += " "
    elif what == "question":
        asked = [replace(asked[0], question=asked[0].question + "?")]
    for _ in range(2):
        evaluate(SMOKE, "base", asked, kitchen_mllm, segmenter, what == "labelled")
    assert len(done) == 1


def test_predictions_that_were_changed_are_refused(test_samples, kitchen_mllm):
    folder = SMOKE.predictions_folder("base")
    evaluate(SMOKE, "base", test_samples[:2], kitchen_mllm, Segmenter(SMOKE.segmenter_config))
    file = folder / "predictions.jsonl"
    file.write_text(file.read_text().replace('"parsed": false', '"parsed": true', 1) + " ")
    with pytest.raises(DataError, match=r"predictions\.jsonl: it was cut or changed .* again"):
        load_predictions(folder)


def test_a_fault_at_any_change_of_a_file_costs_no_answer(test_samples):
    folder, asked, cases = SMOKE.predictions_folder("base"), test_samples[:3], 0

    def answer(sample):
        return asdict(compare(sample, sample.union_mask(), True, "It is the rice."))

    def work():
        kept = Unfinished(folder, {"adapter": None})
        rows = [kept.once(s.sample_id, partial(answer, s)) for s in asked]
        with patch.object(saving, "provenance", lambda device: {}):  # it starts git
            save_predictions(SMOKE, "base", [Prediction(**row) for row in rows], 1.0)
        return (folder / "predictions.jsonl").read_bytes()

    expected = work()
    for told in each_fault(work, folder):
        cases += 1
        if (folder / "result.json").exists():
            assert len(load_predictions(folder)) == 3
        assert work() == expected and not (folder / FILE).exists(), told
    assert cases > 45
