"""The replay: what its values are, that it is one small file, and how it behaves in Chromium."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import kitchen_folder
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import load_json, read_lines, write_json, write_lines
from foodseg.data.references import Reference, scale_reference
from foodseg.data.samples import load_samples
from foodseg.evaluation.predictions import compare, save_predictions
from foodseg.presets import SMOKE
from foodseg.recipes import DAPO, GRPO, OURS
from foodseg.replay import __main__, page
from foodseg.replay.answers import Judge
from foodseg.replay.data import Pages
from foodseg.replay.groups import clip_range, step_groups
from foodseg.replay.page import write_page
from foodseg.replay.pictures import SIDE, mask_uri, photo_uri
from foodseg.replay.runs import find_runs
from foodseg.rl.answers import write_items
from foodseg.site.check import check
from foodseg.system import load_segmenter
from foodseg.training.identity import as_json
from foodseg.training.trainer import train

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TINY = replace(
    SMOKE, steps=2, prompts_per_step=2, groups_per_update=1, group_size=4, max_new_tokens=80
)
SIGNAL, SILENT = [0.0, 1.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A FOODSEG_HOME with the smoke dataset and a short run of GRPO."""
    root = tmp_path_factory.mktemp("trained")
    kitchen_folder(root)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FOODSEG_HOME", str(root))
        train(TINY, GRPO, 0, load_samples(SMOKE.samples_file("train")))
    return root


@pytest.fixture()
def home(trained, tmp_path, monkeypatch):
    """Its copy, which a test may change; beside the run one as DAPO's, and one of an old log."""
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path / "home"))
    for recipe in (DAPO, OURS):
        run = SMOKE.run_folder(recipe.name, 0)
        shutil.copytree(SMOKE.run_folder(GRPO.name, 0), run)
        result = load_json(run / "result.json") | {"recipe": as_json(recipe)}
        write_json(run / "result.json", result)
    fields = ("watched", "watched_after", "group", "group_ratios", "group_rewards")
    rows = [{k: v for k, v in row.items() if k not in fields} for row in read_lines(run / LOG)]
    write_lines(run / LOG, rows)
    return tmp_path / "home"


LOG = "log.jsonl"


@pytest.fixture()
def evaluated(home):
    """Predictions of GRPO's run: all right but the first two; and of the base, all wrong."""
    samples = load_samples(SMOKE.samples_file("test"))
    nothing = [np.zeros((s.height, s.width), dtype=bool) for s in samples]
    whole = [compare(s, s.union_mask(), True, "<answer>[]</answer>", s.foods) for s in samples]
    wrong = [compare(s, mask, False) for s, mask in zip(samples, nothing, strict=True)]
    wrong[1] = compare(samples[1], nothing[1], True, "The moon.", ("moon",))
    result = load_json(SMOKE.run_folder("grpo", 0) / "result.json")
    save_predictions(SMOKE, "grpo-seed0", wrong[:2] + whole[2:], 1.0, result["adapter"])
    save_predictions(SMOKE, "base", wrong, 1.0)
    return samples


def values_of(path) -> dict:
    (data,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.S)
    return json.loads(data)


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def step_row(*rewards, place=0, ratios=None):
    points = [{"half": reward / 2, "rest": reward / 2} for reward in rewards[place]]
    advantages = [0.25] * len(points)
    texts = [f"text {i}" for i in range(len(points))]
    group = {"sample_id": "a", "place": place, "texts": texts, "points": points}
    group |= {"advantages": advantages}
    return {"group": group, "group_rewards": list(rewards), "group_ratios": ratios}


# -- A step's groups ------------------------------------------------------------------------------


