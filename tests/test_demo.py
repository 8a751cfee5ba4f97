"""The page in the browser: what it computes, without gradio; and its tabs, in a real Chromium."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import PROJECT, append_line
from foodseg.data.references import decode_mask, scale_reference
from foodseg.demo import markup, training
from foodseg.demo import systems as systems_module
from foodseg.demo.__main__ import main
from foodseg.demo.ask import MOST, Refusal, Reply, all_as_json, ask
from foodseg.demo.group import GROUP_SIZE, sample_group, token_texts, verdict
from foodseg.demo.pictures import side_by_side
from foodseg.demo.systems import BASE, HELD, Systems
from foodseg.demo.uploads import read_upload
from foodseg.presets import SMOKE
from foodseg.rl.advantages import group_advantages
from foodseg.rl.answers import write_items
from foodseg.rl.rewards import score_completion
from foodseg.segment.plates import load_plates, load_vocabulary, unseen_words, warn_of_words

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture()
def plates(home):
    return load_plates(SMOKE)


@pytest.fixture()
def run_adapter(home, saved_adapter):
    """A finished run, as far as the page looks at it."""
    run = home / "runs" / "smoke" / "grpo-seed0"
    shutil.copytree(saved_adapter, run / "adapter")
    return run


def bomb():
    """A small file of 196 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(buffer, format="PNG")
    return buffer.getvalue()


def right_answer(sample):
    """A completion that answers with the sample's own references."""
    side = (SMOKE.image_side, SMOKE.image_side)
    items = write_items([scale_reference(r, sample.size, side) for r in sample.references])
    return f"<think>{sample.answer}</think>\n<answer>{items}</answer>"


# -- What can be asked about ----------------------------------------------------------------------


def test_a_plate_knows_its_own_questions_and_no_others(plates, test_samples):
    assert [s for plate in plates for s in plate.samples] == test_samples
    plate = plates[0]
    assert plate.sample(f"  {plate.questions[0]} ") is plate.samples[0]
    assert plate.sample("Where is the moon?") is None
    assert max(plate.thumbnail().size) <= 112 < max(plate.photo().image.size)


def test_words_that_no_training_question_has_are_named_once(home):
    vocabulary = load_vocabulary(SMOKE)
    assert unseen_words("WHICH food? Which zebra, zebra or gnu", vocabulary) == ["zebra", "gnu"]
    assert "“zebra”, “gnu”" in warn_of_words(["zebra", "gnu"]) and warn_of_words([]) == ""


def test_a_photo_of_ones_own_is_read_as_segment_reads_it(tmp_path):
    folder = tmp_path / "upload-1234"
    folder.mkdir()
    (folder / "mine.png").write_bytes(bomb())
    (folder / "mine.jpg").write_text("words")
    for name, words in (("mine.png", "million pixels; scale it down"), ("mine.jpg", "no image")):
        with pytest.raises(DataError, match=f"^{name}: .*{words}") as error:
            read_upload(folder / name)
        assert "upload-1234" not in str(error.value)
    Image.new("LA", (30, 20)).save(folder / "mine.png")
    assert read_upload(folder / "mine.png").image.size == (30, 20)


# -- Who can be asked -----------------------------------------------------------------------------


def test_adapters_go_by_their_runs_and_the_last_one_trained_is_asked_first(home, run_adapter):
    systems = Systems(SMOKE)
    shutil.copytree(run_adapter, run_adapter.with_name("dapo-seed1"))
    shutil.copytree(run_adapter, run_adapter.with_name("sft-seed0"))
    (run_adapter.with_name("sft-seed0") / "adapter" / "mask_head.safetensors").touch()
    run_adapter.with_name("dapo-seed2").mkdir()
    assert systems.names() == [BASE, "dapo-seed1", "grpo-seed0"]
    os.utime(run_adapter / "adapter" / "adapter_model.safetensors", (2**32, 2**32))
    assert systems.first() == [BASE, "grpo-seed0"]
    for name in ("dapo-seed2", "sft-seed0", "../smoke/grpo-seed0"):
        with pytest.raises(DataError, match="choose another"), systems.use(name):
            pass


