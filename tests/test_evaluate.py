"""Evaluation: nothing is dropped, pixels are the original image's, files round-trip."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_same_masks
from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.files import write_lines
from foodseg.data.references import Reference, decode_mask
from foodseg.data.samples import Sample
from foodseg.evaluation.base_rows import (
    BEST_OF,
    PARENTS,
    SAMPLES,
    best_of,
    evaluate_any_form,
    evaluate_best_of,
    evaluate_parents,
)
from foodseg.evaluation.evaluate import evaluate, evaluate_bound, segment
from foodseg.evaluation.predictions import compare, load_predictions, load_result, summarise
from foodseg.models.rollouts import sample_rollouts
from foodseg.models.segmenter import Segmenter
from foodseg.presets import SMOKE, Protocol
from foodseg.rl.answers import parse_answer
from foodseg.rl.evidence import to_original
from foodseg.rl.named_foods import FOOD_NAMES, food_names, named_in_conclusion
from foodseg.system import roll_out


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(SMOKE.segmenter_config)  # random weights: only the plumbing is under test


def answer_text(box, point):
    return (
        "<think>It is the rice.</think>\n"
        f'<answer>[{{"bbox_2d": {list(box)}, "point_2d": {list(point)}}}]</answer>'
    )


def test_answers_are_scaled_to_the_original_image_and_clipped(test_samples):
    sample = test_samples[0]
    assert sample.width == 336
    answer = parse_answer(answer_text((-5, 10, 84, 1e308), (42.4, 20)))
    [reference] = to_original(answer, sample, 168)
    last_row = int(167 * sample.height / 168 + 0.5)
    assert reference.box == (0, int(10 * sample.height / 168 + 0.5), 168, last_row)
    assert reference.point == (85, int(20 * sample.height / 168 + 0.5))


def test_what_cannot_be_parsed_scores_zero_over_the_ground_truth(test_samples, segmenter):
    texts = ["I see no food.", answer_text((1, 1, 60, 60), (30, 30))]
    answers = [parse_answer(text) for text in texts]
    references = [to_original(a, s, 168) for a, s in zip(answers, test_samples[:2], strict=True)]
    lost, found = segment(SMOKE, "test", test_samples[:2], answers, references, segmenter)
    assert not lost.parsed and lost.intersection == 0
    assert lost.union == test_samples[0].union_mask().sum()
    assert [lost.image, found.image] == [sample.image for sample in test_samples[:2]]
    assert found.parsed and found.foods_named == ("rice",)
    mask = decode_mask(found.mask)
    truth = test_samples[1].union_mask()
    assert mask.shape == truth.shape == (test_samples[1].height, test_samples[1].width)
    assert found.intersection == (mask & truth).sum() and found.union == (mask | truth).sum()
    assert summarise([lost, found])["parse_rate"] == 0.5


def test_the_right_foods_are_all_that_are_asked_for_and_no_other(test_samples):
    sample = next(sample for sample in test_samples if len(sample.foods) > 1)
    for foods, right in (
        (sample.foods, True), (sample.foods[::-1], True), (sample.foods[:1], False), ((), False),
        ((*sample.foods, "a food of no plate"), False),
    ):  # fmt: skip
        assert compare(sample, sample.union_mask(), True, "", foods).foods_right is right


def test_masks_are_united_over_references(test_samples, segmenter):
    two = (Reference((0, 0, 100, 100), (50, 50)), Reference((200, 100, 300, 200), (250, 150)))
    masks = []
    for references in (two, two[:1], two[1:]):
        answered = [test_samples[0]], [parse_answer("")], [references]
        [made] = segment(SMOKE, "test", *answered, segmenter)
        masks.append(decode_mask(made.mask))
    assert_same_masks(masks[0], masks[1] | masks[2])


def test_predictions_of_another_version_are_refused_by_file_and_field(tmp_path):
    write_lines(tmp_path / "predictions.jsonl", [{"sample_id": "test-1-0", "references": []}])
    with pytest.raises(DataError, match=r"predictions\.jsonl: field image is missing.*again"):
        load_predictions(tmp_path)


def test_every_sample_is_answered_in_order_and_files_round_trip(
    test_samples, segmenter, kitchen_mllm
):
    result = evaluate(SMOKE, "base", test_samples, kitchen_mllm, segmenter)
    predictions = load_predictions(SMOKE.predictions_folder("base"))
    assert [p.sample_id for p in predictions] == [s.sample_id for s in test_samples]
    assert result["samples"] == len(test_samples)
    assert load_result(SMOKE.predictions_folder("base")) == result
    assert result["giou"] == pytest.approx(np.mean([p.intersection / p.union for p in predictions]))
    assert result["giou_interval"][0] <= result["giou"] <= result["giou_interval"][1]
    bound = evaluate_bound(SMOKE, test_samples, segmenter)
    assert bound["samples"] == len(test_samples) and bound["parse_rate"] == 1.0


def test_own_names_are_looked_for_where_they_are_asked_for(test_samples):
    own = replace(test_samples[0], foods=("dragon fruit",), question="Which one is pink?")
    names = food_names([own])
    assert names[:-1] == FOOD_NAMES == food_names(test_samples) and names[-1] == "dragon fruit"
    answer = parse_answer("<think>It is the dragon fruits.</think><answer>[]</answer>")
    assert named_in_conclusion(answer, own, names) == ("dragon fruit",)
    assert named_in_conclusion(answer, own) == ()


def named(sample: Sample, thinking: str) -> tuple[str, ...]:
    answer = parse_answer(f"<think>{thinking}</think><answer>[]</answer>")
    return named_in_conclusion(answer, sample, food_names([sample]))


@pytest.mark.parametrize(
    "thing, said",
    [
        ("tomatoes", "It is the tomato."),
        ("eggs", "The egg, and once more the eggs."),  # one food
        ("strawberries", "A strawberry"),
        ("tomato", "Tomatoes are"),
        ("leaves", "Every leaf"),
        ("spring_onion", "The spring onions"),
        ("spring_onion", "The spring-onion"),
        ("Chicken", "The chickens"),
        ("kimchi (spicy)", "Of course kimchi (spicy)!"),
        ("豆腐", "我们有豆腐。"),
    ],
)
def test_a_thing_of_ones_own_is_found_in_singular_or_plural(test_samples, thing, said):
    own = replace(test_samples[0], foods=(thing,), question="Which one is it?")
    assert named(own, f"Not the rice. {said}") == (thing,)
    assert named(own, f"Rice goes with {said}") == ("rice", thing)


def test_what_the_question_says_makes_no_conclusion(test_samples):
    """Its words are taken out first, those of all its sentences."""
    question = "I have rice and corn. Which food here goes into an orange juice?"
    asked = replace(test_samples[0], foods=("orange",), question=question)
    for said in (
        "It is the orange. So the juice is sweet.",
        "It is the orange. It goes with rice.",
        "Orange and corn. Corn is what I have.",
        "Not the lemon. The juice needs the oranges",
    ):
        assert named(asked, said) == ("orange",)
    assert named(asked, "It is the orange. Or the lemon. A juice.") == ("lemon",)
    assert named(asked, "Rice and corn.") == ()


def test_the_bases_answers_are_scored_again_in_any_form(test_samples, segmenter):
    """The same masks as in the paper's form, which alone is scored elsewhere."""
    boxes = [((10 + i, 10, 80, 90), (30, 40)) for i in range(len(test_samples))]
    strict = [parse_answer(answer_text(*one)) for one in boxes]
    references = [to_original(a, s, 168) for a, s in zip(strict, test_samples, strict=True)]
    expected = segment(SMOKE, "strict", test_samples, strict, references, segmenter)
    prose = [f"The rice lies at {box}, around {point}." for box, point in boxes]
    result = evaluate_any_form(SMOKE, test_samples, prose, segmenter)
    predictions = load_predictions(SMOKE.predictions_folder("base-any-form"))
    assert [p.completion for p in predictions] == prose and result["parse_rate"] == 1
    assert [p.mask for p in predictions] == [p.mask for p in expected]
    assert [p.references for p in predictions] == references


