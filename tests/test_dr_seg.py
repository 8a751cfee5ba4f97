"""Dr. Seg's rewards against the authors' own outputs, and the two faults that are not copied."""

import io
import json
import math
import random
import time
from pathlib import Path

import pytest
import torch

from foodseg.data.references import Reference
from foodseg.methods import dr_seg
from foodseg.methods.dr_seg import RankQueue, continuous, look, metrics, non_repeat_normalised
from foodseg.models import prompts
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import Evidence
from foodseg.rl.named_foods import named_foods
from foodseg.rl.rewards import segmentation_format, thinking_format
from foodseg.rl.thresholds import RewardThresholds

VECTORS = json.loads((Path(__file__).parent / "vectors" / "dr_seg_ranked_reward.json").read_text())
PAIRS = [case for case in VECTORS["cases"] if case["input"]["kind"] == "pair"]
SEQUENCES = [case for case in VECTORS["cases"] if case["input"]["kind"] == "sequence"]
TRUTH = (Reference(box=(100, 100, 199, 199), point=(150, 150)),)
GOOD = '{"bbox_2d": [100, 100, 199, 199], "point_2d": [150, 150]}'


def evidence(completion: str, references=TRUTH, side: int = 840) -> Evidence:
    def no_masks():
        raise AssertionError("these terms look at no mask")

    thresholds = RewardThresholds().scaled(side)
    return Evidence(None, parse_answer(completion), references, thresholds, side, no_masks)


def complete(items: str, thinking: str = "It is there.") -> str:
    return f"<think>{thinking}</think>\n<answer>[{items}]</answer>"


def steps(case: dict) -> list[list[tuple[float, ...]]]:
    return [[tuple(map(float, row)) for row in step] for step in case["input"]["steps"]]


def published_start() -> RankQueue:
    """A queue that starts with rows of 0, as the published code's does."""
    queue = RankQueue()
    queue.load_state_dict({"rows": torch.zeros(128, 3), "waiting": torch.zeros(0, 3)})
    return queue


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case["name"])
def test_terms_are_those_of_dr_seg(case):
    references = tuple(
        Reference(tuple(item["bbox_2d"]), tuple(item["point_2d"]))
        for item in case["input"]["ground_truth"]
    )
    given = evidence(case["input"]["completion"], references)
    want = {key: case["output"][key] for key in ("look", "non_repeat", "x1", "x2", "x3")}
    if case["name"] == "pair/null_becomes_nan":
        assert want["x1"] == "NaN"
        want["x1"] = 0.0  # the first fault: what cannot be measured is worth nothing
    got = {"look": look(given), "non_repeat": non_repeat_normalised(given)}
    got |= dict(zip(("x1", "x2", "x3"), metrics(given), strict=True))
    assert got == pytest.approx(want, abs=1e-12)
    assert continuous(given) == pytest.approx(want["x1"] + want["x2"] + want["x3"], abs=1e-12)
    # a line break after </answer> costs Dr. Seg's completions the format point, as in its parent
    form = thinking_format(given.answer.completion.rstrip("\n")) + look(given)
    free = given.answer.completion.endswith("\n")
    assert form + segmentation_format(given.answer) == pytest.approx(
        case["output"]["format"] + free
    )


