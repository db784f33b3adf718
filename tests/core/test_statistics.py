"""Numbers of few seeds, against tables, published examples and calculation by hand."""

from math import sqrt

import pytest

from kdlab.core.statistics import bootstrap, holm, least_p, mean, paired, significant_sign, wilcoxon


def test_t_interval_of_five_seeds_takes_the_quantile_of_the_tables():
    # 1 to 5: mean 3, standard deviation √2.5; two-sided 5 % point of t with 4 degrees of freedom: 2.776.
    found = mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3
    assert found.deviation == pytest.approx(sqrt(2.5))
    assert found.margin == pytest.approx(2.776 * sqrt(2.5) / sqrt(5), abs=1e-3)
    assert found.interval == pytest.approx((1.037, 4.963), abs=1e-3)


def test_sleep_of_students_ten_patients_is_tested_as_in_every_textbook():
    # Student 1908: hours of sleep gained with two drugs; mean 1.58, 95 % interval 0.70 to 2.46, Wilcoxon p 0.0039.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired(second, first)
    assert found.mean.value == pytest.approx(1.58)
    assert found.mean.interval == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert found.p == pytest.approx(0.002833, abs=1e-6)  # t = 4.0621 with 9 degrees of freedom
    assert found.wilcoxon == pytest.approx(2 / 2**9)  # nine that are not zero, all of one sign


def test_one_seed_has_a_mean_and_no_interval():
    found = paired([0.9], [0.8])
    assert found.mean.value == pytest.approx(0.1)
    assert found.mean.interval is None
    assert found.bootstrap is None
    assert found.p == found.wilcoxon == 1


def test_seeds_that_agree_leave_no_interval_to_speak_of():
    found = paired([0.9, 0.9, 0.9], [0.9, 0.9, 0.9])
    assert found.mean.interval == (0, 0)
    assert found.bootstrap == (0, 0)
    assert found.p == found.wilcoxon == 1
    assert paired([0.75, 0.75, 0.75], [0.5, 0.5, 0.5]).p == 0


def test_a_difference_is_significant_with_a_p_below_five_percent():
    assert [significant_sign(*pair) for pair in ((0.1, 0.049), (-0.1, 0.049), (0.1, 0.051), (0.0, 1.0))] == [
        1,
        -1,
        0,
        0,
    ]


def test_bootstrap_of_two_values_has_their_own_ends():
    # Of the four equally likely draws of two from {0, 1}, a quarter is (0, 0) and a quarter (1, 1).
    assert bootstrap([0.0, 1.0]) == (0, 1)


def test_bootstrap_agrees_with_the_normal_interval_of_many_values():
    values = [float(value) for value in range(200)]
    margin = 1.96 * sqrt((200**2 - 1) / 12) / sqrt(200)
    assert bootstrap(values) == pytest.approx((99.5 - margin, 99.5 + margin), abs=0.5)
    assert bootstrap(values) == bootstrap(values)


def test_bootstrap_is_narrower_than_t_with_five_seeds():
    values = [0.001, 0.012, 0.018, 0.025, 0.025]
    low, high = bootstrap(values)
    assert high - low < 2 * mean(values).margin


def test_five_seeds_of_one_sign_reach_a_sixteenth_and_no_less():
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5]) == 0.0625 == least_p(5)
    assert least_p(6) == 0.03125
    assert least_p(1) == 1


def test_differences_by_as_many_samples_tie_whatever_float32_made_of_them():
    # Ranks 1, 2.5, 2.5, 4: negative ones that add up to 2.5 or less are {}, {1}, {2.5}, {2.5}, 4 of 16 on each side.
    assert wilcoxon([0.0025, 0.0050000001, -0.0049999999, 0.0075]) == wilcoxon([1, 2, -2, 3])
    assert wilcoxon([1, 2, -2, 3]) == 8 / 16


def test_pairs_must_be_equally_many():
    with pytest.raises(ValueError, match="shorter"):
        paired([0.9, 0.8], [0.7])


def test_holm_multiplies_the_smallest_by_all_and_the_next_by_one_less():
    # Steps: 4 × 0.005, 3 × 0.01, 2 × 0.03, and 1 × 0.04 that must not fall below the step before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one_and_leaves_a_single_test_alone():
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
