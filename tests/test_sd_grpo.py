"""SD-GRPO: whose token is it, what did the object earn, and what is its advantage."""

import json
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer

from foodseg.data.references import Reference
from foodseg.methods.sd_grpo import (
    NO_OBJECT,
    SHARED,
    SegmentRewards,
    blend,
    object_spans,
    segment_advantages,
    segment_rewards,
    segmented,
    token_bytes,
    token_segments,
)
from foodseg.presets import SMOKE
from foodseg.report import style
from foodseg.report.segments_picture import COLUMNS, segments_picture
from foodseg.rl.advantages import group_advantages
from foodseg.rl.answers import parse_answer, parse_json
from foodseg.rl.rewards import score_answer
from foodseg.rl.thresholds import RewardThresholds

THRESHOLDS = RewardThresholds().scaled(168)
ORANGE = Reference(box=(20, 20, 69, 69), point=(45, 45))
APPLE = Reference(box=(100, 60, 149, 109), point=(125, 85))
TRUTH = (ORANGE, APPLE)
WRONG = Reference(box=(0, 140, 9, 149), point=(5, 145))
ITEM = '{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}'


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SMOKE.mllm)


def item(reference: Reference, **more) -> str:
    return json.dumps({"bbox_2d": reference.box, "point_2d": reference.point} | more)


def complete(*references: Reference, thinking: str = "Orange and apple.") -> str:
    body = ", ".join(map(item, references))
    return f"<think>{thinking}</think>\n<answer>[{body}]</answer>"


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def by_segment(tokenizer, tokens: list[int]) -> dict[int, bytes]:
    """The bytes of each segment's tokens, joined."""
    joined: dict[int, bytes] = {}
    pieces, segments = token_bytes(tokens, tokenizer), token_segments(tokens, tokenizer)
    for piece, segment in zip(pieces, segments.tolist(), strict=True):
        joined[segment] = joined.get(segment, b"") + piece
    return joined


def rewards_of(*completions: str, references=TRUTH) -> list[SegmentRewards]:
    return [segment_rewards(parse_answer(c), references, THRESHOLDS) for c in completions]


def group_of(tokenizer, completions, references=TRUTH, rewards=None) -> SimpleNamespace:
    """What `segmented` reads of a Group."""
    answers = [parse_answer(text) for text in completions]
    return SimpleNamespace(
        rollout=SimpleNamespace(
            tokens=tuple(torch.tensor(encode(tokenizer, text)) for text in completions)
        ),
        evidence=tuple(
            SimpleNamespace(answer=a, references=references, thresholds=THRESHOLDS) for a in answers
        ),
        rewards=rewards or [score_answer(a, references, THRESHOLDS).total for a in answers],
    )


def random_text(rng: np.random.Generator) -> str:
    """Pieces of completions, whole and broken, in any order and often in the right one."""
    string = "".join(rng.choice(list('ab[]{},:"\\é汤\u3000</think>'), size=6))
    odd = json.dumps(
        {"note": string, "more": [{"deep": [[]]}]}, ensure_ascii=bool(rng.random() < 0.5)
    )
    items = [ITEM, item(ORANGE), item(APPLE, name=string), odd[:-1] + ", " + ITEM[1:], odd, "5"]
    chosen = rng.choice(items[: rng.integers(3, 7)], size=rng.integers(0, 4))
    body = rng.choice([", ", ",", " ,\n "]).join(chosen)
    thinking = " ".join(
        rng.choice(["The orange.", "汤", "é 7", "<think>", "</think>", "."], size=4)
    )
    parts = [f"<think>{thinking}</think>", rng.choice([" ", "\n", "\u3000", ""])]
    space = rng.choice(["", " ", "\n", "\u3000", "\xa0"])
    parts.append(f"<answer>{space}[{body}]{space}</answer>")
    if rng.random() < 0.3:
        parts = list(rng.permutation(parts + ["<think>", "<answer>", "[", "}", '"']))
    return "".join(parts)