def test_of_several_samples_the_best_counts_and_the_mean_is_told(
    test_samples, segmenter, kitchen_mllm
):
    preset = replace(SMOKE, evaluation_batch=2)
    result = evaluate_best_of(preset, test_samples[:3], kitchen_mllm, segmenter)
    predictions = load_predictions(SMOKE.predictions_folder(BEST_OF))
    assert [p.sample_id for p in predictions] == [s.sample_id for s in test_samples[:3]]
    # The rollouts of each batch, by hand.
    ious = []
    for i, batch in ((0, test_samples[:2]), (2, test_samples[2:3])):
        rollouts = roll_out(kitchen_mllm, preset, batch, SAMPLES, 1.0, i)
        for sample, rollout in zip(batch, rollouts, strict=True):
            answers = [parse_answer(text) for text in rollout.texts]
            found = [to_original(answer, sample, 168) for answer in answers]
            run = segment(preset, "one", [sample] * SAMPLES, answers, found, segmenter)
            ious.append([p.intersection / p.union for p in run])
    assert result["giou"] == pytest.approx(np.mean(np.max(ious, axis=1)))
    assert result["sampled_giou"] == pytest.approx(np.mean(ious))


def test_the_base_is_asked_as_the_parents_ask_it(test_samples, segmenter, kitchen_mllm):
    """Prompt, penalty, length and resizing; everything is as before when it is done."""
    preset = replace(SMOKE, evaluation_batch=2, parents=Protocol("Find {question}!", 12))
    own = kitchen_mllm.template
    kitchen_mllm.model.generation_config.repetition_penalty = 4.0
    asked = test_samples[:3]
    result = evaluate_parents(preset, asked, kitchen_mllm, segmenter)
    predictions = load_predictions(SMOKE.predictions_folder(PARENTS))
    assert kitchen_mllm.template == own and result["repetition_penalty"] == 4.0
    assert [p.sample_id for p in predictions] == [sample.sample_id for sample in asked]
    kitchen_mllm.template = "Find {question}!"
    for sample, prediction in zip(asked, predictions, strict=True):
        assert sample.question[0].isupper() and sample.question.endswith("?")
        question = sample.question[:-1].lower()
        plate = Image.open(SMOKE.dataset / sample.image).convert("RGB")
        photo = plate.resize((168, 168), Image.Resampling.BILINEAR)
        assert photo.tobytes() != kitchen_mllm.resize(plate).tobytes()
        prompts = kitchen_mllm.embed_prompts([question], kitchen_mllm.embed_images([photo]))
        options = {"group_size": 1, "max_new_tokens": 12, "temperature": 0.0}
        [rollout] = sample_rollouts(kitchen_mllm, prompts, repetition_penalty=4.0, **options)
        assert rollout.texts[0] == prediction.completion
        [plain] = sample_rollouts(kitchen_mllm, prompts, **options)
        assert len(rollout.tokens[0]) == 12 and plain.texts != rollout.texts


def test_the_first_of_equal_samples_is_kept(test_samples):
    masks = [np.zeros((s.height, s.width), dtype=bool) for s in test_samples[:2]]
    truth = [s.union_mask() for s in test_samples[:2]]
    run = [compare(test_samples[0], masks[0], True, str(i)) for i in range(SAMPLES)]
    run += [compare(test_samples[1], truth[1] & (i > 1), True, str(i)) for i in range(SAMPLES)]
    best, mean = best_of(run)
    assert [p.completion for p in best] == ["0", "2"]
    assert mean == pytest.approx((SAMPLES - 2) / (2 * SAMPLES))
