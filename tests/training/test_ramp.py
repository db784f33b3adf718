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
