"""Tokenizers: the same in every process, made once, and read from files that other libraries wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from kdlab.core.paths import home
from kdlab.data import tokenizer_training as training
from kdlab.data.check import DataError
from kdlab.data.tokenizer import Tokenizer, read_tokenizer
from kdlab.data.tokenizer_training import KINDS, trained_tokenizer
from kdlab.data.tokens import Tokens
from support.texts import reviews

TEXTS = reviews(200)["text"]
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##ed", "the", "film")


def rows(column: Tokens) -> list[list[int]]:
    return [column.ids[a:b].tolist() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]


def bert(folder: Path) -> Path:
    """A folder with the vocabulary of a BERT, as transformers saved it before there was tokenizer.json."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_process_makes_the_same_tokenizer(kind: str, tmp_path: Path) -> None:
    code = (
        f"from support.texts import reviews; from kdlab.data.tokenizer_training import trained_tokenizer as made; "
        f"print(made('{kind}', 300, reviews(200)['text']).digest)"
    )
    found = {trained_tokenizer(kind, 300, TEXTS).digest}
    for number in range(2):
        env = os.environ | {"KDLAB_HOME": str(tmp_path / str(number)), "PYTHONPATH": os.pathsep.join(sys.path)}
        made = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        found.add(made.stdout.strip())
    assert len(found) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_trained_once_for_the_same_texts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained_tokenizer(kind, 300, TEXTS)
    monkeypatch.setattr(training, "_TRAINED", dict.fromkeys(KINDS, lambda *_: pytest.fail("trained again")))
    assert trained_tokenizer(kind, 300, TEXTS).digest == first.digest
    with pytest.raises(pytest.fail.Exception):
        trained_tokenizer(kind, 300, [*TEXTS, "another"])


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"sha256": "0", "tokenizer": "x"}', b"\xff\xfe"])
def test_a_damaged_tokenizer_is_made_again(damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    first = trained_tokenizer("bpe", 300, TEXTS)
    (file,) = (home() / "tokenizers").glob("*.json")
    file.write_bytes(damage)
    assert trained_tokenizer("bpe", 300, TEXTS).digest == first.digest
    assert "is damaged; training the tokenizer again" in capsys.readouterr().err
    assert trained_tokenizer("bpe", 300, TEXTS).digest == first.digest
    assert not capsys.readouterr().err


def test_characters_are_numbered_in_order_after_the_special_tokens() -> None:
    made = trained_tokenizer("characters", None, ["cab", "ad\n"])
    column, cut = made.encode(["bad\n", "baß"], marks=False)
    assert made.vocabulary == 4 + len("\nabcd")
    assert rows(column) == [[6, 5, 8, 4], [6, 5, 1]]
    assert not cut
    assert made.decode([6, 5, 8, 4]) == "bad\n"


def test_bytes_lose_nothing_of_any_text() -> None:
    made = trained_tokenizer("bpe", 400, TEXTS)
    for text in ("the film", "  two\n\nspaces ", "naïve 日本 🙂", "<pad> and [MASK]"):
        column, _ = made.encode([text], marks=False)
        assert made.decode(column.ids.tolist()) == text
    assert made.vocabulary <= 400


def test_a_trained_wordpiece_vocabulary_splits_rare_words_and_marks_both_ends() -> None:
    made = trained_tokenizer("wordpiece", 60, TEXTS)
    by_id = {number: token for token, number in made.ids.items()}
    (row,) = rows(made.encode(["The playing ACTOR 日"])[0])
    words = [by_id[number] for number in row]
    assert (words[0], words[-1], words[-2]) == ("[CLS]", "[SEP]", "[UNK]")
    assert "".join(words[1:-2]).replace("##", "") == "theplayingactor"
    assert len(made.ids) == made.vocabulary == 60
    assert {by_id[n] for n in made.special.nonzero()[:, 0].tolist()} == {*training.BERT}
    assert {by_id[n] for n in made.continues.nonzero()[:, 0].tolist()} == {t for t in made.ids if t.startswith("##")}


def test_a_folder_of_transformers_gives_the_ids_that_transformers_gives(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(bert(tmp_path / "old")))
    theirs.save_pretrained(str(tmp_path / "new"))
    texts = ["Playing the film", "the played films"]
    expected = [theirs(text)["input_ids"] for text in texts]
    assert expected[0] == [2, 5, 6, 8, 9, 3], "the vocabulary as it was written"
    for place in (tmp_path / "old", tmp_path / "new", tmp_path / "new" / "tokenizer.json"):
        made = read_tokenizer(str(place))
        assert rows(made.encode(texts)[0]) == expected
        assert (made.role("pad_token"), made.role("mask_token"), made.role("eos_token")) == (0, 4, 3)
    pair = theirs("the film", "playing")["input_ids"]
    assert rows(made.encode([("the film", "playing")])[0]) == [pair]


def test_what_is_cut_keeps_its_ends_and_is_counted(tmp_path: Path) -> None:
    made = trained_tokenizer("wordpiece", 200, TEXTS)
    long, short = "the film is a very clever film", "the film"
    (whole, *_), _ = rows(made.encode([long])[0]), None
    column, cut = made.encode([long, short], length=5)
    first, second = rows(column)
    assert (first, cut) == ([*whole[:4], whole[-1]], 1)
    assert len(second) == 4


def test_a_text_cannot_forge_special_tokens() -> None:
    made = trained_tokenizer("wordpiece", 200, TEXTS)
    (row,) = rows(made.encode(["film [SEP] film [MASK]"])[0])
    assert made.special[row].nonzero()[:, 0].tolist()[0] == 0
    assert row.count(made.ids["[SEP]"]) == 1
    assert made.ids["[MASK]"] not in row


def test_an_empty_text_has_one_unknown_token() -> None:
    made = trained_tokenizer("bpe", 300, TEXTS)
    assert rows(made.encode(["", "the"])[0])[0] == [made.role("unk_token")]


def test_a_tokenizer_of_words_knows_no_continuation() -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    made = Tokenizer(words.to_str())
    assert not made.continues.any()
    assert made.role("mask_token") is None


@pytest.mark.parametrize(
    ("model", "continues"),
    [
        (tokenizers.models.BPE({"Ġa": 0, "b": 1, "##": 2, "Ġ##": 3}, []), {"b", "##"}),
        (tokenizers.models.WordLevel({"a": 0, "##a": 1}, "a"), set()),
        (
            tokenizers.models.WordPiece({"a": 0, "@@b": 1, "##": 2}, unk_token="a", continuing_subword_prefix="@@"),
            {"@@b"},
        ),
    ],
)
def test_number_signs_continue_a_word_only_where_they_are_the_mark_for_it(model: Any, continues: set[str]) -> None:
    made = Tokenizer(tokenizers.Tokenizer(model).to_str())
    assert {token for token, number in made.ids.items() if made.continues[number]} == continues


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "its content is no tokenizer"), ("[]", "its content is no tokenizer"), ("\xff", "its content is no")],
)
def test_a_file_that_is_no_tokenizer_is_refused(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(DataError, match=said) as raised:
        read_tokenizer(str(file))
    assert str(raised.value).startswith("data.tokenizer")


def test_what_is_not_there_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.tokenizer=.*gone does not exist; expected wordpiece, bpe, characters"):
        read_tokenizer(str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"^data\.tokenizer"):
        read_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match=r"data\.vocabulary is not set; type data\.vocabulary=COUNT"):
        trained_tokenizer("bpe", None, TEXTS)
