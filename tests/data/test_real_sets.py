"""The published data sets themselves, where a copy lies in `shared/data` beside the repository."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from kdlab.data.corpus import Corpus
from kdlab.data.dataset import TableData, load

ROOT = Path(__file__).parents[2]
COPIES = ROOT.parent / "shared" / "data"


def loaded(name: str) -> TableData:
    config = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text()) | {"path": str(COPIES / name)}
    data = load(config)
    assert isinstance(data, TableData)
    return data


def test_sst2_has_its_published_numbers() -> None:
    if not (COPIES / "sst2").is_dir():
        pytest.skip("there is no copy of sst2")
    data = loaded("sst2")
    assert data.sizes == {"train": 67_349, "validation": 872, "test": 1821}
    assert data.parts.train.labels.bincount().tolist() == [29_780, 37_569]
    assert data.parts.validation.labels.bincount().tolist() == [428, 444]
    started = time.perf_counter()
    again = loaded("sst2")
    assert time.perf_counter() - started < 3, "tokenised the second time, too"
    assert again.fingerprint == data.fingerprint


def test_tiny_shakespeare_has_its_published_numbers() -> None:
    if not (COPIES / "tiny_shakespeare").is_dir():
        pytest.skip("there is no copy of tiny_shakespeare")
    data = loaded("tiny_shakespeare")
    source = data.source
    assert isinstance(source, Corpus)
    assert len(source.tokenizer.ids) - int(source.tokenizer.special.sum()) == 65
    assert data.sizes == {part: (count + 1) // 257 for part, count in
                          (("train", 1_003_854), ("validation", 55_770), ("test", 55_770))}  # fmt: skip
    first = next(iter(data.eval_loader("train", 1)))["input"]["input_ids"][0].tolist()
    assert source.tokenizer.decode(first).startswith("First Citizen:\nBefore we proceed any further, hear me speak.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "per_class", "shape"),
    [("cifar100", 45_000, 450, (3, 32, 32)), ("fashion_mnist", 55_000, 5500, (1, 28, 28))],
)
def test_a_published_set_has_its_published_numbers(
    name: str, train: int, per_class: int, shape: tuple[int, ...]
) -> None:
    if not (COPIES / name).is_dir():
        pytest.skip(f"there is no copy of {name}")
    loaded(name)
    started = time.perf_counter()
    data = loaded(name)
    assert time.perf_counter() - started < 3, "decoded the second time, too"
    parts = data.parts
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (train, 5000, 10_000)
    assert set(parts.train.labels.bincount().tolist()) == {per_class}
    assert len(set(parts.validation.labels.bincount().tolist())) == 1
    images = parts.train.inputs
    assert isinstance(images, Tensor)
    assert tuple(images.shape[1:]) == shape
    pixels = images[:20_000].float() / 255
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor(data.settings["mean"]), atol=5e-3)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor(data.settings["std"]), atol=5e-3)
