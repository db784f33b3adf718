"""Parts: sizes, classes, and what their fingerprint depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdlab.data.check import DataError
from kdlab.data.pictures import PictureSource
from kdlab.data.source import Digits
from kdlab.data.split import split, stratified
from kdlab.data.table import Table


class Numbers(Dataset[Tensor]):
    """Pictures that are decoded when asked for: picture i is one pixel of value i."""

    def __len__(self) -> int:
        return 200

    def __getitem__(self, row: int) -> Tensor:
        return torch.tensor(row, dtype=torch.uint8).view(1, 1, 1)


def numbered(first: int, labels: Tensor) -> Table:
    return Table(torch.arange(first, first + len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), labels)


@pytest.fixture
def source() -> PictureSource:
    """200 training pictures, 10 of each of 20 classes, and 10 to test on; every pixel is its picture's number."""
    train = numbered(0, torch.arange(20).repeat(10))
    return PictureSource(train, None, numbered(200, torch.arange(10)), tuple(map(str, range(20))), 1, 1, "abc")


def test_the_held_out_slice_has_every_class_in_equal_numbers(source: PictureSource) -> None:
    parts = split(source, validation=40, split_seed=0)
    assert parts.validation.labels.bincount().tolist() == [2] * 20
    assert parts.train.labels.bincount().tolist() == [8] * 20
    assert parts.test is source.test


def test_train_and_validation_share_no_picture_and_lose_none(source: PictureSource) -> None:
    parts = split(source, validation=37, split_seed=5)
    assert len(parts.validation) == 37
    both = torch.cat([parts.train.inputs, parts.validation.inputs]).flatten()
    assert torch.equal(both.sort().values, torch.arange(200, dtype=torch.uint8))


def test_labels_stay_with_their_pictures(source: PictureSource) -> None:
    parts = split(source, validation=37, split_seed=5, subset=50)
    for part in (parts.train, parts.validation):
        assert torch.equal(part.inputs.flatten() % 20, part.labels)


def test_a_share_is_a_count(source: PictureSource) -> None:
    assert split(source, 0.1, 0).fingerprint == split(source, 20, 0).fingerprint
    assert len(split(source, 0.1, 0).validation) == 20


def test_classes_of_unequal_size_are_held_out_in_their_shares() -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([600, 300, 100]))
    source = PictureSource(
        Table(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), labels), None, None, ("a", "b", "c"), 1, 1, ""
    )
    assert split(source, 100, 0).validation.labels.bincount().tolist() == [60, 30, 10]


def test_a_small_subset_lies_within_a_larger_one(source: PictureSource) -> None:
    small = split(source, 40, 0, subset=20).train
    large = split(source, 40, 0, subset=60).train
    assert small.labels.bincount().tolist() == [1] * 20
    assert set(small.inputs.flatten().tolist()) < set(large.inputs.flatten().tolist())


def test_the_split_seed_chooses_the_slice(source: PictureSource) -> None:
    one, other = split(source, 40, 0), split(source, 40, 1)
    assert not torch.equal(one.validation.inputs, other.validation.inputs)
    assert torch.equal(one.validation.inputs, split(source, 40, 0).validation.inputs)