def test_a_groups_advantages_are_those_by_hand_and_dapo_drops_one_of_equal_rewards():
    found = step_groups(step_row(SIGNAL, SILENT))
    # Less the mean of 1, over the standard deviation with Bessel's correction.
    by_hand = [deviation / (2 / 3) ** 0.5 for deviation in (-1, 0, 0, 1)]
    assert [group.signal for group in found.groups] == [True, False]
    assert found.groups[0].advantages["grpo"] == pytest.approx(by_hand, abs=1e-5)
    assert found.groups[0].advantages["dapo"] == found.groups[0].advantages["grpo"]
    assert found.groups[1].advantages == {"grpo": [0.0] * 4, "dapo": None}
    assert [one.text for one in found.tries] == ["text 0", "text 1", "text 2", "text 3"]
    assert {one.learnt for one in found.tries} == {0.25}


def test_the_clip_moves_with_the_method_and_asks_for_the_advantages_sign():
    assert clip_range(GRPO) == (0.8, 1.2) and clip_range(DAPO) == (0.8, pytest.approx(1.28))
    ratios = [[0.7, 1.5], [0.7, 1.5], [0.9, 1.1], [0.7, 1.25]]
    tries = step_groups(step_row(SIGNAL, SILENT, ratios=ratios)).tries
    # The first is worse than the mean, the last better; those at the mean have nothing to clip.
    clipped = [(one.clipped["grpo"], one.clipped["dapo"]) for one in tries]
    assert clipped == [(True, True), (False, False), (False, False), (True, False)]
    silent = step_groups(step_row(SIGNAL, SILENT, place=1, ratios=ratios)).tries
    assert not any(one.clipped["grpo"] or one.clipped["dapo"] for one in silent)


def test_a_true_answer_among_the_tries_counts_in_its_group():
    row = step_row(SIGNAL, SILENT, place=1)
    row["group"]["points"].append({"half": 3.5, "rest": 3.5})
    row["group"]["texts"].append("the truth")
    row["group"]["advantages"].append(1.0)
    group = step_groups(row).groups[1]
    assert group.rewards == [*SILENT, 7.0] and group.signal


# -- Answers and pictures -------------------------------------------------------------------------


def test_an_answers_mask_is_sam2s_of_its_text(home):
    sample = load_samples(SMOKE.samples_file("train"))[0]
    side = (SMOKE.image_side, SMOKE.image_side)
    items = write_items([scale_reference(r, sample.size, side) for r in sample.references])
    segmenter = load_segmenter(SMOKE)
    judge = Judge(SMOKE, segmenter)
    answer = judge.answer(sample, f"<think>It.</think> <answer>{items}</answer>")
    there_and_back = [
        scale_reference(scale_reference(r, sample.size, side), side, sample.size)
        for r in sample.references
    ]
    masks = segmenter.predict(segmenter.embed_image(judge.photo(sample)), there_and_back)
    assert list(answer.references) == there_and_back and answer.fault == ""
    assert np.array_equal(answer.mask, masks.any(axis=0))
    truth = sample.union_mask()
    shared = (truth & answer.mask).sum() / (truth | answer.mask).sum()
    assert answer.iou == pytest.approx(shared) and shared > 0.5
    prose = judge.answer(sample, "It lies at (84, 42, 125, 83), around (105, 63).")
    assert prose.fault == "no <answer>" and not prose.references and not prose.mask.any()
    box = Reference((84, 42, 125, 83), (105, 63))
    assert prose.meant == (scale_reference(box, side, sample.size),)


def test_a_masks_picture_is_tinted_inside_and_clear_outside():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 10:50] = True
    image = np.asarray(picture(mask_uri(mask, "#D55E00")).convert("RGBA"))
    assert image.shape == (40, 60, 4) and np.array_equal(image[..., 3] > 0, mask)
    assert tuple(image[20, 30, :3]) == (0xD5, 0x5E, 0) and image[20, 30, 3] < image[10, 10, 3]
    outline = np.asarray(picture(mask_uri(mask, "#009E73", filled=False)).convert("RGBA"))
    assert outline[10, 10, 3] == 255 and outline[20, 30, 3] == 0
    assert mask_uri(np.zeros((4, 4), dtype=bool), "#009E73") == ""
    large = np.ones((2 * SIDE, SIDE), dtype=bool)
    photo = Image.new("RGB", (SIDE, 2 * SIDE))
    assert picture(mask_uri(large, "#009E73")).size == picture(photo_uri(photo)).size