TEXTS = [random_text(np.random.default_rng(seed)) for seed in range(300)]


def random_tokens(tokenizer, seed: int) -> list[int]:
    """A completion's tokens in which some were replaced, cut or put in at random."""
    rng = np.random.default_rng(seed)
    tokens = encode(tokenizer, TEXTS[seed % len(TEXTS)])
    for _ in range(rng.integers(0, 4)):
        place = int(rng.integers(len(tokens) + 1))
        tokens[place : place + int(rng.integers(2))] = [int(rng.integers(len(tokenizer) + 20))]
    return tokens[: int(rng.integers(1, 400))]


# Spans


def test_every_object_of_the_answer_is_found_where_it_stands():
    for text in [*TEXTS, complete(ORANGE, APPLE, ORANGE)]:
        answer = parse_answer(text)
        found = [parse_json(text[start:end]) for start, end in object_spans(text)]
        assert found == (answer.items if answer.parsed else []), text
    counts = [len(object_spans(text)) for text in TEXTS]
    assert counts.count(0) > 50 and sum(count > 1 for count in counts) > 50
    tricky = '{"note": "]}{[\\"", "in": [{"a": []}], ' + ITEM[1:]
    text = f"<answer> [{tricky}, {ITEM}]\n</answer> [{ITEM}]"
    assert [text[start:end] for start, end in object_spans(text)] == [tricky, ITEM]
    # SAM2 cannot use these.
    half = f'[{ITEM}, {{"bbox_2d": [1]}}]'
    for body in ("", "[]", ITEM, f"[{ITEM}", f"[{ITEM}, 5]", half, "[[]]"):
        assert object_spans(f"<answer>{body}</answer>") == [], body


def test_spans_take_linear_time():
    text = "<answer>[" + ", ".join([ITEM] * 5_000) + "]</answer>"
    assert len(object_spans(text)) == 5_000
    assert object_spans("<answer>[" + '"\\' * 100_000 + "</answer>") == []


# Tokens


def test_bytes_are_what_the_tokenizer_decodes(tokenizer):
    for seed in range(300):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(len(tokenizer) + 20, size=rng.integers(1, 40)).tolist()
        decoded = b"".join(token_bytes(tokens, tokenizer)).decode("utf-8", "replace")
        assert decoded == tokenizer.decode(tokens, skip_special_tokens=True)
    own = AutoTokenizer.from_pretrained(SMOKE.mllm)
    own.add_tokens([AddedToken("<tool call>", special=False)])  # so it is text
    tokens = encode(own, "a<tool call>b")
    assert own.decode(tokens, skip_special_tokens=True) == "a<tool call>b"
    assert b"".join(token_bytes(tokens, own)) == b"a<tool call>b"


def test_completions_by_hand(tokenizer):
    tokens = encode(tokenizer, complete(ORANGE, APPLE, thinking="The orange and apple.")) + [
        tokenizer.eos_token_id
    ]
    assert by_segment(tokenizer, tokens) == {
        0: b'bbox_2d": [20, 20, 69, 69], "point_2d": [45, 45',
        1: b'bbox_2d": [100, 60, 149, 109], "point_2d": [125, 85',
        SHARED: b'<think>The orange and apple.</think>\n<answer>[{"]}, {"]}]</answer>',
    }
    assert token_segments(tokens, tokenizer)[-1] == SHARED
    unusable = complete(ORANGE).replace("point_2d", "point")
    assert (token_segments(encode(tokenizer, unusable), tokenizer) == SHARED).all()
    # An object that is written in the thinking is none of the answer's.
    thought = f"<think>[{ITEM}]</think>"
    text = thought + complete(APPLE)[len("<think>Orange and apple.</think>") :]
    assert by_segment(tokenizer, encode(tokenizer, text))[SHARED].startswith(thought.encode())
    # Repeated objects are segments of their own.
    segments = token_segments(encode(tokenizer, complete(ORANGE, ORANGE, ORANGE)), tokenizer)
    assert [(segments == k).sum() for k in range(3)] == [(segments == 0).sum()] * 3
    assert (np.diff(segments[segments >= 0]) >= 0).all()


