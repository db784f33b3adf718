"""What a network costs, counted by hand."""

from itertools import groupby

import pytest
import torch
from torch import nn

from kdlab.networks.cost import costs, latencies_ms, multiply_accumulates, parameters


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
    assert latencies_ms({"made": (made, input)}, seconds=0.001)["made"] > 0
    assert all(module.training is training for module in made.modules())
    assert made[1].num_batches_tracked == 0


def test_a_cost_is_of_one_sample_whatever_the_batch_and_type():
    found = costs({"made": (network().double(), torch.zeros(3, 2, 8, 8, dtype=torch.float64))})["made"]
    assert (found["parameters"], found["multiply_accumulates"]) == (105, 4628)
    assert found.keys() == {"parameters", "multiply_accumulates", "latency_ms"}


class Attention(nn.Module):
    """One head over 5 tokens of 8, fused, and a classifier; takes its tokens by name, with a mask."""

    def __init__(self):
        super().__init__()
        self.inward, self.classifier = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, tokens, mask):
        query, key, value = self.inward(tokens)[:, None].chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.classifier((mixed[:, 0] * mask[..., None]).mean(1))


def test_attention_counts_and_an_input_may_be_named_tensors():
    input = {"tokens": torch.zeros(4, 5, 8), "mask": torch.ones(4, 5, dtype=torch.long)}
    # 5 tokens from 8 to 24; scores of 5 × 5 pairs over 8, and their mixture; 8 to 3.
    assert multiply_accumulates(Attention(), input) == 5 * 8 * 24 + 2 * 5 * 5 * 8 + 8 * 3
    assert costs({"made": (Attention(), input)})["made"]["parameters"] == 8 * 24 + 24 + 8 * 3 + 3


class Recurrent(nn.Module):
    """Two layers of 6 in each direction over 5 tokens of 8, and a classifier of the last."""

    def __init__(self):
        super().__init__()
        self.lstm, self.classifier = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(12, 3)

    def forward(self, tokens):
        return self.classifier(self.lstm(tokens)[0][:, -1])


@pytest.mark.parametrize("samples", [1, 3])
def test_the_gates_of_an_lstm_count_whoever_computes_them(samples):
    # In each of 5 steps and 2 directions, 4 gates of 6 read 8, then 12, numbers and 6 of the state.
    whole = 5 * 2 * 4 * 6 * ((8 + 6) + (12 + 6)) + 12 * 3
    made, tokens = Recurrent(), torch.zeros(samples, 5, 8)
    assert multiply_accumulates(made, tokens) == whole
    # In float64 no fused kernel runs, and each product is counted by itself.
    assert multiply_accumulates(made.double(), tokens.double()) == whole


def test_the_networks_of_a_table_are_timed_in_turns(monkeypatch):
    """A machine that is busy for a while slows all of them down, not one."""
    order = []

    class Named(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, input):
            order.append(self.name)
            return input

    monkeypatch.setattr("kdlab.networks.cost.TURNS", 4)
    latencies_ms({name: (Named(name), torch.zeros(1)) for name in "ab"}, seconds=0.01)
    assert "".join(name for name, _ in groupby(order))[-8:] == "abababab"
