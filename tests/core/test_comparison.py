"""Comparisons say better or worse by the paired t test after Holm, and say with how many seeds."""

import pytest

from kdlab.core.comparison import compare, format_difference, format_interval, format_mean

BASE = dict.fromkeys(range(1, 6), 0.5)
GAINS = {seed: 0.5 + seed / 100 for seed in range(1, 6)}
"""Differences of 1 to 5 by 1/100: t = 3 / (√2.5 / √5) = 4.243 with 4 degrees of freedom, p 0.013236; ± 0.0196."""


def test_a_single_comparison_states_every_test():
    (found,) = compare([("dkd", "kd", GAINS, BASE)])
    assert (found.name, found.seeds, found.tests) == ("dkd − kd", (1, 2, 3, 4, 5), 1)
    assert (found.p_holm, found.wilcoxon_holm) == pytest.approx((0.013236, 2 / 32), abs=1e-6)
    assert found.better("max") is True
    assert found.better("min") is False
    start = "dkd is better than kd: +0.0300 on average over 5 seeds, 95 % interval +0.0104 to +0.0496"
    said = found.sentence("max")
    assert said.startswith(f"{start} (t), +0.0180 to +0.0420 (bootstrap); Wilcoxon p 0.0625")
    assert said.endswith(", the smallest possible with so few seeds.")
    assert found.sentence("max", every_test=False) == f"{start}."
    assert found.sentence("min").startswith("dkd is worse than kd: +0.0300")


def test_signs_that_differ_are_not_the_smallest_wilcoxon_p_that_there_is():
    mixed = {**GAINS, 1: 0.49}
    (found,) = compare([("dkd", "kd", mixed, BASE)])
    assert found.sentence("max").endswith("Wilcoxon p 0.125.")


def test_several_comparisons_are_corrected_for_their_number():
    found = compare([(f"loss{place}", "kd", GAINS, BASE) for place in range(4)])
    assert [one.p_holm for one in found] == pytest.approx([4 * 0.013236] * 4, rel=1e-3)
    assert [one.wilcoxon_holm for one in found] == pytest.approx([4 * 0.0625] * 4)
    assert {one.better("max") for one in found} == {None}
    assert found[0].sentence("max") == (
        "loss0 does not differ significantly from kd: +0.0300 on average over 5 seeds, 95 % interval +0.0104 to "
        "+0.0496 uncorrected; t test, Holm-corrected for 4 comparisons: p 0.0529."
    )


def test_only_common_seeds_are_compared():
    (found,) = compare([("dkd", "kd", {1: 0.9, 2: 0.8, 3: 0.7}, {3: 0.6, 2: 0.6}), ("at", "kd", {1: 0.9}, {2: 0.9})])
    assert found.seeds == (2, 3)
    assert found.paired.differences == pytest.approx((0.2, 0.1))


def test_one_seed_says_little():
    (found,) = compare([("dkd", "kd", {1: 0.75}, {1: 0.875})])
    assert found.sentence("max") == "dkd − kd: −0.1250 with one seed, which says little."
    assert found.better("max") is None


def test_numbers_are_written_with_a_proper_minus_and_their_spread():
    assert format_difference(-0.5) == "−0.5000"
    assert format_interval((-0.5, 0.25)) == "−0.5000 to +0.2500"
    assert format_interval(None) == ""
    # 1, 2, 3: deviation 1; t(2) 4.3027 / √3 = 2.4841.
    assert format_mean([1.0, 2.0, 3.0]) == "2.0000\n± 2.4841"
    assert format_mean([1.0, 2.0, 3.0], " ", deviation=True) == "2.0000 ± 1.0000"
    assert [format_mean(values) for values in ([], [0.5], [0.5, 0.5])] == ["", "0.5000", "0.5000"]