@pytest.mark.parametrize("case", SEQUENCES, ids=lambda case: case["name"])
def test_ranks_are_those_of_dr_seg_but_for_its_two_faults(case):
    """The code ranks a NaN as 1, and what is exactly 0 above the 128 rows it starts with."""
    ours, theirs = RankQueue(), published_start()
    earlier = [(math.inf,) * 3] * 128
    for rows, want in zip(steps(case), case["output"]["steps"], strict=True):
        measured = [not any(map(math.isnan, row)) for row in rows]
        own, ranks = ours.ranks(rows), theirs.ranks(rows)
        for row, mine, one, ranked in zip(rows, own, ranks, want["ranked"], strict=True):
            assert all(r == 1 for r, x in zip(ranked, row, strict=True) if math.isnan(x))
            assert list(one) == [
                0.0 if math.isnan(x) else r for r, x in zip(ranked, row, strict=True)
            ]
            for column, x in enumerate(row):
                rank = one[column]
                if x == 0:
                    behind = sum(one[column] <= 0 or math.isnan(one[column]) for one in earlier)
                    rank = round(behind / len(earlier), 1)
                assert mine[column] == rank <= one[column]
        rewards = [round(sum(one), 1) for one in ranks]
        same = [reward for reward, ok in zip(rewards, measured, strict=True) if ok]
        published = [reward for reward, ok in zip(want["reward"], measured, strict=True) if ok]
        assert same == pytest.approx(published, abs=1e-12)
        ours.flush()
        theirs.flush()
        assert len(theirs.rows) == want["flush"]["new_len"]
        earlier = (earlier + rows)[-2048:]


def test_failure_stays_below_the_faintest_success_while_first_rows_are_left():
    queue, theirs = RankQueue(), published_start()
    nothing, nearly, everything = (0.0, 0.0, 0.0), (0.01, 0.5, 0.2), (1.0, 1.0, 1.0)
    assert published_start().points([nothing, everything]) == [3, 3]
    assert RankQueue().points([nothing, nearly, everything]) == [0, 3, 3]
    for one in (queue, theirs):
        one.points([(0.0, 0.0, 0.0)] * 8 + [(0.9, 0.9, 0.9)] * 8)
        one.flush()
    failure, faint = queue.points([(0.0, 0.0, 0.0), (1e-6, 1e-6, 1e-6)])
    assert (failure, faint) == (pytest.approx(0.3), pytest.approx(2.7))  # 8/144 and 136/144
    assert theirs.points([(0.0, 0.0, 0.0)]) == [pytest.approx(2.7)]


def test_a_step_is_ranked_against_earlier_steps_flushed_once_and_a_nan_ranks_zero():
    queue = RankQueue()
    assert queue.points([(math.nan, math.nan, math.nan)] * 1000) == [0] * 1000
    queue.flush()
    assert queue.ranks([(math.nan, 0.5, 0.0)]) == [(0.0, 1.0, 0.9)]  # 1000/1128 of the rows failed
    assert queue.ranks([(0.001, 0.001, 0.001)]) == [(1.0, 1.0, 1.0)]
    queue = RankQueue()
    queue.points([(1.0, 1.0, 1.0)] * 128)
    assert queue.points([(0.5, 0.5, 0.5)]) == [3]  # the rows of this step wait
    queue.flush()
    assert len(queue.rows) == 128 + 129
    assert queue.points([(0.5, 0.5, 0.5)]) == [1.5]  # 129 of 257
    queue.points([(0.5, 0.5, 0.5)] * 5000)
    queue.flush()
    queue.flush()
    assert len(queue.rows) == 2048
    assert queue.points([(0.5, 0.4, 0.5)]) == [2]


