"""The counter hash, against big integers and against what random numbers should look like."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdlab.data.counter_rng import AUGMENT, ORDER, order, uniform

GAMMA = 0x9E3779B97F4A7C15


def splitmix(state: int, count: int) -> list[int]:
    """SplitMix64 as it is published: a state that grows by a constant, and a finaliser."""
    outputs = []
    for _ in range(count):
        state = (state + GAMMA) % 2**64
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ z >> 31)
    return outputs


def absorbed(*values: int) -> int:
    state = 0
    for value in values:
        state = splitmix((state + value * GAMMA) % 2**64, 1)[0]
    return state


def integers(numbers: Tensor) -> list[int]:
    return [int(number * 2**24) for number in numbers.flatten().tolist()]


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_the_reference_is_the_published_generator() -> None:
    assert splitmix(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("seed", "index", "view", "stream"),
    [(0, 0, 0, 0), (0, 1, 0, 1), (7, 49_999, 479, 1), (2**63 + 5, 3, 2**40, 2), (-1, 2**31, 1, 1)],
)
def test_numbers_are_the_top_bits_of_the_reference(seed: int, index: int, view: int, stream: int) -> None:
    numbers = uniform(seed, torch.tensor([index]), torch.tensor([view]), stream, 4)
    assert numbers.dtype == torch.float32
    assert integers(numbers) == [output >> 40 for output in splitmix(absorbed(seed, stream, index, view), 4)]


def test_the_numbers_of_seed_zero_never_change() -> None:
    numbers = uniform(0, torch.tensor([0, 1]), torch.tensor([0, 0]), 1, 3)
    assert integers(numbers) == [8208083, 1883272, 15349280, 15535524, 9611617, 14855668]


def test_a_sample_has_the_same_numbers_in_any_batch() -> None:
    index, view = torch.arange(100), torch.arange(100) % 7
    chosen = torch.tensor([93, 5, 5, 41])
    assert torch.equal(uniform(3, index, view, AUGMENT, 5)[chosen], uniform(3, index[chosen], view[chosen], AUGMENT, 5))


def test_fewer_numbers_are_the_first_of_more() -> None:
    index, view = torch.arange(10), torch.zeros(10, dtype=torch.long)
    assert torch.equal(uniform(0, index, view, AUGMENT, 12)[:, :3], uniform(0, index, view, AUGMENT, 3))


def test_numbers_are_uniform_in_every_column() -> None:
    index, view = torch.arange(2**16), torch.zeros(2**16, dtype=torch.long)
    numbers = uniform(0, index, view, AUGMENT, 4)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        counts = torch.histc(column, bins=64, min=0, max=1)
        chi_square = float(((counts - 1024) ** 2 / 1024).sum())
        assert 30 < chi_square < 110, "63 degrees of freedom: beyond these, one in 4000 or fewer"


def test_the_lowest_bits_are_as_good_as_the_highest() -> None:
    numbers = uniform(0, torch.arange(2**16), torch.zeros(2**16, dtype=torch.long), AUGMENT, 1)
    low = (numbers * 2**24).long() & 63
    counts = torch.bincount(low.flatten(), minlength=64).float()
    assert 30 < float(((counts - 1024) ** 2 / 1024).sum()) < 110


def test_neighbours_have_nothing_in_common() -> None:
    n = 2**16
    index, view = torch.arange(n), torch.zeros(n, dtype=torch.long)
    numbers = uniform(0, index, view, AUGMENT, 2)
    bound = 4 / n**0.5
    assert abs(correlation(numbers[:, 0], numbers[:, 1])) < bound
    assert abs(correlation(numbers[1:, 0], numbers[:-1, 0])) < bound, "the next sample"
    assert abs(correlation(numbers[:, 0], uniform(0, index, view + 1, AUGMENT, 1))) < bound, "the next view"
    assert abs(correlation(numbers[:, 0], uniform(1, index, view, AUGMENT, 1))) < bound, "the next seed"
    assert abs(correlation(numbers[:, 0], uniform(0, index, view, AUGMENT + 1, 1))) < bound, "the next stream"
    assert abs(correlation(numbers[:, 0], uniform(0, view, index, AUGMENT, 1))) < bound, "index and view swapped"


def test_the_order_of_an_epoch_sorts_the_reference() -> None:
    def key(sample: int) -> int:
        output = absorbed(3, ORDER, sample, 2)
        return output - 2**64 if output >= 2**63 else output

    assert order(50, seed=3, epoch=2).tolist() == sorted(range(50), key=key)


def test_every_seed_and_epoch_has_an_order_of_its_own() -> None:
    orders = [order(1000, seed, epoch) for seed in range(2) for epoch in range(3)]
    for place, one in enumerate(orders):
        assert torch.equal(one.sort().values, torch.arange(1000))
        for other in orders[:place]:
            assert (one == other).sum() < 10, "one fixed place is to be expected"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same_numbers() -> None:
    index, view = torch.arange(1000), torch.arange(1000) * 3
    ours = uniform(2**63 + 11, index, view, AUGMENT, 12)
    assert torch.equal(ours, uniform(2**63 + 11, index.cuda(), view.cuda(), AUGMENT, 12).cpu())
