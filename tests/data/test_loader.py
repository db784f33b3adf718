"""Loaders: the same batches again, in another process, on other ranks, after a break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdlab.core.knowledge import Batch
from kdlab.data.augment import Augment
from kdlab.data.check import DataError
from kdlab.data.counter_rng import order
from kdlab.data.images import Files
from kdlab.data.loader import Loader, Resident, Streaming, last_batch, make_loader
from kdlab.data.table import Table

# From Python 3.12 on, forking a process in which torch has threads is warned of; worker processes are forked.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

AUGMENT = Augment((0.5,), (0.25,), 4, crop=1, flip=True)
PLAIN = Augment((0.5,), (0.25,), 4)


def resident(table: Table, batch_size: int = 10, **options: Any) -> Resident:
    return Resident(
        table, batch_size, options.pop("transform", AUGMENT), options.pop("seed", 0), **{"train": True, **options}
    )


def epochs(loader: Loader, count: int) -> list[Batch]:
    return [batch for _ in range(count) for batch in loader]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, Tensor):
                assert torch.equal(value, other[key]), key
            else:
                assert_same(list(value.values()), list(other[key].values()))


def test_a_batch_has_normalised_pictures_their_labels_places_and_views(table: Table) -> None:
    loader = resident(table, transform=PLAIN)
    for epoch in range(2):
        for batch in loader:
            index = batch["index"]
            assert torch.allclose(batch["input"], (table.inputs[index] / 255 - 0.5) / 0.25, atol=1e-5)
            assert torch.equal(batch["target"], table.labels[index])
            assert batch["view"].tolist() == [epoch] * len(index)
            assert set(batch) == {"input", "target", "index", "view"}
            assert (batch["index"].dtype, batch["target"].dtype, batch["view"].dtype) == (torch.int64,) * 3


def test_two_runs_with_one_seed_see_the_same_batches(table: Table) -> None:
    assert_same(epochs(resident(table), 2), epochs(resident(table), 2))
    assert not torch.equal(next(iter(resident(table)))["index"], next(iter(resident(table, seed=1)))["index"])


def test_an_epoch_is_the_permutation_of_its_seed_and_number(table: Table) -> None:
    loader = resident(table, seed=4)
    for epoch in range(3):
        seen = torch.cat([batch["index"] for batch in loader])
        assert torch.equal(seen, order(103, 4, epoch))


def test_an_epoch_of_the_cifar_protocol_has_782_steps_as_published() -> None:
    # HobbitLong/RepDistiller dataset/cifar100.py:89-92, a DataLoader without drop_last: ceil(50 000 / 64), the last of
    # 16 samples.
    assert (50_000 // 64 + bool(last_batch(50_000, 64)), last_batch(50_000, 64)) == (782, 16)
    assert (last_batch(50_000, 64, 2), last_batch(50_000, 64, drop=True), last_batch(50_048, 64)) == (16, 0, 0)


def test_the_last_batch_is_smaller_and_every_sample_is_seen(table: Table) -> None:
    loader = resident(table)
    for _ in range(2):
        sizes, seen = [], []
        for batch in loader:
            sizes.append(len(batch["index"]))
            seen += batch["index"].tolist()
        assert sizes == [10] * 10 + [3]
        assert len(sizes) == len(loader)
        assert sorted(seen) == list(range(103))
    assert loader.drawn == 22


@pytest.mark.parametrize(
    ("batch_size", "world", "accumulate", "sizes"),
    [
        (34, 1, 1, [34, 34, 34]),  # one is left, and a share of one is none
        (33, 1, 2, [33, 33, 33, 4]),
        (99, 1, 4, [99]),  # four are left, one for each part
        (98, 2, 1, [49]),  # five are left
        (32, 2, 1, [16, 16, 16]),  # seven are left
        (48, 3, 1, [16, 16]),  # seven are left
        (24, 3, 1, [8, 8, 8, 8]),  # seven
        (97, 1, 3, [97, 6]),
        (93, 1, 5, [93, 10]),
        (90, 3, 2, [30]),  # thirteen
        (91, 1, 4, [91, 12]),
    ],
)
def test_a_last_batch_is_left_out_where_it_gives_no_even_shares_of_two(
    table: Table, batch_size: int, world: int, accumulate: int, sizes: list[int]
) -> None:
    for rank in range(world):
        loader = resident(table, batch_size, rank=rank, world=world, accumulate=accumulate)
        assert [len(batch["index"]) for batch in loader] == sizes
        assert len(loader) == len(sizes)


def test_a_last_batch_can_be_left_out_and_every_epoch_leaves_out_others(table: Table) -> None:
    loader = resident(table, drop_last=True)
    assert len(loader) == 10
    missing = [set(range(103)) - {int(i) for batch in loader for i in batch["index"]} for _ in range(2)]
    assert [len(rows) for rows in missing] == [3, 3]
    assert missing[0] != missing[1]


def test_a_set_smaller_than_a_batch_is_one_batch(table: Table) -> None:
    assert [len(batch["index"]) for batch in resident(table, 128)] == [103]
    for rank in range(2):
        assert [len(batch["index"]) for batch in resident(table, 128, rank=rank, world=2)] == [51]


@pytest.mark.parametrize("drawn", [0, 1, 10, 11, 13, 27])
def test_a_resumed_loader_goes_on_with_the_batches_that_would_have_come(table: Table, drawn: int) -> None:
    views = {"strong": Augment((0.5,), (0.25,), 4, rotation=30)}
    whole = epochs(resident(table, views=views), 4)
    first = resident(table, views=views)
    seen = list(islice(_forever(first), drawn))
    assert first.state_dict() == {"drawn": drawn}
    second = resident(table, views=views)
    second.load_state_dict(first.state_dict())
    assert_same(seen + list(islice(_forever(second), 44 - drawn)), whole)


def _forever(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def test_setting_the_epoch_jumps_there_but_never_back_within_it(table: Table) -> None:
    whole = epochs(resident(table), 3)
    loader = resident(table)
    loader.set_epoch(2)
    assert_same(epochs(loader, 1), whole[22:])
    loader.load_state_dict({"drawn": 13})
    loader.set_epoch(1)
    assert_same(epochs(loader, 1), whole[13:22])


@pytest.mark.parametrize("world", [2, 5])
def test_ranks_share_each_batch_without_overlap_and_augment_as_one_would(table: Table, world: int) -> None:
    even = table.take(torch.arange(100))
    batch_size, last = {2: (16, 4), 5: (30, 10)}[world]
    alone = epochs(resident(even, batch_size), 2)
    assert len(alone[-1]["index"]) == last
    ranks = [epochs(resident(even, batch_size, rank=rank, world=world), 2) for rank in range(world)]
    for whole, *shares in zip(alone, *ranks, strict=True):
        for key in ("index", "input", "target", "view"):
            assert torch.equal(torch.cat([share[key] for share in shares]), whole[key])


@pytest.mark.parametrize(("batch_size", "world"), [(10, 1), (10, 2), (17, 3), (20, 8), (2, 4)])
def test_evaluation_sees_every_sample_once_and_in_order(table: Table, batch_size: int, world: int) -> None:
    loaders = [resident(table, batch_size, train=False, rank=rank, world=world) for rank in range(world)]
    seen = []
    for loader in loaders:
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(len(batch["index"]) for batch in batches)
        seen += [int(i) for batch in batches for i in batch["index"]]
    assert sorted(seen) == list(range(103))
    if world == 1:
        assert seen == list(range(103))


def test_evaluation_that_is_broken_off_starts_again_from_the_start(table: Table) -> None:
    loader = resident(table, train=False, transform=PLAIN)
    for _ in range(2):
        assert next(iter(loader))["index"].tolist() == list(range(10))
    assert loader.drawn == 0


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(table: Table) -> None:
    with pytest.raises(DataError, match="batch_size=10 does not divide over 4 devices; 8 does"):
        resident(table, world=4)


def test_further_views_are_independent_draws_of_the_same_samples(table: Table) -> None:
    views = {"again": AUGMENT, "strong": Augment((0.5,), (0.25,), 4, crop=2)}
    loader = resident(table, views=views)
    loader.set_epoch(2)
    batch = next(iter(loader))
    assert list(batch["views"]) == ["again", "strong"]
    for k, view in enumerate([batch, *batch["views"].values()]):
        assert torch.equal(view["index"], batch["index"])
        assert torch.equal(view["target"], batch["target"])
        assert view["view"].tolist() == [2 * 3 + k] * 10
        assert not torch.equal(view["input"], batch["input"]) or k == 0
    index, number = batch["index"], batch["views"]["again"]["view"]
    expected, _ = AUGMENT(table.inputs[index], table.labels[index], AUGMENT.draw(0, index, number))
    assert torch.equal(batch["views"]["again"]["input"], expected)


def test_unlabelled_samples_keep_minus_one(table: Table) -> None:
    labels = torch.where(torch.arange(103) % 2 == 0, table.labels, -1)
    for batch in resident(Table(table.inputs, labels)):
        assert torch.equal(batch["target"] == -1, batch["index"] % 2 == 1)


def test_mixed_targets_are_shares_of_classes(table: Table) -> None:
    batch = next(iter(resident(table, transform=Augment((0.5,), (0.25,), 4, mixup=0.5))))
    assert batch["target"].shape == (10, 4)
    assert torch.allclose(batch["target"].sum(1), torch.ones(10))


def encoded(table: Table, folder: Path) -> Table:
    from PIL import Image

    for row, image in enumerate(table.inputs):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{row:03}.png")
    return Table(Files([str(file) for file in sorted(folder.iterdir())], 6, 3), table.labels, (3, 6, 6))


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_the_resident_ones_bit_for_bit(table: Table, tmp_path: Path, workers: int) -> None:
    options: dict[str, Any] = {"train": True, "views": {"again": AUGMENT}, "rank": 1, "world": 2}
    augment = Augment((0.5,), (0.25,), 4, crop=1, flip=True, mixup=0.5)
    streaming = Streaming(encoded(table, tmp_path), 10, augment, 7, workers=workers, **options)
    assert_same(epochs(streaming, 2), epochs(Resident(table, 10, augment, 7, **options), 2))
    streaming.load_state_dict({"drawn": 6})
    held = Resident(table, 10, augment, 7, **options)
    held.load_state_dict({"drawn": 6})
    assert_same(epochs(streaming, 1), epochs(held, 1))


def test_a_stream_that_is_broken_off_goes_on_where_it_was(table: Table, tmp_path: Path) -> None:
    streaming = Streaming(encoded(table, tmp_path), 10, AUGMENT, 0, train=True, workers=2)
    seen = list(islice(streaming, 3)) + epochs(streaming, 1)
    assert_same(seen, epochs(resident(table), 1))


def test_a_stream_that_is_closed_has_no_processes_and_can_be_read_again(table: Table, tmp_path: Path) -> None:
    streaming = Streaming(encoded(table, tmp_path), 10, AUGMENT, 0, train=True, workers=2)
    broken_off = iter(streaming)
    seen = [next(broken_off)]
    assert len(active_children()) == 2
    streaming.close()
    assert not active_children()
    assert_same(seen + epochs(streaming, 1), epochs(resident(table), 1))
    streaming.close()


@pytest.mark.parametrize("make", [Resident, Streaming])
def test_a_loader_leaves_the_global_random_numbers_alone(table: Table, make: Callable[..., Loader]) -> None:
    before = torch.get_rng_state()
    epochs(make(table, 10, AUGMENT, 0, train=True), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_stops_a_stream_in_one_line_or_is_left_out(
    table: Table, tmp_path: Path, workers: int
) -> None:
    damaged = encoded(table, tmp_path)
    (tmp_path / "000.png").write_text("not a picture")
    message = ""
    try:  # pytest.raises would hold the workers in a reference cycle, which torch takes seconds to clean up
        list(Streaming(damaged, 10, PLAIN, 0, train=False, workers=workers))
    except DataError as error:
        message = str(error)
    assert message == (
        f"{tmp_path}/000.png cannot be decoded (not a picture); repair or remove it, or type data.on_corrupt=skip"
    )
    skipping = Streaming(damaged, 10, PLAIN, 0, train=False, workers=workers, on_corrupt="skip")
    with pytest.warns(UserWarning, match=r"000\.png cannot be decoded .* is left out"):
        seen = torch.cat([batch["index"] for batch in skipping])
    assert seen.tolist() == list(range(1, 103))


def test_small_sets_are_held_and_large_ones_streamed(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(resident: Any) -> type[Loader]:
        return type(make_loader(table, 10, PLAIN, 0, resident=resident, workers=0, on_corrupt="stop", train=True))

    assert (made("auto"), made(True), made(False)) == (Resident, Resident, Streaming)
    monkeypatch.setattr("kdlab.data.loader.LIMIT", 103 * 3 * 6 * 6 - 1)
    assert made("auto") is Streaming


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_those_on_the_cpu(table: Table) -> None:
    ours, theirs = epochs(resident(table), 1), epochs(resident(table, device="cuda"), 1)
    for one, other in zip(ours, theirs, strict=True):
        assert other["input"].is_cuda
        assert torch.equal(one["index"], other["index"].cpu())
        assert torch.allclose(one["input"], other["input"].cpu(), atol=1e-6)
