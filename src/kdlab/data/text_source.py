"""Texts and how they become token ids: what classification and language modelling read alike."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdlab.core.files import write_text
from kdlab.data import tokenizer_training
from kdlab.data.check import DataError, existing
from kdlab.data.text_files import EXPECTED, Texts, read_texts, text_files
from kdlab.data.token_cache import Encoded, Rows, encoded_once
from kdlab.data.tokenizer import ROLES, Tokenizer, read_tokenizer
from kdlab.data.tokenizer_training import KINDS, trained_tokenizer


def encoded_texts(
    name: str | None, path: str | None, columns: Sequence[str], label: str | None, tokenizer: str,
    vocabulary: int | None, length: int | None,
) -> Encoded:  # fmt: skip
    """The parts of a data set as token ids; what was read before is not read again.

    Args:
        name: on the hub, where there is no path.
        path: a folder with files.
        columns: of texts; two make pairs.
        label: the column of classes; None: there are none.
        tokenizer: one of `KINDS`, trained on the training part, or the path of a file or folder.
        vocabulary: how many ids there may be.
        length: the most tokens of a text, with the marks around it; None: any number, without marks.

    Raises:
        DataError: where anything of this cannot be, naming the key.
    """
    folder = existing(path, EXPECTED) if path or not name else None
    origin: dict[str, Any] = {"name": name, "columns": list(columns), "label": label, "length": length}
    if folder is not None:
        every = [file for files in text_files(folder).values() for file in files]
        origin |= {"path": str(folder.resolve()), "files": [_stamp(file, folder) for file in every]}
    own = None if tokenizer in KINDS else read_tokenizer(tokenizer)
    trained = [tokenizer, vocabulary, tokenizer_training.VERSION]
    origin["tokenizer"] = trained if own is None else own.digest

    def make() -> Encoded:
        found, classes = read_texts(name, folder, columns, label)
        used = own or trained_tokenizer(tokenizer, vocabulary, _flat(found["train"]))
        _check_vocabulary(used, vocabulary)  # before the slow part
        return Encoded({part: _rows(texts, used, length) for part, texts in found.items()}, classes, used)

    encoded = encoded_once(origin, make)
    _check_vocabulary(encoded.tokenizer, vocabulary)
    if cut := sum(rows.cut for rows in encoded.parts.values()):
        several = sum(len(rows.tokens) for rows in encoded.parts.values())
        said = f"kdlab: {cut} of {several} texts are longer than data.length={length} and are truncated"
        print(said, file=sys.stderr)
    return encoded


def described_tokenizer(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """What `student.yaml` says of a tokenizer, whose `tokenizer.json` is written into the folder."""
    file = folder / "tokenizer.json"
    write_text(file, tokenizer.content)
    return {
        "tokenizer": file.name,
        "tokenizer_sha256": hashlib.sha256(tokenizer.content.encode()).hexdigest(),
        "special": {name: number for name in ROLES if (number := tokenizer.role(name)) is not None},
    }


def _rows(texts: Texts, tokenizer: Tokenizer, length: int | None) -> Rows:
    tokens, cut = tokenizer.encode(texts.texts, length, marks=length is not None)
    return Rows(tokens, torch.tensor(texts.labels, dtype=torch.long), texts.bytes, cut)


def _flat(texts: Texts) -> list[str]:
    return [one for text in texts.texts for one in ((text,) if isinstance(text, str) else text)]


def _check_vocabulary(tokenizer: Tokenizer, vocabulary: int | None) -> None:
    has = tokenizer.vocabulary
    if vocabulary is None:
        raise DataError(f"data.vocabulary is not set; type data.vocabulary={has}, the ids of the tokenizer")
    if vocabulary < has:
        raise DataError(f"data.vocabulary={vocabulary}, but the tokenizer has {has} ids; type data.vocabulary={has}")


def _stamp(file: Path, folder: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file.relative_to(folder)), status.st_size, status.st_mtime_ns