# -- Runs -----------------------------------------------------------------------------------------


def test_one_run_of_each_method_is_found_the_papers_first(home):
    shutil.copytree(SMOKE.run_folder("grpo", 0), SMOKE.run_folder("grpo", 1))
    moved = SMOKE.run_folder("grpo", 0)
    moved.rename(moved.with_name("grpo-seed0.before-20260101-000000"))
    result = SMOKE.run_folder("grpo", 1) / "result.json"
    write_json(result, load_json(result) | {"seed": 1})
    supervised = SMOKE.run_folder("sft", 0)
    write_json(supervised / "result.json", {"recipe": {"name": "sft"}, "seed": 0})
    write_lines(supervised / LOG, [{"loss": 1.0}])
    short = SMOKE.run_folder("one-step", 0)
    shutil.copytree(SMOKE.run_folder("dapo", 0), short)
    recipe = as_json(replace(GRPO, name="one-step"))
    write_json(short / "result.json", load_json(short / "result.json") | {"recipe": recipe})
    write_lines(short / LOG, read_lines(short / LOG)[-1:])
    found = find_runs(SMOKE)
    assert [run.name for run in found] == ["grpo-seed1", "dapo-seed0", "ours-seed0"]
    assert [bool(run.problem) for run in found] == [False, False, True]


def test_without_runs_or_with_old_logs_alone_it_says_what_to_do(home, capsys):
    for name in ("grpo", "dapo"):
        shutil.rmtree(SMOKE.run_folder(name, 0))
    with pytest.raises(DataError, match="ours-seed0: no log has answers .* train again: `make`"):
        find_runs(SMOKE)
    shutil.rmtree(SMOKE.run_folder("ours", 0))
    assert __main__.main(["--preset", "smoke"]) == 1
    assert "no run of reinforcement is finished; `make` trains" in capsys.readouterr().err
    assert __main__.main(["--preset", "lunch"]) == 1


# -- The file -------------------------------------------------------------------------------------


