"""Tables in the hub's layout, and the hub itself where it does not answer."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdlab.data import source as module
from kdlab.data.check import DataError
from kdlab.data.source import Hub

NAMES = ["cat", "dog", "eel"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's own cache, or a network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pictures(count: int) -> list[Image.Image]:
    random = np.random.default_rng(count)
    return [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of a hub repository: `copy(train=[labels], test=[labels])`."""

    def make(names: list[str] | None = NAMES, **splits: list[Any]) -> Path:
        place = tmp_path / "copy"
        (place / "data").mkdir(parents=True)
        for split, labels in splits.items():
            columns = {"img": pictures(len(labels)), "fine_label": labels}
            rows = datasets.Dataset.from_dict(columns)
            rows = rows.cast_column("img", datasets.Image())
            if names:
                rows = rows.cast_column("fine_label", datasets.ClassLabel(names=names))
            rows.to_parquet(place / "data" / f"{split}-00000-of-00001.parquet")
        return place

    return make


def hub(path: Path | None, **changes: Any) -> Hub:
    settings = {"image": "img", "label": "fine_label", "size": 8, "channels": 3, **changes}
    return Hub("someone/something", None if path is None else str(path), **settings)


def test_a_copy_is_read_without_a_network(copy: Callable[..., Path]) -> None:
    data = hub(copy(train=[2, 0, 1, 1], validation=[0, 1], test=[2]))
    assert data.classes == ("cat", "dog", "eel")
    assert data.validation is not None
    assert data.test is not None
    assert [part.labels.tolist() for part in (data.train, data.validation, data.test)] == [[2, 0, 1, 1], [0, 1], [2]]
    expected = np.stack([np.asarray(image) for image in pictures(4)])
    assert np.array_equal(data.train.inputs.permute(0, 2, 3, 1).numpy(), expected)


def test_the_second_run_reads_no_table(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy(train=[0, 1, 2], test=[0])
    first = hub(path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("the table was read"))
    second = hub(path)
    assert torch.equal(second.train.inputs, first.train.inputs)
    assert second.fingerprint == first.fingerprint


def test_a_set_too_big_to_hold_stays_in_the_table(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy(train=[0, 1, 2], test=[0])
    monkeypatch.setattr(module, "LIMIT", 100)
    data = hub(path)
    assert not isinstance(data.train.inputs, Tensor)
    expected = np.stack([np.asarray(image) for image in pictures(3)])
    pixels = torch.stack([data.train.inputs[row] for row in range(3)])
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (["b", "a", "b"], [1, 0, 1], ("a", "b")),
        ([7, 3, -1], [1, 0, -1], ("3", "7")),
        ([1, None, 0], [1, -1, 0], ("0", "1")),
    ],
)
def test_labels_without_names_are_numbered_in_order(
    copy: Callable[..., Path], labels: list[Any], numbers: list[int], classes: tuple[str, ...]
) -> None:
    data = hub(copy(names=None, train=labels, test=labels[:1]))
    assert data.train.labels.tolist() == numbers
    assert data.classes == classes


def test_a_test_split_without_labels_is_no_test_part(copy: Callable[..., Path]) -> None:
    data = hub(copy(train=[0] * 10 + [1] * 10 + [2] * 10, test=[-1, -1]))
    assert data.test is not None
    assert data.test.labels.tolist() == [0, 1, 2]
    assert len(data.train) == 27


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "image"}, r"data\.image=image: .* has no such column; it has img, fine_label"),
        ({"label": "label"}, r"data\.label=label: .* has no such column; it has img, fine_label"),
        ({"image": "fine_label"}, r"data\.image=fine_label: .* has no pictures in this column"),
    ],
)
def test_wrong_columns_are_refused_with_those_there_are(
    copy: Callable[..., Path], changes: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        hub(copy(train=[0, 1, 2], test=[0]), **changes)


def test_labels_that_are_no_classes_are_refused(copy: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError, match=r"data\.label=fine_label: expected a column of numbers or of names, found list"
    ):
        hub(copy(names=None, train=[[0, 1], [2, 3]]))


def test_one_class_is_no_classification(copy: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="expected two classes or more, found 5"):
        hub(copy(names=None, train=[5, 5]))


def test_a_table_without_a_train_split_is_refused(copy: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="has the splits test; expected one called train"):
        hub(copy(test=[0, 1]))


def test_a_damaged_row_is_named(copy: Callable[..., Path]) -> None:
    path = copy(train=[0, 1, 2], test=[0])
    file = path / "data" / "train-00000-of-00001.parquet"
    rows = datasets.Dataset.from_parquet(str(file)).cast_column("img", datasets.Image(decode=False)).to_list()
    rows[1]["img"]["bytes"] = rows[1]["img"]["bytes"][:70]
    broken = datasets.Dataset.from_list(rows).cast_column("fine_label", datasets.ClassLabel(names=NAMES))
    broken.cast_column("img", datasets.Image()).to_parquet(file)
    with pytest.raises(DataError, match=r"^row 1 of train, column img cannot be decoded \(.*\); repair or remove"):
        hub(path)


def test_a_file_that_is_no_table_is_refused_in_one_line(copy: Callable[..., Path]) -> None:
    path = copy(train=[0, 1, 2])
    (path / "data" / "train-00000-of-00001.parquet").write_text("nothing")
    with pytest.raises(DataError, match=r"^data\.path: .* cannot be read: .*") as caught:
        hub(path)
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("the library would retry"))
    with pytest.raises(DataError, match=r"the hub does not answer .*; type data\.path=DIR for a copy"):
        hub(None)
