"""Loaders that are not kdlab's own."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kdlab.data.adapter import Foreign
from kdlab.data.check import DataError


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(10.0)[:, None], torch.arange(10)), batch_size=4)


def test_pairs_become_batches_with_a_running_number_and_the_epoch(loader: DataLoader[Any]) -> None:
    ours = Foreign(loader)
    assert len(ours) == 3
    for epoch in range(2):
        batches = list(ours)
        assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [batch["target"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert all(set(batch["view"].tolist()) == {epoch} for batch in batches)


def test_dicts_keep_what_they_bring() -> None:
    given = [{"input": torch.zeros(2, 3), "target": torch.ones(2), "index": torch.tensor([7, 5]), "name": "x"}]
    [batch] = Foreign(given, indexed=True)
    assert batch["index"].tolist() == [7, 5]
    assert batch["view"].tolist() == [0, 0]
    assert batch["name"] == "x"


@pytest.mark.parametrize("drawn", [0, 2, 3, 5])
def test_a_resumed_loader_skips_what_was_drawn(loader: DataLoader[Any], drawn: int) -> None:
    ours = Foreign(loader)
    ours.load_state_dict({"drawn": drawn})
    batches = list(ours)
    assert [int(batch["index"][0]) for batch in batches] == [0, 4, 8][drawn % 3 :]
    assert all(set(batch["view"].tolist()) == {drawn // 3} for batch in batches)
    assert ours.state_dict() == {"drawn": (drawn // 3 + 1) * 3}


def test_an_epoch_that_was_broken_off_is_not_gone_on_with(loader: DataLoader[Any]) -> None:
    ours = Foreign(loader)
    assert len(list(islice(ours, 2))) == 2
    assert len(list(ours)) == 3
    assert ours.state_dict() == {"drawn": 6}


def test_the_epoch_is_told_to_a_sampler_that_asks(loader: DataLoader[Any]) -> None:
    class Sampler(list[int]):
        epoch = -1

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    sampler = Sampler(range(10))
    ours = Foreign(DataLoader(loader.dataset, batch_size=4, sampler=sampler))
    ours.set_epoch(3)
    assert sampler.epoch == 3
    assert next(iter(ours))["view"].tolist() == [3] * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pixel_values": 1, "labels": 2}, "a batch has the keys pixel_values, labels; expected input and target"),
        ((1, 2, 3), r"a batch is a tuple of 3; expected a pair \(input, target\)"),
        (torch.zeros(2), "a batch is a Tensor; expected a pair"),
    ],
)
def test_what_is_no_batch_is_refused_with_what_it_is(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        next(iter(Foreign([given])))
