"""Random numbers go on where they were, and every part of a run has a seed of its own."""

import random

import numpy as np
import pytest
import torch

from kdlab.core.rng import gather_random_state, random_state, seed_all, seed_of, set_random_state


def draws():
    return [torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(1).tolist(), random.random()]


@pytest.fixture(autouse=True)
def _put_back():
    state = random_state()
    yield
    set_random_state(state)


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 100])
def test_a_seed_sets_every_generator_and_zero_is_a_seed(seed):
    seed_all(seed)
    first = draws()
    second = draws()
    seed_all(seed)
    assert draws() == first
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_numpy_takes_the_lower_32_bits_of_a_seed():
    seed_all(2**32 + 100)
    expected = np.random.RandomState(100).rand(3)
    assert np.random.rand(3).tolist() == expected.tolist()


def test_a_state_that_went_through_a_checkpoint_goes_on_with_the_same_numbers(tmp_path):
    seed_all(3)
    draws()  # one normal number of NumPy's pair is left over
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draws()
    seed_all(4)
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_generator_of_the_gpu_goes_on_too():
    state = random_state()
    expected = torch.rand(3, device="cuda").tolist()
    set_random_state(state)
    assert torch.rand(3, device="cuda").tolist() == expected


def test_a_process_alone_has_one_state():
    (state,) = gather_random_state()
    assert torch.equal(state["torch"], torch.get_rng_state())


def test_the_seed_of_a_part_is_the_first_63_bits_of_a_hash():
    # printf 0/a/b | sha256sum begins with aa23aa492e502806.
    assert seed_of(0, "a", "b") == 0xAA23AA492E502806 >> 1


def test_parts_with_other_names_or_seeds_have_other_seeds():
    assert len({seed_of(0, "a", "b"), seed_of(0, "ab"), seed_of(1, "ab"), seed_of(0, "b", "a")}) == 4
