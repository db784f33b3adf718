"""Texts with classes: rows of token ids of their own lengths, padded batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdlab.core.knowledge import Batch
from kdlab.data.check import DataError, check_names
from kdlab.data.data import Settings, needed
from kdlab.data.split import with_test
from kdlab.data.table import Source, Table
from kdlab.data.text_augment import TextAugment
from kdlab.data.text_source import described_tokenizer, encoded_texts


class Text(Source):
    """Texts, or pairs of them, with classes.

    Args:
        text: the column of texts, or two of them, whose texts are pairs.
        label: the column of classes, numbers or names; empty or -1 where unlabelled.
        tokenizer: wordpiece, bpe or characters, trained on the training part; or a `tokenizer.json`, or its folder.
        vocabulary: how many token ids there may be.
        length: the most tokens of a text.
        path: a folder with parquet, csv, tsv, jsonl files; None: download `name`.
        name: on the hub.

    Raises:
        DataError: where any of these does not fit the data.
    """

    def __init__(
        self, text: str | list[str], label: str, tokenizer: str, vocabulary: int | None, length: int,
        path: str | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        columns = [text] if isinstance(text, str) else list(text)
        if len(columns) not in (1, 2):
            raise DataError(f"data.text={text}: expected a column, or two whose texts are pairs")
        encoded = encoded_texts(name, path, columns, label, tokenizer, vocabulary, length)
        parts = {part: Table(rows.tokens, rows.labels) for part, rows in encoded.parts.items()}
        check_names(encoded.classes)
        if "test" not in parts:
            parts["train"], parts["test"] = with_test(parts["train"])
        self.train, self.validation, self.test = parts["train"], parts.get("validation"), parts["test"]
        self.classes, self.fingerprint = encoded.classes, encoded.fingerprint
        self.tokenizer, self.length = encoded.tokenizer, length

    @classmethod
    def example(cls, settings: Settings, samples: int = 2) -> Batch:
        generator = torch.Generator().manual_seed(0)
        vocabulary, length = (needed(settings, key) for key in ("vocabulary", "length"))
        ids = torch.randint(0, vocabulary, (samples, length), generator=generator)
        place = torch.arange(samples)
        return {"input": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
                "target": place % cls.outputs(settings), "index": place, "view": torch.zeros_like(place)}  # fmt: skip

    @classmethod
    def outputs(cls, settings: Settings) -> int:
        return needed(settings, "classes")

    def check(self, settings: Settings) -> None:
        if settings.get("classes") not in (None, has := len(self.classes)):
            raise DataError(f"data.classes={settings['classes']}, but the data set has {has}; type data.classes={has}")

    def transform(self, settings: Settings, changes: Mapping[str, Any] | None) -> TextAugment:
        augment = {} if changes is None else {**(settings.get("augment") or {}), **changes}
        tokenizer, vocabulary = self.tokenizer, needed(settings, "vocabulary")
        masked = tokenizer.role("mask_token")
        if masked is None and augment.get("masking"):
            raise DataError(f"data.augment.masking={augment['masking']}: the tokenizer has no token for it; type 0")
        tables = [torch.zeros(vocabulary, dtype=torch.bool) for _ in range(2)]
        for table, found in zip(tables, (tokenizer.special, tokenizer.continues), strict=True):
            table[: len(found)] = found
        return TextAugment(masked or 0, tokenizer.role("pad_token") or 0, *tables, **augment)

    def described(self, settings: Settings, folder: Path) -> dict[str, Any]:
        return {"length": self.length, **described_tokenizer(self.tokenizer, folder)}