def expected_segments(tokens: list[int], tokenizer) -> list[int]:
    """Plainly: of each token, take every byte's segment from the text cut into prefixes."""
    pieces = token_bytes(tokens, tokenizer)
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    owner: list[int] = []
    for index, character in enumerate(text):
        mine = [k for k, (a, b) in enumerate(object_spans(text)) if a <= index < b]
        owner += [*mine, SHARED][:1] * len(character.encode("utf-8", "surrogateescape"))
    segments, at = [], 0
    for piece in pieces:
        owners = set(owner[at : at + len(piece)])
        segments.append(owners.pop() if len(owners) == 1 else SHARED)
        at += len(piece)
    return segments


def test_a_token_belongs_to_the_segment_that_holds_all_of_it(tokenizer):
    kinds = set()
    for seed in range(60):
        tokens = random_tokens(tokenizer, seed)
        segments = token_segments(tokens, tokenizer).tolist()
        assert segments == expected_segments(tokens, tokenizer)
        kinds.update(segments)
    assert kinds >= {SHARED, 0, 1, 2}


def test_segments_agree_with_the_answer_that_the_text_parses_to(tokenizer):
    """Also where bytes are no UTF-8: the rewards come from the text, the segments from bytes."""
    objects = 0
    for seed in range(300, 900):
        tokens = random_tokens(tokenizer, seed)
        answer = parse_answer(tokenizer.decode(tokens, skip_special_tokens=True))
        segments = token_segments(tokens, tokenizer)
        named = set(segments[segments >= 0].tolist())
        assert named == set(range(len(answer.objects)))
        objects += len(named)
    assert objects > 100


def test_tokens_that_split_or_break_a_character_belong_where_it_stands(tokenizer):
    text = complete(ORANGE, thinking="Hot 汤 soup").replace('{"bbox', '{"名": "苹", "bbox')
    joined = by_segment(tokenizer, encode(tokenizer, text))
    assert len(encode(tokenizer, "汤")) > 1
    assert " 汤 soup".encode() in joined[SHARED]
    assert "苹".encode() in joined[0] and "名".encode() in joined[0]
    broken = encode(tokenizer, "<think>Hot") + encode(tokenizer, "汤")[:1] * 3
    broken += encode(tokenizer, complete(ORANGE)[len("<think>") :])
    first = by_segment(tokenizer, broken)[0]
    assert first.startswith(b"bbox_2d") and first.endswith(b"45, 45")


def test_special_tokens_are_shared_and_move_nothing(tokenizer):
    tokens = encode(tokenizer, complete(ORANGE, APPLE))
    plain = token_segments(tokens, tokenizer)
    for special in (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer) + 5):
        for place in (0, 3, len(tokens) // 2, len(tokens)):
            with_one = token_segments([*tokens[:place], special, *tokens[place:]], tokenizer)
            assert with_one[place] == SHARED
            assert (np.delete(with_one, place) == plain).all()


# Rewards

NEAR = Reference(box=(30, 20, 79, 69), point=(46, 45))  # IoU 2/3; mean |delta| 5 of 2 px


@pytest.mark.parametrize(
    "completion, stands_for, found",
    [
        (complete(APPLE, NEAR), [1, 0], [2, 3]),
        (complete(WRONG, ORANGE), [1, 0], [3, 0]),  # stands for what is left over
        (complete(APPLE), [1], [0, 3]),
        ("<think>a</think> [1]", [], [0, 0]),
        (complete(ORANGE).replace("45]", "true]"), [], [0, 0]),
        (complete(ORANGE, thinking=""), [0], [3, 0]),
        ("No. No. No.", [], [0, 0]),
    ],
)
def test_an_object_earns_for_the_true_one_it_stands_for(completion, stands_for, found):
    (one,) = rewards_of(completion)
    assert one.stands_for.tolist() == stands_for and one.found.tolist() == found


def test_one_too_many_stands_for_nothing():
    (more,) = rewards_of(complete(APPLE, ORANGE, ORANGE))
    assert sorted(more.stands_for.tolist()) == [NO_OBJECT, 0, 1] and more.found.tolist() == [3, 3]


# Advantages


def test_equal_totals_by_hand():
    """Notebook 03's example: a holistic advantage is 0, and each completion got one object right.

    Each true object: 3 and 0 points, mean 1.5, std 2.12.
    """
    texts = [complete(ORANGE, WRONG), complete(APPLE, WRONG)]
    totals = [score_answer(parse_answer(text), TRUTH, THRESHOLDS).total for text in texts]
    assert totals == [5.5, 5.5] and not group_advantages([totals])[0].any()
    for one in segment_advantages(rewards_of(*texts)):
        assert one == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-5)