def test_the_page_is_one_small_file_with_what_the_logs_say(home, evaluated, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "PROJECT", home)
    assert __main__.main(["--preset", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "ours-seed0: train again" in said and "smoke/replay.html" in said
    path = home / "build" / "smoke" / "replay.html"
    values, rows = values_of(path), read_lines(SMOKE.run_folder("grpo", 0) / LOG)
    assert path.stat().st_size < page.MOST_BYTES
    assert check(path.parent)[1] == []  # nothing would be fetched
    grpo, dapo, old = values["runs"]
    assert [grpo["title"], dapo["title"], old["title"]] == ["GRPO", "DAPO", OURS.title]
    assert "train it again" in old["problem"] and "looks" not in old
    logged = [row["watched"] for row in rows] + [rows[-1]["watched_after"]]
    assert [look["updates"] for look in grpo["looks"]] == [0, 1, 2]
    for look, answers in zip(grpo["looks"], logged, strict=True):
        assert [one["text"] for one in look["answers"]] == [one["text"] for one in answers]
        for one, answer in zip(look["answers"], answers, strict=True):
            assert one["reward"] == answer["reward"]["total"] == pytest.approx(sum(one["points"]))
    assert grpo["groups"]["1"]["sample_id"] == rows[0]["group"]["sample_id"]
    assert set(grpo["watched"]) <= values["questions"].keys()
    # The bars, and one failure of each kind.
    assert [bar["title"] for bar in values["bars"]] == ["Base", "GRPO"]
    assert [one["kind"] for one in grpo["failures"]["shown"]] == [
        "no answer that parses", "none of its foods is asked for"
    ]  # fmt: skip
    assert grpo["failures"]["right"] == len(evaluated) - 2 and dapo["failures"] is None


def test_no_word_of_a_model_ends_the_script_and_runs_that_do_not_fit_are_left_out(
    home, monkeypatch, tmp_path
):
    words = "</script><script>alert(1)</script><!-- <script>"
    log = SMOKE.run_folder("grpo", 0) / LOG
    rows = read_lines(log)
    rows[0]["watched"][0]["text"] = words
    write_lines(log, rows)
    path = tmp_path / "replay.html"
    assert write_page(SMOKE, path)["shown"] == ["grpo-seed0", "dapo-seed0"]
    assert values_of(path)["runs"][0]["looks"][0]["answers"][0]["text"] == words
    monkeypatch.setattr(page, "MOST_BYTES", path.stat().st_size - 2000)
    names = write_page(SMOKE, path)
    assert names == {"shown": ["grpo-seed0"], "old": [], "too much": ["dapo-seed0", "ours-seed0"]}


def test_a_question_that_the_data_no_longer_has_is_a_reason_to_train_again(home):
    log = SMOKE.run_folder("grpo", 0) / LOG
    rows = read_lines(log)
    rows[0]["watched"][0]["sample_id"] = "train-of-other-data"
    write_lines(log, rows)
    assert "train it again" in Pages(SMOKE).run(find_runs(SMOKE)[0])["problem"]


# -- In a browser ---------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and find_spec("playwright")),
    reason="no headless browser: `apt-get install chromium`, `pip install playwright`",
)


@needs_browser
def test_in_chromium_it_plays_switches_and_shows_a_failure_without_a_request(
    home, evaluated, tmp_path
):
    from playwright.sync_api import sync_playwright

    log = SMOKE.run_folder("grpo", 0) / LOG
    rows = read_lines(log)
    rows[0]["group_rewards"] = [rows[0]["group_rewards"][rows[0]["group"]["place"]], SILENT]
    rows[0]["group"]["place"] = 0
    write_lines(log, rows)
    path, requests, messages = tmp_path / "replay.html", [], []
    write_page(SMOKE, path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(60_000)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.goto(path.as_uri())
        # By itself, once, to the end.
        tab.locator("#when").filter(has_text="trained: after all 2 steps").wait_for()
        tab.locator("#play[aria-label=Play]").wait_for()
        assert tab.locator("#text").inner_text() == rows[-1]["watched_after"][0]["text"]
        for key, row in (("ArrowLeft", 1), ("ArrowLeft", 0)):
            tab.keyboard.press(key)
            assert tab.locator("#text").inner_text() == rows[row]["watched"][0]["text"]
        assert tab.locator("#when").inner_text() == "not trained yet"
        assert tab.locator("#lights li").count() == 6
        tab.locator("#questions button").nth(2).click()
        assert tab.locator("#text").inner_text() == rows[0]["watched"][2]["text"]
        # The second group has equal rewards: GRPO keeps it, DAPO drops it and moves the clip.
        assert tab.locator("#strip .dropped").count() == 0
        assert "1.20" in tab.locator("#clip").inner_text()
        tab.locator("#methods button", has_text="DAPO").click()
        assert tab.locator("#strip .dropped").count() == 1
        assert "1.28" in tab.locator("#clip").inner_text()
        tab.locator("#strip .dropped").click()
        assert "dropped: all rewards are equal" in tab.locator("#bars").inner_text()
        tab.locator("#methods button", has_text="GRPO").click()
        assert "no signal, nothing to learn" in tab.locator("#bars").inner_text()
        tab.click("#fail")
        assert "no answer that parses" in tab.locator("#failkind").inner_text()
        tab.click("#fail")
        assert "It named: moon" in tab.locator("#failfoods").inner_text()
        tab.locator("#runs button", has_text=OURS.title).click()
        assert "train it again" in tab.locator("#problem").inner_text()
        assert tab.locator("#scores").is_visible() and not tab.locator("#answer").is_visible()
        tab.locator("#runs button").nth(1).click()
        for width in (390, 1280):
            tab.set_viewport_size({"width": width, "height": 844})
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert not messages
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