def test_the_fingerprint_knows_data_seed_validation_and_subset(source: PictureSource) -> None:
    prints = [
        split(source, 40, 0).fingerprint,
        split(source, 40, 1).fingerprint,
        split(source, 39, 0).fingerprint,
        split(source, 40, 0, subset=160 - 1).fingerprint,
        split(source, 0, 0).fingerprint,
        split(replace(source, fingerprint="abd"), 40, 0).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert split(source, 0, 0).fingerprint == split(source, 0, 1).fingerprint, "the same rows for the same purposes"


def test_no_validation_trains_on_everything(source: PictureSource) -> None:
    parts = split(source, 0, 0)
    assert parts.train is source.train
    assert len(parts.validation) == 0


def test_the_validation_part_of_the_source_serves_or_is_trained_on(source: PictureSource) -> None:
    own = numbered(210, torch.arange(8))
    source = replace(source, validation=own)
    assert split(source, 40, 0).validation is own
    assert len(split(source, 40, 0).train) == 200
    assert torch.equal(split(source, 0, 0).train.inputs, torch.cat([source.train.inputs, own.inputs]))
    assert split(source, 40, 0).fingerprint != split(source, 0, 0).fingerprint


def test_pictures_that_stay_encoded_are_split_the_same(source: PictureSource) -> None:
    lazy = replace(source, train=Table(Numbers(), source.train.labels, (1, 1, 1)))
    for part, other in ((split(lazy, 37, 0, 20).train, split(source, 37, 0, 20).train),
                        (split(lazy, 37, 0).validation, split(source, 37, 0).validation)):  # fmt: skip
        assert [int(part.inputs[row]) for row in range(len(part))] == other.inputs.flatten().tolist()
    joined = split(replace(lazy, validation=source.train), 0, 0).train
    assert len(joined) == 400
    assert [int(joined.inputs[row]) for row in (3, 199, 203)] == [3, 199, 3]


def test_unlabelled_samples_are_trained_on_but_never_held_out(source: PictureSource) -> None:
    labels = source.train.labels.clone()
    labels[::2] = -1
    source = replace(source, train=Table(source.train.inputs, labels))
    parts = split(source, 30, 0)
    assert parts.validation.labels.min() >= 0
    assert int((parts.train.labels == -1).sum()) == 100


@pytest.mark.parametrize(("validation", "subset"), [(200, None), (1.5, None), (-3, None), (40, 161), (0, 0)])
def test_what_cannot_be_taken_is_refused_by_name(source: PictureSource, validation: float, subset: int | None) -> None:
    key = "subset" if subset is not None else "validation"
    with pytest.raises(DataError, match=rf"data\.{key}={subset if subset is not None else validation}: expected"):
        split(source, validation, 0, subset)


def test_every_prefix_of_a_stratified_permutation_is_balanced() -> None:
    labels = torch.arange(5).repeat(20)
    rows = stratified(labels, seed=0)
    assert torch.equal(rows.sort().values, torch.arange(100))
    for length in range(1, 101):
        counts = labels[rows[:length]].bincount(minlength=5)
        assert counts.max() - counts.min() <= 1


def test_labels_may_be_withheld_from_some_of_the_training_samples():
    whole, part = split(Digits(), 400, 0), split(Digits(), 400, 0, unlabelled=900)
    withheld = part.train.labels < 0
    assert (int(withheld.sum()), len(part.train)) == (900, 1000)
    assert part.train.labels[~withheld].bincount().tolist() == [10] * 10
    assert torch.equal(part.train.labels[~withheld], whole.train.labels[~withheld])
    assert torch.equal(part.validation.labels, whole.validation.labels)
    assert part.fingerprint != whole.fingerprint
    assert torch.equal(split(Digits(), 400, 0, unlabelled=0.9).train.labels, part.train.labels)
    with pytest.raises(DataError, match=r"data\.unlabelled=1000: expected a count below 1000"):
        split(Digits(), 400, 0, unlabelled=1000)


def test_a_folder_of_pictures_without_labels_joins_the_training_part(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("KDLAB_HOME", str(tmp_path / "home"))
    (tmp_path / "more" / "deep").mkdir(parents=True)
    for place, folder in enumerate(("more", "more", "more/deep")):
        Image.new("L", (8, 8), 40 * place).save(tmp_path / folder / f"{place}.png")
    for _ in range(2):
        source = Digits().with_unlabelled(str(tmp_path / "more"), {})
        parts = split(source, 400, 0)
        unlabelled = parts.train.inputs[parts.train.labels < 0]
        assert sorted(unlabelled.float().mean((1, 2, 3)).tolist()) == [0.0, 40.0, 80.0]
        assert len(parts.train) == 1003
    with pytest.raises(DataError, match="expected a folder with pictures in it"):
        Digits().with_unlabelled(str(tmp_path / "absent"), {})