def test_the_true_object_and_not_the_place_in_the_list_is_compared():
    straight = segment_advantages(rewards_of(complete(ORANGE, APPLE), complete(WRONG, APPLE)))
    swapped = segment_advantages(rewards_of(complete(APPLE, ORANGE), complete(APPLE, WRONG)))
    for one, other in zip(straight, swapped, strict=True):
        assert one.tolist() == other[::-1].tolist()
    assert straight[0][0] > 0.7 and straight[0][1] == straight[1][1] == 0


@pytest.mark.parametrize(
    "texts, expected",
    [
        # Found by one of four, (3 - 0.75) / 1.5: what is left out counts as 0.
        ([complete(APPLE, ORANGE), *[complete(APPLE)] * 3], [[0, 1.5], [0], [0], [0]]),
        # An unusable answer has found nothing.
        ([complete(ORANGE), "The orange."], [[0.5**0.5], []]),
        # An object too many: 0 among 0, 1, 1, without the unusable answer; (0 - 2/3) / 0.577.
        (
            [complete(ORANGE, APPLE, WRONG), complete(ORANGE, APPLE), complete(APPLE, ORANGE), "-"],
            [[0.5, 0.5, -(2 / 3) * 3**0.5], [0.5, 0.5], [0.5, 0.5], []],
        ),
        ([complete(ORANGE, WRONG, APPLE), "-"], [[0.5**0.5, 0, 0.5**0.5], []]),
    ],
)
def test_advantages_of_objects_by_hand(texts, expected):
    objects = segment_advantages(rewards_of(*texts))
    for ours, theirs in zip(objects, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert not ours[np.equal(theirs, 0)].any()  # 0 exactly


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 1])
def test_blended_advantages_of_every_token(tokenizer, weight):
    texts = [complete(ORANGE, WRONG), complete(ORANGE, APPLE), complete(WRONG), "Orange. Hm."]
    group = group_of(tokenizer, texts)
    (whole,) = group_advantages([group.rewards])
    (tokenwise,) = segmented([group], tokenizer, weight=weight, of="advantages")
    objects = segment_advantages(rewards_of(*texts))
    assert whole.any() and any(one.any() for one in objects)
    for i, text in enumerate(texts):
        segments = token_segments(encode(tokenizer, text), tokenizer)
        expected = [
            whole[i] if s == SHARED else (1 - weight) * whole[i] + weight * objects[i][s]
            for s in segments.tolist()
        ]
        assert tokenwise[i].tolist() == expected


