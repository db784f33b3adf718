"""From text to token ids: a tokenizer of the user's, read from its files, or one that is trained on the data.

WordPiece: Wu et al. Google's Neural Machine Translation System. arXiv:1609.08144, 2016; lower case, as BERT's.
BPE: Sennrich, Haddow, Birch. Neural Machine Translation of Rare Words with Subword Units. ACL 2016; over bytes, as
GPT-2's. Characters: byte-pair encoding without merges.

All three are those of the `tokenizers` library, and no file of theirs can hold code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdlab.data.check import DataError
from kdlab.data.tokens import Tokens, tokens

ROLES: Mapping[str, tuple[str, ...]] = {
    "pad_token": ("[PAD]", "<pad>", "<|pad|>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
    "eos_token": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[EOS]", "[SEP]"),
}
"""Special tokens: the key of a `tokenizer_config.json`, and what they are usually called."""

LARGEST = 2**28
"""Bytes of a tokenizer's file; the largest in use have 2^25."""

CHUNK = 4096

Text = str | tuple[str, str]
"""A text, or a pair of them."""


class Tokenizer:
    """A tokenizer by the content of its `tokenizer.json`.

    Args:
        content: as the `tokenizers` library writes it.
        names: of the special tokens, by role, where they are not the usual ones.

    Raises:
        DataError: where it cannot be read.
    """

    def __init__(self, content: str, names: Mapping[str, str] | None = None) -> None:
        self._own = library().Tokenizer
        with _reported("its content is no tokenizer"):
            self._tokenizer = self._own.from_str(content)
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            # What is written in a text is text, whatever it looks like.
            self._tokenizer.encode_special_tokens = True
        self.content, self.names = content, dict(names or {})
        ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self.ids = ids
        if not ids:
            raise DataError("data.tokenizer: it has no tokens")

    @property
    def vocabulary(self) -> int:
        """How many ids there are, from 0."""
        return max(self.ids.values()) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides its ids."""
        return hashlib.sha256(json.dumps([self.content, sorted(self.names.items())]).encode()).hexdigest()

    def role(self, name: str) -> int | None:
        """The id of the token with a role of `ROLES`, if there is one."""
        known = (self.names[name],) if name in self.names else ROLES[name]
        return next((self.ids[token] for token in known if token in self.ids), None)

    @cached_property
    def special(self) -> Tensor:
        """[V] bool: ids that stand for no text."""
        found = torch.zeros(self.vocabulary, dtype=torch.bool)
        added = [number for number, token in self._tokenizer.get_added_tokens_decoder().items() if token.special]
        roles = [number for name in ROLES if (number := self.role(name)) is not None]
        found[[*added, *roles]] = True
        return found

    @cached_property
    def continues(self) -> Tensor:
        """[V] bool: ids that continue the word of the token before; none where every token is a word."""
        found = torch.zeros(self.vocabulary, dtype=torch.bool)
        if mark := getattr(self._tokenizer.model, "continuing_subword_prefix", None):  # "##", where it is WordPiece
            found[[number for token, number in self.ids.items() if token.startswith(mark)]] = True
        elif any(token.startswith(("Ġ", "▁")) for token in self.ids):
            found[[number for token, number in self.ids.items() if not token.startswith(("Ġ", "▁"))]] = True
        return found & ~self.special

    def encode(self, texts: Sequence[Text], length: int | None = None, *, marks: bool = True) -> tuple[Tokens, int]:
        """The ids of texts or pairs, and how many of them were cut.

        Args:
            length: the most tokens of a row; None: any.
            marks: add the tokens that the tokenizer puts around a text, such as [CLS] and [SEP].
        """
        if length is None:
            self._tokenizer.no_truncation()
        else:
            pairs = bool(texts) and not isinstance(texts[0], str)
            around = self._tokenizer.num_special_tokens_to_add(pairs) if marks else 0
            if length <= around:
                raise DataError(
                    f"data.length={length} leaves no room beside {around} special tokens; type a larger one"
                )
            self._tokenizer.enable_truncation(length)
        rows, cut, empty = list[list[int]](), 0, [self.role("unk_token") or 0] if marks else []
        for start in range(0, len(texts), CHUNK):
            with _reported("it fails at a text of the data"):
                found = self._tokenizer.encode_batch_fast(texts[start : start + CHUNK], add_special_tokens=marks)
            rows += [encoded.ids or empty for encoded in found]  # attention over nothing would be NaN
            cut += sum(bool(encoded.overflowing) for encoded in found)
        return tokens(rows, self.role("pad_token") or 0, length), cut

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def read_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, or of a folder as transformers saves it.

    Raises:
        DataError: where there is none, or it cannot be read.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(
            f"data.tokenizer={path} does not exist; expected wordpiece, bpe, characters, a tokenizer.json, or a folder "
            "with one"
        )
    file = place / "tokenizer.json" if place.is_dir() else place
    with _reported(f"{path} cannot be read"):
        content = _text(file) if file.is_file() else _converted(place)
        settings = file.parent / "tokenizer_config.json"
        names = _names(json.loads(_text(settings))) if settings.is_file() else {}
        return Tokenizer(content, names)


def library() -> Any:
    """The `tokenizers` library."""
    try:
        import tokenizers
    except ImportError as error:
        raise DataError("text needs the tokenizers library: pip install 'kdlab[text]'") from error
    return tokenizers


def _text(file: Path) -> str:
    if file.stat().st_size > LARGEST:
        raise DataError(f"{file} is larger than {LARGEST} bytes")
    return file.read_text(encoding="utf-8")


def _converted(folder: Path) -> str:
    # Older folders hold a vocabulary alone, which transformers knows how to read.
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError("it has no tokenizer.json; pip install 'kdlab[text]' to read others") from error
    found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not getattr(found, "is_fast", False):
        raise DataError("it has no tokenizer.json, and transformers cannot make one of it")
    return str(found.backend_tokenizer.to_str())


def _names(settings: Any) -> dict[str, str]:
    found = {}
    for role in ROLES:
        token = settings.get(role) if isinstance(settings, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[role] = token
    return found


@contextmanager
def _reported(words: str) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library's Rust is no Exception
        said = " ".join(str(error).split()).removeprefix("data.tokenizer: ")
        raise DataError(f"data.tokenizer: {words}: {said or type(error).__name__}") from error
