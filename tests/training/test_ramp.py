"""Weights that rise over their first epochs, as published code has them rise."""

import pytest

from kdlab.training.ramp import ramp


@pytest.mark.parametrize(
    ("shape", "epochs", "expected"),
    [
        ("linear", 20, {0: 0.05, 9: 0.5, 19: 1.0, 100: 1.0}),
        ("from_zero", 20, {0: 0.0, 10: 0.5, 20: 1.0, 100: 1.0}),
        # exp(−5), exp(−5/4), 1: to six digits, from a table of the exponential function.
        ("sigmoid", 80, {0: 0.006738, 40: 0.286505, 80: 1.0, 300: 1.0}),
        ("sigmoid", 0, {0: 1.0, 5: 1.0}),
    ],
)
def test_a_ramp_rises_as_it_is_written(shape, epochs, expected):
    assert {epoch: ramp(epoch, epochs, shape) for epoch in expected} == pytest.approx(expected, abs=1e-6)


def test_a_ramp_below_one_is_a_share_of_the_phase():
    for epoch in range(300):  # Lan1991Xu/ONE_NeurIPS2018 cifar_one.py:37 and :43: 80 epochs of 300
        assert ramp(epoch, 80 / 300, "sigmoid", 300) == pytest.approx(ramp(epoch, 80, "sigmoid", 300), abs=1e-12)
    # Of 30 epochs 8: exp(−5 (1 − 4/8)²), and whole from the ninth on.
    assert [ramp(epoch, 80 / 300, "sigmoid", 30) for epoch in (4, 8, 29)] == pytest.approx([0.286505, 1, 1], abs=1e-6)
    assert [ramp(epoch, 0.5, "linear", 4) for epoch in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert ramp(0, 1, "linear", 30) == 1.0