@pytest.mark.parametrize("weight", [0.3, 0.5, 1])
def test_blended_rewards_of_every_token(tokenizer, weight):
    """Worked by hand: R is 7, 5.5, 4 and 1 of 7; one object too many is in the first alone."""
    texts = [
        complete(ORANGE, APPLE, WRONG), complete(ORANGE, APPLE), complete(WRONG, APPLE), "Hm. Hm.",
    ]  # fmt: skip
    rewards = [5.5, 7.0, 4.0, 1.0]
    group = group_of(tokenizer, texts, rewards=rewards)
    (tokenwise,) = segmented([group], tokenizer, weight=weight)
    shares = {
        0: [1, 1, 0, 0],  # the orange
        1: [1, 1, 1, 0],  # the apple
        "too many": [0, 1, 1, None],  # what SAM2 can't use takes no part
    }

    def standardised(own):
        mixed = [
            None if share is None else (1 - weight) * reward / 7 + weight * share
            for reward, share in zip(rewards, own, strict=True)
        ]
        return group_advantages([mixed])[0]

    expected = {name: standardised(own) for name, own in shares.items()}
    (whole,) = group_advantages([rewards])
    names = [(0, 1, "too many"), (0, 1), (0, 1), ()]
    for i, text in enumerate(texts):
        own = [expected[name][i] for name in names[i]]
        place = {SHARED: whole[i]} | dict(enumerate(own))
        segments = token_segments(encode(tokenizer, text), tokenizer).tolist()
        assert tokenwise[i] == pytest.approx([place[s] for s in segments], abs=1e-9)
    both = segmented([group], tokenizer, weight=1, of="advantages")[0]
    if weight == 1:  # then an object's tokens have nothing of the whole in either blend
        assert all(map(np.array_equal, tokenwise, both))


def test_random_groups_are_finite_weight_0_is_holistic_and_equals_teach_nothing(tokenizer):
    groups = [
        group_of(
            tokenizer,
            TEXTS[start : start + size],
            references=(TRUTH * 2)[: start % 4],
            rewards=None if start % 3 else [0.1] * size,
        )
        for start, size in zip(range(0, 280, 14), [1, 2, 3, 4, 8] * 4, strict=True)
    ]
    holistic = group_advantages([group.rewards for group in groups])
    differ = 0
    for weight, of in ((0, "advantages"), *product((0.5, 1), ("advantages", "rewards"))):
        advantages = segmented(groups, tokenizer, weight=weight, of=of)
        for group, whole, one in zip(groups, holistic, advantages, strict=True):
            for tokens, advantage, values in zip(group.rollout.tokens, whole, one, strict=True):
                assert values.dtype == np.float64 and values.shape == tokens.shape
                assert np.isfinite(values).all()
                assert weight or (values == advantage).all()
                differ += bool((values != advantage).any())
    assert differ > 20
    equals = [complete(ORANGE, WRONG)] * 3
    for texts, weight in ((equals, 1), (equals[:1], 0.5)):
        for one in segmented([group_of(tokenizer, texts)], tokenizer, weight=weight)[0]:
            assert not one.any()
    for weight in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="weight"):
            blend([0.0], rewards_of(complete(ORANGE)), [np.array([0])], weight)


def test_the_picture_shows_every_token_and_names_the_segments(tokenizer):
    texts = [complete(ORANGE, WRONG), complete(ORANGE, APPLE, APPLE, thinking="Hm. " * 30)]
    group = group_of(tokenizer, texts)
    (advantages,) = segmented([group], tokenizer, weight=1)
    rows = {}
    for text, values in zip(texts, advantages, strict=True):
        tokens = encode(tokenizer, text)
        pieces = [piece.decode() for piece in token_bytes(tokens, tokenizer)]
        rows[text] = pieces, token_segments(tokens, tokenizer), values
    figure = segments_picture(rows)
    for ax, text in zip(figure.axes, texts, strict=True):
        written = [one.get_text() for one in ax.texts]
        characters = "".join(one for one in written if len(one) == 1)
        assert characters == text.replace("\n", "↵")
        labels = [one.rsplit(" ", 1)[0] for one in written if len(one) > 1]
        assert labels == [f"object {k + 1}" for k in range(text.count("bbox"))]
        assert all(0 <= one.get_position()[0] <= COLUMNS for one in ax.texts)
        assert all(0 <= one.get_position()[1] <= ax.get_ylim()[0] for one in ax.texts)
    assert style.to_png(figure).startswith(b"\x89PNG")
