"""Trains a tokenizer on the training texts, once: it is kept under kdlab's home by the hash of what it came from.

A trained one has the same ids in every process. The WordPiece trainer of the `tokenizers` library numbers the
continuations of words (`##a`) in the order of a hash table, another one in every process, and breaks ties by these
numbers; here they are numbered before it starts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdlab.core.files import write_text
from kdlab.core.paths import home
from kdlab.data.check import DataError
from kdlab.data.tokenizer import Tokenizer, library

KINDS = ("wordpiece", "bpe", "characters")

VERSION = 1
"""Increase it when the same texts make another tokenizer."""

ALPHABET = 1000
"""The most characters of which a WordPiece vocabulary is made; others become unknown words."""

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PLAIN = ("<pad>", "<unk>", "<mask>", "<|endoftext|>")


def trained_tokenizer(kind: str, vocabulary: int | None, texts: Sequence[str]) -> Tokenizer:
    """A tokenizer of one of `KINDS`, trained on texts or kept from an earlier time.

    Args:
        vocabulary: how many ids it may have; characters take as many as there are.

    Raises:
        DataError: where there are too few ids.
    """
    if vocabulary is None and kind != "characters":
        raise DataError(f"data.vocabulary is not set; type data.vocabulary=COUNT, the size of the {kind} vocabulary")
    size = 0 if kind == "characters" else vocabulary
    file = home() / "tokenizers" / f"{_key(kind, size, texts)}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            content = _kept(file)
            if content is None:
                content = _TRAINED[kind](texts, size)
                write_text(file, json.dumps({"sha256": _hash(content), "tokenizer": content}))
    except OSError as error:
        raise DataError(f"the tokenizer cannot be kept in {file.parent} ({error}); set KDLAB_HOME=DIR") from error
    return Tokenizer(content)


def _kept(file: Path) -> str | None:
    if not file.is_file():
        return None
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        content = about["tokenizer"]
        if _hash(content) == about["sha256"]:
            return str(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    print(f"kdlab: {file} is damaged; training the tokenizer again", file=sys.stderr)
    return None


def _key(kind: str, size: int | None, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, kind, size]).encode())
    for text in texts:
        written = text.encode("utf-8", "surrogatepass")
        digest.update(len(written).to_bytes(8) + written)
    return digest.hexdigest()


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _wordpiece(texts: Sequence[str], size: int) -> str:
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    normalize, split = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    seen = Counter[str]()
    for text in texts:
        seen.update(normalize.normalize_str(text))
    letters = sorted(seen, key=lambda letter: (-seen[letter], letter))[:ALPHABET]
    alphabet = sorted(letter for letter in letters if not letter.isspace())
    learner = library().Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalize, split
    learner.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=size, show_progress=False, initial_alphabet=alphabet, limit_alphabet=len(alphabet),
            # In the order given, before any word is seen; what is special of them is dropped below.
            special_tokens=[*BERT, *(f"##{letter}" for letter in alphabet)],
        ),
    )  # fmt: skip
    ids = learner.get_vocab(with_added_tokens=False)
    made = library().Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer, made.decoder = normalize, split, decoders.WordPiece()
    made.add_special_tokens(list(BERT))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, ids[mark]) for mark in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    return str(made.to_str())


def _bpe(texts: Sequence[str], size: int) -> str:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = library().Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, show_progress=False, special_tokens=list(PLAIN),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    return str(made.to_str())


def _characters(texts: Sequence[str], size: int) -> str:
    from tokenizers import decoders, models

    letters = sorted(set().union(*texts))
    ids = {token: number for number, token in enumerate([*PLAIN, *letters])}
    made = library().Tokenizer(models.BPE(ids, [], unk_token="<unk>"))
    made.decoder = decoders.Fuse()
    made.add_special_tokens(list(PLAIN))
    return str(made.to_str())


_TRAINED: dict[str, Any] = dict(zip(KINDS, (_wordpiece, _bpe, _characters), strict=True))
