"""Intervals over plates and seeds: by formula where there is one, and by simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from foodseg.evaluation.intervals import (
    PlateSums,
    difference_interval,
    interval,
    sum_by_plate,
)
from foodseg.evaluation.metrics import measure

PLATES, QUESTIONS = 120, 3
# Standard deviations of a plate's score, measured on GRPO's and DAPO's test predictions: of its
# mean over seeds, and of what neither its mean nor the seed explains.
PLATE_SD, ANSWER_SD = 0.11, 0.055


def mean_of(values: np.ndarray) -> PlateSums:
    """(seeds, plates) scores of one question each."""
    return PlateSums(values, np.ones_like(values))


def test_questions_and_their_seeds_are_added_up_by_plate():
    sums = sum_by_plate(np.array([[1, 2, 4], [8, 16, 32]]), ["b", "a", "b"])
    assert sums.tolist() == [[2, 5], [16, 40]]


def test_of_one_run_it_is_students_interval_over_plates():
    """Of n independent 0/1 samples with p = 0.5: 0.5 ± t sqrt(0.25 / (n - 1))."""
    half = stats.t.ppf(0.975, 399) * 0.5 / np.sqrt(399)
    got = measure(np.arange(400) % 2, np.ones(400), [f"{i}" for i in range(400)])
    # 2,000 draws find a 2.5% quantile within 0.04 of a standard error of 0.025.
    for found in (got.giou_interval, got.ciou_interval):
        assert found == pytest.approx((0.5 - half, 0.5 + half), abs=0.004)
    # Four equal questions of a plate tell no more than one.
    plates = [f"{i // 4}" for i in range(1600)]
    got = measure(np.repeat(np.arange(400) % 2, 4), np.ones(1600), plates)
    assert got.giou_interval == pytest.approx((0.5 - half, 0.5 + half), abs=0.004)


def test_interval_of_ciou_is_of_the_ratio_of_sums_and_by_the_seed_alone():
    generator = np.random.default_rng(0)
    u = generator.uniform(50, 150, (1, 200))
    i = u * generator.uniform(0.4, 1, (1, 200))
    low, high = interval(PlateSums(i, u))
    ratio = i.sum() / u.sum()  # its standard error by the delta method
    half = stats.t.ppf(0.975, 199) * ((i - ratio * u) / u.mean()).std(ddof=1) / np.sqrt(200)
    # 2,000 draws find a 2.5% quantile within 0.04 of a standard error.
    assert (low, high) == pytest.approx((ratio - half, ratio + half), abs=0.1 * half)
    sums = PlateSums(i, u)
    assert interval(sums, seed=3) == interval(sums, seed=3) != interval(sums, seed=4)


def test_seeds_alone_give_students_interval_of_their_scores():
    """Plates that are all the same and answers without noise: only the seeds scatter."""
    scores = np.array([0.50, 0.52, 0.47, 0.55, 0.49, 0.51, 0.53, 0.48])
    low, high = interval(mean_of(np.repeat(scores[:, None], PLATES, axis=1)))
    half = stats.t.ppf(0.975, 7) * scores.std(ddof=1) / np.sqrt(8)
    # The mean of eight draws is not quite normal; 2,000 draws: 0.04 of a standard error.
    assert (low, high) == pytest.approx(
        (scores.mean() - half, scores.mean() + half), abs=0.1 * half
    )


def test_what_is_hard_for_both_rows_takes_no_part_in_their_difference():
    generator = np.random.default_rng(0)
    plates = generator.uniform(0.2, 0.8, PLATES)
    seeds = np.array([[0.01], [-0.01], [0.0]])
    row, other = mean_of(plates + 0.1 + seeds), mean_of(plates + seeds)
    low, high = difference_interval(row, other)
    # Two means of three seeds of deviation 0.01, four degrees of freedom: 2.78 x 0.0082.
    assert low == pytest.approx(0.1 - 0.0227, abs=0.003)
    assert high == pytest.approx(0.1 + 0.0227, abs=0.003)
    wide = interval(row)
    assert wide[1] - wide[0] > 1.3 * (high - low)


def test_what_the_seeds_scatter_by_the_noise_of_answers_counts_once():
    """Plates and seeds that scatter by just as much as the noise of their own answers makes them.

    So the seeds have no scatter of their own, and the interval is that of the plates' means, whose
    standard error is sqrt(noise / answers); its degrees of freedom are still of both.
    """
    generator, seeds, plates = np.random.default_rng(0), 8, 120
    noise = generator.normal(0, ANSWER_SD, (seeds, plates))
    noise -= noise.mean(axis=0)
    noise -= noise.mean(axis=1, keepdims=True)
    variance = (noise**2).sum() / ((seeds - 1) * (plates - 1))

    def unit(count: int) -> np.ndarray:
        values = generator.normal(size=count)
        return (values - values.mean()) / values.std(ddof=1)

    of_plates, of_seeds = np.sqrt(variance / seeds), np.sqrt(variance / plates)
    values = 0.5 + noise + of_plates * unit(plates) + of_seeds * unit(seeds)[:, None]
    low, high = interval(mean_of(values), resamples=20_000)
    freedom = 1 / (1 / (plates - 1) + 1 / (seeds - 1))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance / (seeds * plates))
    # 20,000 draws find the ends within 0.01 of it; counted twice, the noise makes it 1.4 times.
    assert high - low == pytest.approx(2 * half, rel=0.025)


@pytest.mark.parametrize("of", ["plates", "seeds"])
def test_five_draws_of_five_scatter_as_much_as_students_interval_says(of):
    values = 0.5 + 0.05 * stats.norm.ppf((np.arange(5) + 0.5) / 5)
    row = values[None] if of == "plates" else np.repeat(values[:, None], PLATES, axis=1)
    low, high = interval(mean_of(row), resamples=20_000)
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    # Not stretched by sqrt(5 / 4) it would be 0.9 of that.
    assert high - low == pytest.approx(2 * half, rel=0.03)


def test_the_other_way_round_a_difference_has_the_same_interval_turned():
    generator = np.random.default_rng(0)
    seeds = generator.normal(0, 0.2, (2, 4, 1))  # drawn in another order they give another interval
    one, other = (mean_of(of_seeds + generator.random((4, 30))) for of_seeds in seeds)
    low, high = difference_interval(one, other)
    assert difference_interval(other, one) == (-high, -low)


def test_few_plates_seeds_and_empty_unions_give_intervals_within_the_scale():
    one = PlateSums(np.array([[3.0]]), np.array([[4.0]]))
    assert interval(one) == (0.75, 0.75) and difference_interval(one, one) == (0, 0)
    two = mean_of(np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert interval(two) == (0, 1)
    assert difference_interval(two, mean_of(np.array([[0.0, 0.0], [0.0, 1.0]]))) == (-1, 1)
    seeds = PlateSums(np.array([[1.0], [2.0]]), np.array([[4.0], [4.0]]))
    low, high = interval(seeds)
    assert 0 <= low < 0.375 < high <= 1
    empty = PlateSums(np.zeros((2, 3)), np.zeros((2, 3)))
    assert interval(empty) == (0, 0)


def simulated_row(generator: np.random.Generator, plates: np.ndarray, seeds: int) -> PlateSums:
    """Seeds of deviation 0.01; plates: their scores."""
    answers = generator.normal(0, ANSWER_SD, (seeds, PLATES))
    values = plates + generator.normal(0, 0.01, (seeds, 1)) + answers
    return PlateSums(values * QUESTIONS, np.full_like(values, QUESTIONS))


@pytest.mark.parametrize("seeds", [3, 8])
def test_coverage(seeds):
    """95% intervals hold the truth in 92 to 98% of 300 simulated tables (2.4 standard errors)."""
    generator = np.random.default_rng(seeds)
    held = np.zeros(3)
    for trial in range(300):
        plates = 0.6 + generator.normal(0, PLATE_SD, PLATES)
        row, other = (simulated_row(generator, plates, seeds) for _ in range(2))
        means = [PlateSums(r.top.mean(0, keepdims=True), r.bottom[:1]) for r in (row, other)]
        draws = {"seed": trial, "resamples": 200}
        low, high = interval(row, **draws)
        ends = difference_interval(row, other, **draws), difference_interval(*means, **draws)
        held += [low < 0.6 < high, *(low < 0 < high for low, high in ends)]
    of_row, of_difference, over_plates_alone = held / 300
    assert 0.92 <= of_row <= 0.98 and 0.92 <= of_difference <= 0.98
    assert over_plates_alone < 0.85  # what the seeds' scatter adds


@pytest.mark.parametrize("seeds, least", [(8, 0.92), (3, 0.88)])
def test_coverage_where_a_rows_seeds_end_in_two_ways(seeds, least):
    """As trainings do that end step by step or at once, against a row of eight seeds.

    Of 1,500 tables eight seeds held the truth in 95%, three in 92%.
    """
    generator = np.random.default_rng(seeds)

    def row(plates: np.ndarray, seeds: int) -> PlateSums:
        ends = np.where(generator.random((seeds, 1)) < 0.25, 0.06, -0.02)
        values = simulated_row(generator, plates, seeds).top / QUESTIONS + ends
        return PlateSums(values * QUESTIONS, np.full_like(values, QUESTIONS))

    held = 0
    for trial in range(300):
        plates = 0.6 + generator.normal(0, PLATE_SD, PLATES)
        low, high = difference_interval(
            row(plates, 8), row(plates, seeds), seed=trial, resamples=200
        )
        held += low < 0 < high
    assert least <= held / 300 <= 0.98
