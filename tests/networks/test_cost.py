"""What a network costs, counted by hand."""

import pytest
import torch
from torch import nn

from kdlab.networks.cost import cost, latency_ms, multiply_accumulates, parameters


def network(groups=1):
    """A 3×3 convolution from 2 to 4 channels over 8×8, its normalisation, and a classifier of 5 outputs."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


@pytest.mark.parametrize("samples", [1, 3])
def test_arithmetic_is_that_of_convolutions_and_matrix_products_for_one_sample(samples):
    input = torch.zeros(samples, 2, 8, 8)
    # Each of 64 positions: 4 outputs of 2 × 9 products; then 4 × 5.
    assert multiply_accumulates(network(), input) == 64 * 4 * 2 * 9 + 4 * 5
    assert multiply_accumulates(network(groups=2), input) == 64 * 4 * 9 + 4 * 5


def test_frozen_parameters_count_too():
    made = network()
    made[0].requires_grad_(False)
    assert parameters(made) == 4 * 2 * 9 + 2 * 4 + 4 * 5 + 5


@pytest.mark.parametrize("training", [True, False])
def test_counting_and_timing_leave_a_network_as_it_was(training):
    made = network().train(training)
    input = torch.randn(1, 2, 8, 8)
    multiply_accumulates(made, input)
    assert latency_ms(made, input, seconds=0.001) > 0
    assert all(module.training is training for module in made.modules())
    assert made[1].num_batches_tracked == 0


def test_a_cost_is_of_one_sample_whatever_the_batch_and_type():
    found = cost(network().double(), torch.zeros(3, 2, 8, 8, dtype=torch.float64))
    assert (found["parameters"], found["multiply_accumulates"]) == (105, 4628)
    assert found.keys() == {"parameters", "multiply_accumulates", "latency_ms"}
