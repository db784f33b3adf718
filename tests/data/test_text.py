"""Texts with classes, from files that the tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml

from kdlab.core.paths import home
from kdlab.data import text_source, tokenizer_training
from kdlab.data.check import DataError, check
from kdlab.data.dataset import TableData, load
from kdlab.data.text import Text
from support.texts import BAD, GOOD, reviews, write

CONF = Path(__file__).parents[2] / "conf" / "data" / "text.yaml"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    config = yaml.safe_load(CONF.read_text())
    return {**config, "path": str(folder), "classes": 2, "vocabulary": 120, "length": 16, **changes}


def loaded(folder: Path, **changes: Any) -> TableData:
    data = load(settings(folder, **changes))
    assert isinstance(data, TableData)
    return data


def read(data: TableData, part: Any) -> list[tuple[str, int]]:
    """The texts of a part as a network gets them, in words, and their labels."""
    source = data.source
    assert isinstance(source, Text)
    found = []
    for batch in data.eval_loader(part, 7):
        ids, mask = batch["input"]["input_ids"], batch["input"]["attention_mask"]
        for row, valid, label in zip(ids, mask.bool(), batch["target"].tolist(), strict=True):
            words = source.tokenizer.decode(row[valid].tolist()).replace("[CLS]", "").replace("[SEP]", "")
            found.append((" ".join(words.split()), label))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "texts", "csv", train=reviews(60), validation=reviews(10, 1), test=reviews(12, 2))


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
def test_every_kind_of_file_gives_the_same_texts(kind: str, tmp_path: Path) -> None:
    given = {"train": reviews(40), "validation": reviews(6, 1), "test": reviews(8, 2)}
    data = loaded(write(tmp_path / kind, kind, **given), vocabulary=400)
    for part, columns in given.items():
        assert read(data, part) == list(zip(columns["text"], columns["label"], strict=True))
    assert data.classes == ("0", "1")
    assert data.sizes == {"train": 40, "validation": 6, "test": 8}


def files(folder: Path, kind: str, content: str) -> dict[str, list[tuple[str, int]]]:
    """What is read of a training file with this content, and of a test file with the same."""
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.{kind}").write_text(content)
    data = loaded(folder, tokenizer="characters", vocabulary=60, length=60, validation=0)
    return {part: [(text.replace(" ", ""), label) for text, label in read(data, part)] for part in ("train", "test")}


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_words_that_stand_for_nothing_elsewhere_are_text_and_classes(tmp_path: Path, kind: str) -> None:
    lines = ["text,label", "NA,None", "null,some", "nan,None", "N/A,"]
    content = "".join(line.replace(",", "," if kind == "csv" else "\t") + "\n" for line in lines)
    every = [("NA", 0), ("null", 1), ("nan", 0), ("N/A", -1)]
    assert files(tmp_path / "texts", kind, content) == {"train": every, "test": every}


def test_an_empty_label_among_numbers_is_unlabelled(tmp_path: Path) -> None:
    every = [("a", 0), ("b", 1), ("c", -1), ("d", -1)]
    assert files(tmp_path / "texts", "csv", "text,label\na,0\nb,1\nc,\nd,-1\n")["train"] == every
    halves = write(tmp_path / "halves", "csv", train={"text": ["a", "b"], "label": [0.5, 1.0]})
    with pytest.raises(DataError, match=r"data\.label=label: .* found float"):
        loaded(halves)


def test_a_quote_begins_no_field_of_a_tsv(tmp_path: Path) -> None:
    content = 'text\tlabel\n"a film\t0\nb\t1\n"c" d\t0\ne"\t1\n'
    every = [('"afilm', 0), ("b", 1), ('"c"d', 0), ('e"', 1)]
    assert files(tmp_path / "texts", "tsv", content)["train"] == every


def test_batches_are_padded_on_the_right_to_their_longest(folder: Path) -> None:
    for batch in loaded(folder).train_loader(10, seed=0):
        ids, mask = batch["input"]["input_ids"], batch["input"]["attention_mask"]
        assert ids.dtype == mask.dtype == torch.int64
        assert ids.shape == mask.shape
        assert ids.shape[1] in (8, 16)
        assert ids.shape[1] - 8 < int(mask.sum(1).max()) <= ids.shape[1]
        assert (mask.diff(dim=1) <= 0).all()
        assert (ids[mask == 0] == 0).all()
        assert (ids[:, 0] == 2).all(), "[CLS]"


@pytest.mark.parametrize("resident", [True, False])
def test_resident_and_streamed_batches_are_the_same(folder: Path, resident: bool) -> None:
    augment = {"masking": 0.3, "ngram": 0.3}
    one = loaded(folder, augment=augment).train_loader(12, seed=3)
    other = loaded(folder, augment=augment, resident=resident).train_loader(12, seed=3)
    for ours, theirs in zip(one, other, strict=True):
        assert torch.equal(ours["input"]["input_ids"], theirs["input"]["input_ids"])
        assert torch.equal(ours["input"]["attention_mask"], theirs["input"]["attention_mask"])
        assert torch.equal(ours["target"], theirs["target"])


def test_the_second_run_reads_no_file_and_has_the_same_fingerprint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded(folder)
    monkeypatch.setattr(text_source, "read_texts", lambda *_: pytest.fail("the texts were read"))
    second = loaded(folder)
    assert second.fingerprint == first.fingerprint
    assert read(second, "test") == read(first, "test")
    with pytest.raises(pytest.fail.Exception):
        loaded(folder, length=20)


@pytest.mark.parametrize("tokenizer", ["wordpiece", "own"])
def test_a_trained_tokenizer_of_another_version_tokenises_anew(
    folder: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tokenizer == "own":
        tokenizer = str(tmp_path / loaded(folder).described(tmp_path)["tokenizer"])
    loaded(folder, tokenizer=tokenizer)
    kept = {*(home() / "data").iterdir()}
    monkeypatch.setattr(tokenizer_training, "VERSION", tokenizer_training.VERSION + 1)
    loaded(folder, tokenizer=tokenizer)
    assert len({*(home() / "data").iterdir()} - kept) == (tokenizer == "wordpiece")


def test_what_was_kept_and_changed_since_is_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = loaded(folder)
    (file,) = (home() / "data").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert loaded(folder).fingerprint == first.fingerprint
    assert "was changed since it was kept; tokenising the texts again" in capsys.readouterr().err
    file.write_bytes(b"nothing")
    assert loaded(folder).fingerprint == first.fingerprint
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"tokenizer": "bpe", "vocabulary": 300}, {"length": 6}, {"split_seed": 1}])
def test_whatever_decides_a_network_is_in_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    place = write(tmp_path / "one", "csv", train=reviews(60), test=reviews(12, 2))
    other = write(tmp_path / "two", "csv", train=reviews(60), test=reviews(12, 2))
    assert loaded(place).fingerprint == loaded(other).fingerprint, "the same texts anywhere"
    assert loaded(place).fingerprint != loaded(place, **change).fingerprint


def test_without_a_test_file_a_tenth_of_the_training_texts_is_held_out_evenly(tmp_path: Path) -> None:
    data = loaded(write(tmp_path / "texts", "csv", train=reviews(100)), validation=0.1)
    assert data.sizes == {"train": 81, "validation": 9, "test": 10}
    assert data.parts.test.labels.bincount().tolist() == [5, 5]
    every = [text for part in ("train", "validation", "test") for text in read(data, part)]
    assert sorted(text for text, _ in every) == sorted(reviews(100)["text"])


def test_an_only_file_without_a_parts_name_is_the_training_part(tmp_path: Path) -> None:
    write(tmp_path / "texts", "jsonl", reviews_of_films=reviews(50))
    assert loaded(tmp_path / "texts", validation=0).sizes == {"train": 45, "validation": 0, "test": 5}


def test_texts_without_a_label_stay_and_count_as_unlabelled(tmp_path: Path) -> None:
    columns = reviews(40)
    columns["label"] = [None, -1, *columns["label"][2:]]
    data = loaded(write(tmp_path / "texts", "parquet", train=columns, test=reviews(4)), validation=0)
    assert data.parts.train.labels.tolist()[:4] == [-1, -1, 0, 1]
    unlabelled = write(tmp_path / "hidden", "parquet", train=reviews(40), test={"text": ["a"] * 3, "label": [-1] * 3})
    assert loaded(unlabelled, validation=0).sizes["test"] == 4, "a test part without labels measures nothing"


def test_pairs_are_two_columns(tmp_path: Path) -> None:
    first, second = reviews(30), reviews(30, 5)
    columns = {"premise": first["text"], "hypothesis": second["text"], "label": first["label"]}
    data = loaded(
        write(tmp_path / "pairs", "parquet", train=columns, test=columns), text=["premise", "hypothesis"],
        length=40, vocabulary=400, validation=0,
    )  # fmt: skip
    assert [text for text, _ in read(data, "test")] == [
        f"{one} {two}" for one, two in zip(first["text"], second["text"], strict=True)
    ]
    assert (next(iter(data.eval_loader("test", 30)))["input"]["input_ids"] == 3).sum() == 60, "two [SEP] for each"


def test_cut_texts_are_counted_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = sum(len(text.split()) > 6 for part in (reviews(60), reviews(10, 1), reviews(12, 2)) for text in part["text"])
    data = loaded(folder, length=8, vocabulary=400)
    assert capsys.readouterr().err == f"kdlab: {long} of 82 texts are longer than data.length=8 and are truncated\n"
    assert max(batch["input"]["input_ids"].shape[1] for batch in data.eval_loader("train", 5)) == 8


def test_the_example_has_the_shapes_of_the_batches_and_reads_nothing(tmp_path: Path, folder: Path) -> None:
    example = Text.example(settings(tmp_path / "gone"), 3)
    real = next(iter(loaded(folder).train_loader(3, seed=0)))
    assert example.keys() == real.keys()
    assert example["input"].keys() == real["input"].keys()
    assert example["input"]["input_ids"].shape == (3, 16)
    assert int(example["input"]["input_ids"].max()) < 120
    assert {name: value.dtype for name, value in example["input"].items()} == {
        name: value.dtype for name, value in real["input"].items()
    }
    assert Text.outputs(settings(tmp_path)) == 2


def test_a_student_is_described_with_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    from kdlab.data.tokenizer import read_tokenizer

    data = loaded(folder)
    about = data.described(tmp_path)
    again = read_tokenizer(str(tmp_path / about["tokenizer"]))
    assert isinstance(data.source, Text)
    assert again.digest == data.source.tokenizer.digest
    assert (about["length"], about["special"]["pad_token"], about["special"]["mask_token"]) == (16, 0, 4)


def test_words_that_tell_the_label_survive_tokenising(folder: Path) -> None:
    for text, label in read(loaded(folder, vocabulary=400), "train"):
        assert {*text.split()} & {*(GOOD if label else BAD)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": "sentence"}, r"data\.text=sentence: .* has no such column; it has text, label"),
        ({"label": "stars"}, r"data\.label=stars: .* has no such column; it has text, label"),
        ({"text": "label"}, r"data\.text=label: .* has no text in this column, but int64"),
        ({"vocabulary": 20}, r"data\.vocabulary=20, but the tokenizer has \d+ ids; type data\.vocabulary=\d+"),
        ({"vocabulary": None}, r"data\.vocabulary is not set; type data\.vocabulary=COUNT"),
        ({"classes": 3}, r"data\.classes=3, but the data set has 2; type data\.classes=2"),
        ({"tokenizer": "sentencepiece"}, r"data\.tokenizer=sentencepiece does not exist; expected wordpiece, bpe"),
        ({"length": 2}, r"data\.length=2 leaves no room beside 2 special tokens"),
        ({"text": ["a", "b", "c"]}, r"data\.text=.*expected a column, or two"),
        ({"augment": {"crop": 4}}, r"data\.augment\.crop: there is no such key; .*masking"),
        ({"augment": {"masking": 2.0}}, r"data\.augment\.masking=2\.0: expected a number from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        loaded(folder, **changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"data\.path=.* holds no such file; expected a folder with parquet, csv"),
        ({"test.csv": b"text,label\na,0\n"}, r"holds test but no train file; add one, such as train\.csv"),
        ({"train.csv": b"text,label\n", "test.csv": b"text,label\na,0\n"}, r"the train split is empty"),
        ({"train.csv": b"text,label\na,1\nb,1\n"}, r"data\.label=label: expected two classes or more, found 1"),
        ({"train.csv": "text,label\nnaïve,1\nb,0\n".encode("latin-1")}, r"train\.csv is not UTF-8 \(near byte 13\)"),
        ({"train.csv": b"text,label\na,1\n", "x.jsonl": b"{}"}, r"holds \.csv and \.jsonl files"),
        ({"train.jsonl": b"{nothing\n"}, r"data\.path=.* cannot be read"),
        ({"train.parquet": b"nothing"}, r"data\.path: .*train\.parquet cannot be read"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    for name, content in files.items():
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(content)
    (tmp_path / "texts").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=said) as raised:
        loaded(tmp_path / "texts")
    assert "\n" not in str(raised.value)


def test_a_config_without_a_folder_is_refused_before_anything_is_read() -> None:
    config = yaml.safe_load(CONF.read_text())
    with pytest.raises(DataError, match=r"data\.path is not set: type data\.path=DIR"):
        check(config)
    with pytest.raises(DataError, match=r"data\.path=/nowhere does not exist"):
        check(config | {"path": "/nowhere"})
