"""Tokenises a data set once, and keeps the ids for later runs: 67 000 sentences take 10 s, reading them back 0.1 s.

They are in `data/KEY.safetensors` under kdlab's home, written atomically. KEY is the hash of where the texts come from
and of how they are tokenised. The fingerprint is computed anew at each read: a file that was changed since is made
again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdlab.core.files import replacing
from kdlab.core.paths import home
from kdlab.data.check import DataError
from kdlab.data.tokenizer import Tokenizer
from kdlab.data.tokens import Tokens

VERSION = 2
"""Increase it when the same files make other ids or labels."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The texts of one part, tokenised.

    labels: [n] int64, -1 where unlabelled. bytes: of all texts in UTF-8. cut: how many were longer than `data.length`.
    """

    tokens: Tokens
    labels: Tensor
    bytes: int
    cut: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """The parts of a data set, by name, the names of its classes, and the tokenizer that made the ids."""

    parts: Mapping[str, Rows]
    classes: tuple[str, ...]
    tokenizer: Tokenizer

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names of the classes, the tokenizer and, part by part, ids and labels."""
        digest = hashlib.sha256(json.dumps([self.classes, self.tokenizer.digest]).encode())
        for part, rows in sorted(self.parts.items()):
            digest.update(f"{part} {len(rows.tokens)} {rows.bytes} {rows.cut}".encode())
            for values in (rows.tokens.ids, rows.tokens.offsets, rows.labels):
                digest.update(values.contiguous().numpy().data)
        return digest.hexdigest()


def encoded_once(origin: Mapping[str, Any], make: Callable[[], Encoded]) -> Encoded:
    """What an earlier run kept under `origin`, if it is whole; else what `make` makes, kept.

    Args:
        origin: all that determines the ids, as plain data.

    Raises:
        DataError: where it cannot be made or kept.
    """
    key = hashlib.sha256(json.dumps([VERSION, origin], sort_keys=True).encode()).hexdigest()
    file = home() / "data" / f"{key}.safetensors"
    if file.is_file():
        try:
            return _read(file)
        except DataError as error:
            print(f"kdlab: {file}: {error}; tokenising the texts again", file=sys.stderr)
    made = make()
    _write(file, made)
    return made


def _write(file: Path, encoded: Encoded) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    about = {
        "classes": encoded.classes, "fingerprint": encoded.fingerprint,
        "tokenizer": [encoded.tokenizer.content, encoded.tokenizer.names],
        "parts": {
            part: [rows.bytes, rows.cut, rows.tokens.padding, rows.tokens.limit] for part, rows in encoded.parts.items()
        },
    }  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for part, rows in encoded.parts.items():
        tensors |= {
            f"{part}.ids": rows.tokens.ids,
            f"{part}.offsets": rows.tokens.offsets,
            f"{part}.labels": rows.labels,
        }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as aside:
            save_file(tensors, aside, {"kdlab": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"tokenised texts cannot be kept in {file.parent} ({error}); set KDLAB_HOME=DIR") from error


def _read(file: Path) -> Encoded:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["kdlab"])
            parts = {
                part: Rows(
                    Tokens(opened.get_tensor(f"{part}.ids"), opened.get_tensor(f"{part}.offsets"), padding, limit),
                    opened.get_tensor(f"{part}.labels"), length, cut,
                )
                for part, (length, cut, padding, limit) in about["parts"].items()
            }  # fmt: skip
            encoded = Encoded(parts, tuple(about["classes"]), Tokenizer(*about["tokenizer"]))
            whole = about["fingerprint"] == encoded.fingerprint
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, RecursionError) as error:
        raise DataError(f"damaged, or kept by another version ({type(error).__name__})") from error
    if not whole:
        raise DataError("its content was changed since it was kept")
    return encoded