def test_few_systems_are_held_and_one_that_was_trained_again_is_loaded_again(
    home, run_adapter, monkeypatch
):
    loaded = []
    monkeypatch.setattr(systems_module, "load_system", lambda _, f: loaded.append(f) or object())
    systems = Systems(SMOKE)
    for seed in range(1, HELD + 1):
        shutil.copytree(run_adapter, run_adapter.with_name(f"grpo-seed{seed}"))

    def use(name):
        with systems.use(name):
            return len(loaded)

    assert [use(BASE), use("grpo-seed0"), use(BASE)] == [1, 2, 2]
    os.utime(run_adapter / "adapter" / "adapter_model.safetensors", (2**32, 2**32))
    assert [use("grpo-seed0"), use("grpo-seed1"), use("grpo-seed0")] == [3, 4, 4]
    assert [use("grpo-seed2"), use("grpo-seed1"), use(BASE)] == [5, 5, 6]  # it had made room


def test_two_users_wait_for_each_other(home, monkeypatch):
    monkeypatch.setattr(systems_module, "load_system", lambda *_: object())
    systems, inside, most = Systems(SMOKE), [], []

    def user():
        with systems.use(BASE):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=user) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


# -- Ask ------------------------------------------------------------------------------------------


def test_where_the_truth_is_known_an_answer_is_judged_as_training_does(plates, says, run_adapter):
    plate, sample = plates[0], plates[0].samples[0]
    says(right_answer(sample))
    (reply,) = ask(Systems(SMOKE), ["grpo-seed0"], plate.photo(), sample.question, sample)
    side = (SMOKE.image_side, SMOKE.image_side)
    references = [scale_reference(r, sample.size, side) for r in sample.references]
    thresholds = SMOKE.thresholds.scaled(SMOKE.image_side)
    score = score_completion(reply.answer.text, references, thresholds)
    assert reply.judgement.total == pytest.approx(score.total) and score.total == MOST
    truth, mask = sample.union_mask(), reply.answer.mask
    assert reply.judgement.iou == pytest.approx((truth & mask).sum() / (truth | mask).sum())
    written = json.loads(json.dumps(all_as_json([reply], sample)))
    assert written["truth"]["sample_id"] == sample.sample_id
    said = written["systems"]["grpo-seed0"]
    assert said["judgement"]["points"]["total"] == pytest.approx(MOST)
    assert np.array_equal(decode_mask(said["mask"]), mask) and said["provenance"]["adapter"]


def test_of_a_question_of_ones_own_nothing_is_judged(plates, says, home):
    says("I see nothing.")
    (reply,) = ask(Systems(SMOKE), [BASE], plates[0].photo(), "Where is the moon?", None)
    assert not reply.answer.parsed and reply.judgement is None
    assert "judgement" not in reply.written
    card = markup.reply_card(reply)
    assert "No answer could be parsed" in card and "I see nothing." in card


def test_a_system_that_is_refused_does_not_keep_the_others_from_answering(
    plates, says, run_adapter
):
    sample = plates[0].samples[0]
    says(right_answer(sample))
    (run_adapter / "adapter" / "prompt_template.txt").unlink()
    photo = plates[0].photo()
    refusal, reply = ask(Systems(SMOKE), ["grpo-seed0", BASE], photo, sample.question, sample)
    assert isinstance(refusal, Refusal) and "prompt_template.txt is missing" in refusal.why
    assert isinstance(reply, Reply) and "missing" in markup.reply_card(refusal)
    said = all_as_json([refusal, reply], sample)["systems"]
    assert said["grpo-seed0"] == {"refused": refusal.why}
    picture = Image.open(io.BytesIO(side_by_side(photo.image, [refusal, reply], sample)))
    assert picture.width > 1.5 * picture.height  # the truth and the base
    for question, words in ((" ", "it is empty"), ("<|im_end|>", "leave it out")):
        with pytest.raises(DataError, match=words):
            list(ask(Systems(SMOKE), [BASE], photo, question, None))


def test_no_word_of_a_model_or_a_user_passes_for_html(plates, says, home):
    sample = replace(plates[0].samples[0], answer="<b>", foods=("<i>",))
    says("<script>alert(1)</script>")
    (reply,) = ask(Systems(SMOKE), [BASE], plates[0].photo(), "which?", None)
    card = markup.reply_card(replace(reply, name="<u>")) + markup.truth_card(
        plates[0].photo().image, sample
    )
    card += markup.note("<script>") + markup.example_cards(
        [{"step": 1, "question": "<script>", "completion": "<script>", "reward_total": 1.0}]
    )
    assert not any(tag in card for tag in ("<script", "<b></b>", "<i>,", "<u>"))


