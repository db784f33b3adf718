"""Running text: nothing of it is lost, repeated or mixed between parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml

from kdlab.data.check import DataError
from kdlab.data.corpus import Corpus
from kdlab.data.dataset import TableData, load
from support.texts import reviews, write

CONF = Path(__file__).parents[2] / "conf" / "data"
END, FIRST = 3, 4
"""The ids of a tokenizer of characters: the end of a document, the first character."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def settings(folder: Path, name: str = "corpus", **changes: Any) -> dict[str, Any]:
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    given = {"path": str(folder), "tokenizer": "characters", "vocabulary": 64, "length": 7, "validation": 0}
    return {**config, **given, **changes}


def loaded(folder: Path, **changes: Any) -> TableData:
    data = load(settings(folder, **changes))
    assert isinstance(data, TableData)
    return data


def documents(**parts: str) -> dict[str, dict[str, list[str]]]:
    return {part: {"text": texts.split("|")} for part, texts in parts.items()}


def blocks(data: TableData, part: Any) -> list[list[int]]:
    """Every block of a part, from inputs and targets put together again."""
    found = []
    for batch in data.eval_loader(part, 3):
        ids, target = batch["input"]["input_ids"], batch["target"]
        assert torch.equal(ids[:, 1:], target[:, :-1]), "the target is the next token"
        found += torch.cat([ids, target[:, -1:]], 1).tolist()
    return found


def text(data: TableData, ids: list[int]) -> str:
    assert isinstance(data.source, Corpus)
    return "".join("|" if number == END else data.source.tokenizer.decode([number]) for number in ids)


def test_documents_are_joined_with_an_end_token_and_cut_into_blocks(tmp_path: Path) -> None:
    data = loaded(write(tmp_path / "c", "parquet", **documents(train="abcdefghijklm", test="klmabcdefgh")))
    assert [text(data, block) for block in blocks(data, "train")] == ["abcdefgh"]
    assert [text(data, block) for block in blocks(data, "test")] == ["klmabcde"], "the remainder is left out"
    data = loaded(write(tmp_path / "d", "parquet", **documents(train="abc|de|fghijk|lm", test="abcdefgh")), length=3)
    joined = "".join(text(data, block) for block in blocks(data, "train"))
    assert len(joined) == 16
    assert Counter(joined.split("|")) <= Counter(["abc", "de", "fghijk", "lm", ""])


def test_a_document_lies_in_one_part_alone(tmp_path: Path) -> None:
    given = documents(train="aaaaaaaa|bbbbbbbb|aaaa", validation="cccccccccc", test="dddddddddddddddddd")
    data = loaded(write(tmp_path / "c", "jsonl", **given), validation=0.5, vocabulary=64)
    unknown = 1
    assert {number for block in blocks(data, "train") for number in block} == {END, FIRST, FIRST + 1}
    assert {number for block in blocks(data, "validation") for number in block} == {unknown}, (
        "characters of the training part alone have an id"
    )
    assert data.sizes == {"train": 2, "validation": 1, "test": 2}


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    place = tmp_path / "c"
    place.mkdir()
    (place / "train.txt").write_text("ab\ncd\n\nef\n")
    (place / "test.txt").write_text("ab\ncd\nef")
    data = loaded(place)
    assert [text(data, block) for block in blocks(data, "train")] == ["ab\ncd\n\ne"]


def test_without_a_test_file_a_tenth_of_the_blocks_at_the_end_is_held_out(tmp_path: Path) -> None:
    line = "".join(chr(ord("a") + place % 26) for place in range(8 * 30))
    data = loaded(write(tmp_path / "c", "parquet", train={"text": [line]}))
    assert data.sizes == {"train": 27, "validation": 0, "test": 3}
    assert "".join(text(data, block) for block in blocks(data, "train") + blocks(data, "test")) == line
    assert loaded(tmp_path / "c", validation=0.2).sizes == {"train": 22, "validation": 5, "test": 3}


def test_training_shows_every_block_once_an_epoch(tmp_path: Path) -> None:
    data = loaded(write(tmp_path / "c", "parquet", train=reviews(40), test=reviews(9, 1)))
    seen = [tuple(row) for batch in data.train_loader(1, seed=0) for row in batch["input"]["input_ids"].tolist()]
    assert Counter(seen) == Counter(tuple(block[:-1]) for block in blocks(data, "train"))
    assert seen != [tuple(block[:-1]) for block in blocks(data, "train")]


def test_a_batch_says_how_many_bytes_its_predictions_stand_for(tmp_path: Path) -> None:
    one = documents(train="é" * 79, test="a" * 159)  # 158 bytes in 80 tokens, 159 in 160
    data = loaded(write(tmp_path / "c", "parquet", **one))
    for part, ratio in (("train", 158 / 80), ("test", 159 / 160)):
        batch = next(iter(data.eval_loader(part, 2)))  # type: ignore[arg-type]
        assert batch["bytes"].tolist() == pytest.approx([7 * ratio] * 2)


def test_the_example_has_the_shapes_of_the_batches(tmp_path: Path) -> None:
    data = loaded(write(tmp_path / "c", "parquet", train=reviews(40), test=reviews(9, 1)))
    example, real = Corpus.example(settings(tmp_path), 2), next(iter(data.train_loader(2, seed=0)))
    assert example.keys() == real.keys()
    assert example["input"].keys() == real["input"].keys() == {"input_ids"}
    for name in ("target", "index", "view", "bytes"):
        assert (example[name].shape, example[name].dtype) == (real[name].shape, real[name].dtype), name
    assert example["input"]["input_ids"].shape == real["input"]["input_ids"].shape == (2, 7)
    assert Corpus.outputs(settings(tmp_path)) == 64
    assert data.labels is None
    assert data.classes == ()


def test_bytes_are_merged_where_asked(tmp_path: Path) -> None:
    data = loaded(
        write(tmp_path / "c", "parquet", train=reviews(80), test=reviews(9, 1)), tokenizer="bpe", vocabulary=300
    )
    assert isinstance(data.source, Corpus)
    assert 260 < data.source.tokenizer.vocabulary <= 300
    assert data.sizes["train"] < sum(len(text) + 1 for text in reviews(80)["text"]) / 8


@pytest.mark.parametrize("change", [{"length": 5}, {"tokenizer": "bpe", "vocabulary": 300}])
def test_the_fingerprint_knows_blocks_and_tokenizer(tmp_path: Path, change: dict[str, Any]) -> None:
    place = write(tmp_path / "c", "parquet", train=reviews(40), test=reviews(9, 1))
    assert loaded(place).fingerprint == loaded(place).fingerprint
    assert loaded(place).fingerprint != loaded(place, **change).fingerprint


@pytest.mark.parametrize(
    ("train", "changes", "said"),
    [
        ("abc", {}, r"data\.length=7: the training part has fewer than 8 tokens"),
        ("abcdefgh", {}, r"data\.length=7: the text makes one block, and a test part needs another"),
        ("abcdefgh", {"vocabulary": 5}, r"data\.vocabulary=5, but the tokenizer has 12 ids; type data\.vocabulary=12"),
        ("abcdefgh", {"text": "body"}, r"data\.text=body: .* has no such column; it has text"),
    ],
)
def test_text_that_makes_no_blocks_is_refused(tmp_path: Path, train: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        loaded(write(tmp_path / "c", "parquet", **documents(train=train)), **changes)