def test_equal_sums_of_ranks_are_equal_bit_for_bit():
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ: dynamic sampling would take that for signal."""
    queue, rows = RankQueue(), torch.arange(1, 11)[:, None].expand(10, 3).float()
    queue.load_state_dict({"rows": rows, "waiting": torch.zeros(0, 3)})
    assert queue.points([(1.0, 2.0, 3.0), (3.0, 2.0, 1.0)]) == [0.6, 0.6]
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1


def test_a_restored_queue_goes_on_with_the_same_bits_and_apart():
    generator = random.Random(0)
    rows = [tuple(generator.random() for _ in range(3)) for _ in range(40)]
    queue, restored = RankQueue(), RankQueue()
    queue.points(rows[:20])
    queue.flush()
    queue.points(rows[20:30])
    buffer = io.BytesIO()
    torch.save(queue.state_dict(), buffer)
    buffer.seek(0)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    for one in (queue, restored):
        one.flush()
    assert len(restored.rows) == 158
    state = queue.state_dict()
    other = RankQueue()
    other.load_state_dict(state)
    assert restored.points(rows[30:]) == queue.points(rows[30:])
    queue.flush()  # changes no checkpoint
    assert len(state["rows"]) == len(other.rows) == 158


@pytest.mark.parametrize("distance, closeness", [(6, 1), (23, 0.5), (40, 0), (41, 0)])
def test_distances_and_who_is_matched_scale_with_the_model_image(distance, closeness):
    truth = (Reference(box=(20, 20, 39, 39), point=(30, 30)),)
    item = f'{{"bbox_2d": [20, 20, 39, 39], "point_2d": [30, {30 + distance}]}}'
    assert metrics(evidence(complete(item), truth, side=168)) == (1, 1, pytest.approx(closeness))
    # 8 px apart is near at a side of 840, so that all pairs are alike, and far at 168.
    truth = (*truth, Reference((28, 20, 47, 39), (38, 30)))
    second = '{"bbox_2d": [34, 26, 42, 34], "point_2d": [38, 30]}'
    first = '{"bbox_2d": [26, 26, 34, 34], "point_2d": [30, 30]}'
    given = evidence(complete(f"{second}, {first}"), truth, side=168)
    assert metrics(given)[2] == 1 and metrics(given)[0] == pytest.approx(81 / 400)


@pytest.mark.parametrize("number", ["null", '"nan"', '"inf"', '"-inf"', "1e300", '"1e999"', "true"])
@pytest.mark.parametrize("place", range(6))
def test_odd_numbers_give_metrics_between_0_and_1(number, place):
    numbers = ["100", "100", "199", "199", "150", "150"]
    numbers[place] = number
    item = f'{{"bbox_2d": [{", ".join(numbers[:4])}], "point_2d": [{", ".join(numbers[4:])}]}}'
    iou, ratio, closeness = metrics(evidence(complete(item)))
    assert ratio == 1
    assert 0 <= iou < 1 if place < 4 else iou == 1
    assert closeness == 1 if place < 4 else 0 <= closeness < 1


def test_each_metric_has_its_own_scale():
    item = '{"bbox_2d": [100, 100, 199, 124], "point_2d": [150, 222.5]}'
    given = evidence(complete(item), (*TRUTH, Reference((500, 500, 599, 599), (550, 550))))
    iou, ratio, closeness = metrics(given)
    assert (iou, ratio, closeness) == (0.25, 0.5, 0.75)
    assert continuous(given, scales=(1, 2, 3)) == iou + 2 * ratio + 3 * closeness


def test_what_is_no_json_earns_nothing():
    for number in ("NaN", "Infinity", "1e999"):
        assert metrics(evidence(complete(GOOD.replace("199", number)))) == (0, 0, 0)


PIECES = [
    *"[]{}\",:.\\ \n\0", "<think>", "</think>", "<answer>", "</answer>", "<look>", "</look>", GOOD,
    f"[{GOOD}]", '"bbox_2d": [1, 2, 3, 4]', '"point_2d": ["1", null]', '"bbox_2d": {}', "null",
    '{"bbox_2d": [[1], 2], "point_2d": [[[3]]]}', '{"bbox_2d": 5, "point_2d": "x"}', "orange.",
    '{"bbox_2d": [1, 2, 3, 4], "point_2d": ["x", 5]}', "食物", "\ud800", "\u2028", "what you see",
]  # fmt: skip


def test_random_text_gives_finite_points_and_no_exception():
    generator = random.Random(0)
    for _ in range(3000):
        text = "".join(generator.choices(PIECES, k=generator.randrange(1, 30)))
        items = ", ".join(generator.choices([p for p in PIECES if p[0] == "{"], k=3))
        for completion in (text, complete(text), complete(items, text)):
            given = evidence(completion)
            assert 0 <= look(given) + non_repeat_normalised(given) <= 2
            assert all(0 <= metric <= 1 for metric in metrics(given))


@pytest.mark.parametrize(
    "text",
    [
        "<think>" + "<look>" * 16_000,
        "<think>" + "<look>" * 8_000 + "</look>" * 7_000 + "</think>",
        "<think>" * 14_000,
        complete(", ".join([GOOD] * 1500)),
        complete(GOOD.replace("150", '"' + "1" * 100_000 + '"')),
        "." + " (" * 50_000,
    ],
    ids=range(6),
)
def test_time_is_bounded_on_100_000_characters(text):
    given = evidence(text)
    start = time.process_time()
    look(given), non_repeat_normalised(given), metrics(given)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "thinking, points",
    [
        ("<look>a red rim at the left</look> So the soup.", 1),
        ("Hm. <look>rice</look> Hm. <look></look>", 1),
        ("<look> \n </look>", 0),
        ("<look><look></look>", 0),
        ("<look>rice", 0),
        ("rice</look>", 0),
        ("</look>rice<look>", 0),
        ("<look>[Your  visual\nfocus]</look>", 0),
        ("<look>your-visual_ focus.</look>", 1),  # an underscore is part of a word
        ("<look>your visual focus: rice</look>", 1),
        ("<look>your visual focuses</look>", 1),
        ("<look> . </look>", 0),
    ],
)
def test_look(thinking, points):
    assert look(evidence(complete(GOOD, thinking))) == points


def test_copying_what_the_prompt_shows_earns_nothing():
    template = dr_seg.look_prompt(prompts.PAPER)
    asked = template.format(question="Which food is sweet?")
    assert asked.count("<think>[") == 1 and asked.count("<look>") == 2
    copied = asked[asked.index("<think>[") :]
    assert look(evidence(copied)) == non_repeat_normalised(evidence(copied)) == 0
    for part in dr_seg.PLACEHOLDERS:
        assert part in copied
        said = complete(GOOD, f"Hm. {part.upper().replace(' ', ' - ')}! Hm?")
        assert non_repeat_normalised(evidence(said)) == 0
        assert non_repeat_normalised(evidence(said.replace(part[-4:].upper(), "MORE"))) == 1
    assert non_repeat_normalised(evidence(complete(GOOD, "your reasoning"))) == 1


def test_the_prompt_replaces_the_thinking_and_leaves_the_kitchens_alone():
    assert dr_seg.look_prompt(prompts.KITCHEN) == prompts.KITCHEN
    template = dr_seg.look_prompt(prompts.PAPER)
    think = template[template.index("<think>[") : template.index("</think>\n")]
    assert think.index("<look>") < think.index("</look>")
    assert template.endswith(prompts.PAPER[prompts.PAPER.index("</think>\n") :])
    with pytest.raises(ValueError, match="prompt_template: it lacks 'First write your reasoning"):
        dr_seg.look_prompt("{question} Answer in JSON.")


@pytest.mark.parametrize("end", [". ", "! ", "? ", "… ", "...", "。", "！", "？"])
def test_sentences_end_at_every_mark_and_marks_around_them_do_not_count(end):
    def points(*sentences):
        return non_repeat_normalised(evidence(end.join(sentences) + end))

    assert points("A", "“a”", "B") == 1
    assert points("A", "“a”", "(A，)") == 0
    assert points("A", "{a; ", ": A、") == 0
    assert points("A", "<a>", "`a`") == 1  # these are not among the authors' marks


@pytest.mark.parametrize(
    "thinking, foods",
    [
        ("<look>steak and rice</look> So it is the rice", ("rice",)),
        ("It is the rice <look>a steak</look>", ("rice",)),
        ("Rice. It is the <look>steak</look> steak <look>rice</look>", ("steak",)),
        ("<look>rice</look> Hm. <look>steak</look> That one.", ("steak",)),
        ("It is the rice <look>steak", ("rice", "steak")),
        ("Rice</look> steak", ("steak",)),
    ],
)
def test_foods_in_looks_were_seen_and_not_settled_on_and_change_no_reading(thinking, foods):
    given = evidence(complete(GOOD, thinking))
    assert named_foods(given.answer.completion, ("steak", "rice")) == foods
    assert thinking_format(given.answer.completion) == 1
    assert given.answer.thinking == thinking and given.answer.parsed
    assert metrics(given) == (1, 1, 1)