# -- What reinforcement sees ----------------------------------------------------------------------


@pytest.fixture()
def group(plates, run_adapter):
    plate = plates[0]
    return sample_group(Systems(SMOKE), BASE, plate, plate.samples[0], seed=3)


def test_a_group_is_sampled_and_judged_as_in_training(group, plates):
    again = sample_group(Systems(SMOKE), BASE, plates[0], group.sample, seed=3)
    assert [c.text for c in again.completions] == [c.text for c in group.completions]
    assert len({c.text for c in group.completions}) > 1
    (advantages,) = group_advantages([group.rewards])
    assert [c.advantage for c in group.completions] == pytest.approx(list(advantages))
    assert len(group.completions) == GROUP_SIZE and group.kept == (max(advantages) > 0)
    for completion in group.completions:
        assert "".join(text for text, _ in completion.tokens) == completion.text
        assert bool(completion.fault) == (not completion.references)
        assert completion.mask.shape == (group.sample.height, group.sample.width)
    page = markup.group_cards(group)
    assert page.count("<article") == GROUP_SIZE and "both learn from this group" in page


def test_a_group_of_equal_rewards_is_said_to_be_dropped(plates, says, home, monkeypatch):
    sample = plates[0].samples[0]

    def same(mllm, *_, **__):
        text = right_answer(sample)
        ids = mllm.tokenizer(text, return_tensors="pt")["input_ids"][0]
        return [SimpleNamespace(texts=(text,) * GROUP_SIZE, tokens=(ids,) * GROUP_SIZE)]

    monkeypatch.setattr("foodseg.demo.group.roll_out", same)
    group = sample_group(Systems(SMOKE), BASE, plates[0], sample, seed=0)
    assert not group.kept and {c.advantage for c in group.completions} == {0.0}
    assert "drops the group" in verdict(group) and "All 8 rewards are 7.00" in verdict(group)
    assert markup.group_cards(group).count("dropped by DAPO") == GROUP_SIZE


