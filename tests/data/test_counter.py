"""The counter hash, against big integers and against what random numbers should look like."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdlab.data.counter import AUGMENT, ORDER, order, uniform


def splitmix(seed: int, count: int) -> list[int]:
    """SplitMix64 as it is published: a state that grows by a constant, and a finaliser."""
    outputs = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = seed
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ z >> 31)
    return outputs


def reference(seed: int, stream: int, index: int, view: int, n: int) -> list[int]:
    state = 0
    for value in (seed, stream, index, view):
        state = splitmix((state + value * 0x9E3779B97F4A7C15) % 2**64, 1)[0]
    return splitmix(state, n)


def integers(numbers: Tensor) -> list[int]:
    return (numbers.double() * 2**24).long().flatten().tolist()


def test_the_reference_is_the_published_generator() -> None:
    assert splitmix(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("seed", "index", "view", "stream"),
    [(0, 0, 0, 0), (0, 1, 0, 1), (7, 49_999, 479, 1), (2**63 + 5, 3, 2**40, 2), (-1, 2**31, 1, 1)],
)
def test_numbers_are_the_top_bits_of_the_reference(seed: int, index: int, view: int, stream: int) -> None:
    numbers = uniform(seed, torch.tensor([index]), torch.tensor([view]), stream, 4)
    assert numbers.dtype == torch.float32
    assert integers(numbers) == [output >> 40 for output in reference(seed, stream, index, view, 4)]


def test_the_numbers_of_seed_zero_never_change() -> None:
    first, second = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert integers(uniform(0, first, second, 1, 3)) == [8208083, 1883272, 15349280, 15535524, 9611617, 14855668]


def test_order_sorts_the_reference_as_signed_integers() -> None:
    def signed(sample: int) -> int:
        output = reference(3, ORDER, sample, 2, 0) or _state(3, ORDER, sample, 2)
        return output - 2**64 if output >= 2**63 else output

    assert order(50, seed=3, epoch=2).tolist() == sorted(range(50), key=signed)


def _state(*values: int) -> int:
    state = 0
    for value in values:
        state = splitmix((state + value * 0x9E3779B97F4A7C15) % 2**64, 1)[0]
    return state
