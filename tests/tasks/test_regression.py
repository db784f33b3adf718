"""Regression: squared errors of real values, and rows without a target."""

import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.tasks.regression import Regression

NAN = float("nan")


def test_it_is_the_mean_square_over_the_values_of_a_row():
    logits = torch.tensor([[1.0, 2.0], [0.0, -3.0], [5.0, 5.0]])
    target = torch.tensor([[0.0, 4.0], [-1.0, -3.0], [NAN, 5.0]])
    assert Regression().loss(logits, target).tolist() == [2.5, 0.5, 0.0]
    assert Regression().labelled(target).tolist() == [True, True, False]
    found = Regression().metrics()
    found.update(logits, target)
    assert {name: float(value) for name, value in found.compute().items()} == {
        "mean_squared_error": 1.5, "mean_absolute_error": 1.0,
    }  # fmt: skip


def test_one_value_may_be_a_plain_number_and_negative():
    assert Regression().loss(torch.tensor([[1.0], [2.0]]), torch.tensor([-1.0, NAN])).tolist() == [4.0, 0.0]


@pytest.mark.parametrize(("outputs", "values"), [(3, 1), (1, 3)])
def test_other_numbers_of_values_are_refused_and_not_spread(outputs, values):
    with pytest.raises(UsageError, match=f"the network has {outputs} outputs, and a target {values} values"):
        Regression().loss(torch.zeros(4, outputs), torch.ones(4, values))