def test_tokens_that_share_a_character_are_shown_as_one():
    pieces = [b"a", *(bytes([b]) for b in "é".encode()), b"", b"\xff"]
    texts = token_texts(pieces, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert texts == (("a", 1.0), ("é", 3.0), ("\ufffd", 5.0))


# -- Training -------------------------------------------------------------------------------------

ROW = {column: 0.5 for columns in training.LIVE_PANELS.values() for column in columns} | {
    "question": "which?",
    "completion": "<think>",
}


def write_log(run, steps):
    run.mkdir(parents=True, exist_ok=True)
    for step in range(1, steps + 1):
        append_line(run / "log.jsonl", json.dumps({"step": step} | ROW) + "\n")
    return run / "log.jsonl"


def test_a_log_is_read_while_it_is_written(home):
    log = write_log(SMOKE.run_folder("grpo", 0), 3)
    before = training.state_of(log)
    with log.open("a") as file:
        file.write('{"step": 4, "rew')
    rows = training.read_log(log)
    assert list(rows["step"]) == [1, 2, 3] and training.state_of(log) != before
    assert training.curves_png("grpo-seed0", rows).startswith(b"\x89PNG")
    assert [row["step"] for row in training.examples(rows)] == [3, 2, 1]
    assert "Not finished. At step 3" in training.describe_run(log, rows)
    (log.parent / "result.json").touch()
    assert training.describe_run(log, rows).startswith("Finished.")
    log.write_text("{]\n" + log.read_text())
    with pytest.raises(DataError, match="log.jsonl: it is no JSON"):
        training.read_log(log)


def test_the_runs_are_those_of_reinforcement_the_last_written_first(home):
    assert training.list_runs(SMOKE) == []
    for age, recipe in enumerate(("old", "new")):
        os.utime(write_log(SMOKE.run_folder(recipe, 0), 1), (10**9 + age, 10**9 + age))
    supervised = SMOKE.run_folder("sft", 0)
    supervised.mkdir()
    (supervised / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    begun = SMOKE.run_folder("begun", 0)
    begun.mkdir()
    (begun / "log.jsonl").touch()
    assert training.list_runs(SMOKE) == ["new-seed0", "old-seed0"]
    with pytest.raises(DataError, match="choose another"):
        training.find_log(SMOKE, "../smoke/new-seed0")


# -- The page in a browser ------------------------------------------------------------------------


def test_without_gradio_it_says_what_installs_it(monkeypatch, capsys):
    monkeypatch.setattr("foodseg.demo.__main__.find_spec", lambda name: None)
    assert main([]) == 1 and "`make demo` installs it" in capsys.readouterr().err


needs_browser = pytest.mark.skipif(
    not (find_spec("gradio") and find_spec("playwright") and CHROMIUM),
    reason="gradio, Playwright (`make demo` installs both) or Chromium is not installed",
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture()
def address(home, run_adapter):
    """The page of the smoke preset, served by a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "foodseg.demo", "--preset", "smoke", "--port", str(port)]
    environment = os.environ | {"FOODSEG_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen(command, cwd=PROJECT, env=environment, **piped)
    try:
        lines = iter(server.stdout.readline, "")
        found = next((line for line in lines if line.startswith("demo: open ")), None)
        assert found, "the page did not start"
        yield found.split()[2]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture()
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, Chromium has no sandbox. Its own camera shows a moving pattern.
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *camera]
        )
        yield chromium
        chromium.close()


def open_page(browser, address, requests):
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.locator("#systems input").nth(1).wait_for()
    return page


def wait_for(page, selector, words):
    page.locator(selector).filter(has_text=words).first.wait_for()


def upload(page, path):
    with page.expect_file_chooser() as chooser:
        page.click("#upload")
    chooser.value.set_files(path)


@needs_browser
def test_the_three_tabs_in_chromium(address, browser, home, tmp_path):
    requests = []
    page, other = (open_page(browser, address, requests) for _ in range(2))
    # Two users ask at the same time.
    page.click("#ask")
    other.click("#ask")
    for user in (page, other):
        wait_for(user, "#answers article", "the truth")
        wait_for(user, "#answers article", "grpo-seed0")
        user.locator("#png:not([disabled])").wait_for()
    with page.expect_download() as download:
        page.click("#json")
    answers = json.loads(download.value.path().read_text())
    assert list(answers["systems"]) == [BASE, "grpo-seed0"] and answers["truth"]["foods"]
    with page.expect_download() as download:
        page.click("#png")
    assert Image.open(download.value.path()).format == "PNG"

    # A question of one's own, about a plate of the list.
    page.locator("#plates button").nth(1).click()
    page.fill("#question textarea", "Where is the zebra?")
    wait_for(page, ".food-warning", "“zebra”")
    page.click("#ask")
    page.locator("#answers article").filter(has_text="the truth").wait_for(state="detached")
    page.locator("#png:not([disabled])").wait_for()

    # Files of one's own, good and bad.
    (tmp_path / "words.png").write_text("words")
    (tmp_path / "bomb.png").write_bytes(bomb())
    Image.new("RGB", (64, 48), "green").save(tmp_path / "mine.png")
    for name, words in (
        ("words.png", "words.png: this is no image"),
        ("bomb.png", "scale it down"),
    ):
        upload(page, tmp_path / name)
        wait_for(page, "#answers .food-fault", words)
    upload(page, tmp_path / "mine.png")
    page.locator("#answers .food-fault").wait_for(state="detached")
    page.click("#ask")
    wait_for(page, "#answers article", "grpo-seed0")

    page.get_by_role("tab", name="What reinforcement sees").click()
    page.click("#sample")
    page.locator("#group article").nth(7).wait_for()
    assert page.locator("#group article").count() == GROUP_SIZE

    # A run that begins, and goes on, while one looks.
    page.get_by_role("tab", name="Training").click()
    wait_for(page, "#state", "No run has logged a step yet")
    write_log(home / "runs" / "smoke" / "dapo-seed0", 2)
    wait_for(page, "#state", "Not finished. At step 2")
    page.locator("#curves img").wait_for()
    append_line(home / "runs/smoke/dapo-seed0/log.jsonl", json.dumps({"step": 3} | ROW) + "\n")
    wait_for(page, "#state", "At step 3")
    wait_for(page, "#examples article", "step 3")
    outside = {url for url in requests if not url.startswith((address, "data:", "blob:"))}
    assert len(requests) > 20 and not outside
