"""The notebook's picker, used as a reader would: pick, upload, ask."""

import io
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from foodseg.presets import SMOKE
from foodseg.segment import picker
from foodseg.segment.answer import load_system
from foodseg.segment.picker import AT_ONCE, Picker, show_picker
from foodseg.segment.plates import load_plates
from foodseg.segment.written import mask_png

TEXT = (
    "<think>The <b>rice</b>.</think>"
    '<answer>[{"bbox_2d": [10, 10, 80, 90], "point_2d": [40, 50]}]</answer>'
)


@pytest.fixture(scope="module")
def system():
    return load_system(SMOKE)


@pytest.fixture()
def used(system, home, monkeypatch):
    rollouts = [SimpleNamespace(texts=(TEXT,))]
    monkeypatch.setattr("foodseg.segment.answer.sample_rollouts", lambda *_, **__: rollouts)
    return Picker(system, load_plates(SMOKE))


def upload(name, content):
    file = {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)}
    return (file | {"last_modified": datetime.now(UTC)},)


def size(widget):
    return Image.open(io.BytesIO(widget.value)).size


def thumbnails(used):
    return [child.children for child in used.strip.children]


def test_each_plate_is_a_thumbnail_and_comes_with_its_own_questions(used):
    seen = []
    for page in range(used.page.max + 1):
        used.page.value = page
        seen += [image.value for image, _ in thumbnails(used)]
        assert len(thumbnails(used)) <= AT_ONCE
    assert len(seen) == len(used.plates) == len(set(seen))
    _, button = thumbnails(used)[-1]
    button.click()
    own = used.plates[-1].questions
    assert used.question.options == tuple(own) and used.question.value == own[0]
    assert size(used.picture) == used.plates[-1].photo().image.size


def test_a_click_asks_and_shows_the_answer(used):
    before = bytes(used.picture.value)
    used.question.value = "which food?"
    used.ask.click()
    after = bytes(used.picture.value)
    assert after != before and after.startswith(b"\x89PNG")
    assert "The &lt;b&gt;rice&lt;/b&gt;." in used.words.value and not used.ask.disabled


def test_an_upload_is_asked_about_until_a_plate_is_picked(used, test_samples):
    last = test_samples[-1]
    used.upload.value = upload("mine.png", mask_png(np.ones((80, 320), bool)))
    assert size(used.picture) == (320, 80)
    used.ask.click()
    assert "(320 x 80)" in used.words.value
    used.pick(used.plates[-1])
    assert used.upload.value == () and size(used.picture) != (320, 80)
    used.ask.click()
    assert f"({last.width} x {last.height})" in used.words.value


def test_faults_are_said_where_the_answer_would_stand(used):
    used.question.value = " "
    used.ask.click()
    assert "it is empty" in used.words.value and not used.ask.disabled
    used.upload.value = upload("words.png", b"no photo")
    assert "words.png: this is no image" in used.words.value


def test_an_executed_notebook_has_a_picture_in_its_place(system, home, monkeypatch, capsys):
    shown, plates = [], load_plates(SMOKE)
    monkeypatch.setattr(picker, "display", shown.append)
    monkeypatch.setenv("FOODSEG_HEADLESS", "1")
    show_picker(system, plates)
    assert "make lab" in capsys.readouterr().out and shown.pop().data[:4] == b"\x89PNG"
    monkeypatch.delenv("FOODSEG_HEADLESS")
    show_picker(system, plates)
    assert len(shown) == 1
