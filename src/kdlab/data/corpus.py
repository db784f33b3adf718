"""Running text, for language models: documents in a row, cut into blocks without padding.

A block of `data.length` + 1 tokens gives `data.length` predictions: the input is the block without its last token, the
target the block without its first. What remains at the end of a part is left out. A block stands for as many bytes as
so many tokens do on average in the file that it is of; a part that is cut off another has the ratio of that one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Batch
from kdlab.data.check import DataError
from kdlab.data.counter_rng import SPLIT, order
from kdlab.data.data import Settings, needed
from kdlab.data.split import TEST_SHARE
from kdlab.data.table import Source, Table
from kdlab.data.text_source import described_tokenizer, encoded_texts
from kdlab.data.token_cache import Rows


class Corpus(Source):
    """Documents, each followed by an end token, packed into blocks of `length` + 1 tokens, each part on its own.

    Args:
        text: the column of documents.
        tokenizer: characters, bpe or wordpiece, trained on the training part; or a `tokenizer.json`, or its folder.
        vocabulary: how many token ids there may be.
        length: predictions of a block.
        path: a folder with parquet, csv, tsv, jsonl or txt files, a txt file being one document; None: download `name`.
        name: on the hub.

    Raises:
        DataError: where any of these does not fit the data.
    """

    classes = ()

    def __init__(
        self, text: str, tokenizer: str, vocabulary: int | None, length: int,
        path: str | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        encoded = encoded_texts(name, path, [text], None, tokenizer, vocabulary, None)
        end = encoded.tokenizer.role("eos_token")
        if end is None:
            raise DataError(f"data.tokenizer={tokenizer} has no token for the end of a document, such as <|endoftext|>")
        parts = {part: _packed(rows, end, length) for part, rows in encoded.parts.items()}
        if not len(train := parts["train"]):
            raise DataError(
                f"data.length={length}: the training part has fewer than {length + 1} tokens; type a smaller number"
            )
        if "test" not in parts:
            kept = len(train) - max(1, round(TEST_SHARE * len(train)))
            if not kept:
                raise DataError(f"data.length={length}: the text makes one block, and a test part needs another")
            parts |= {"train": train.take(torch.arange(kept)), "test": train.take(torch.arange(kept, len(train)))}
        # A part shorter than a block measures nothing.
        self.train, self.test = parts["train"], parts["test"] if len(parts["test"]) else None
        self.validation = parts["validation"] if len(parts.get("validation", ())) else None
        self.tokenizer, self.length = encoded.tokenizer, length
        self.fingerprint = hashlib.sha256(f"{encoded.fingerprint} {length}".encode()).hexdigest()

    @classmethod
    def example(cls, settings: Settings, samples: int = 2) -> Batch:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, cls.outputs(settings), (samples, needed(settings, "length") + 1), generator=generator)
        place = torch.arange(samples)
        return {"input": {"input_ids": ids[:, :-1]}, "target": ids[:, 1:], "index": place,
                "view": torch.zeros_like(place), "bytes": torch.ones(samples)}  # fmt: skip

    @classmethod
    def outputs(cls, settings: Settings) -> int:
        return needed(settings, "vocabulary")

    def transform(self, settings: Settings, changes: Mapping[str, Any] | None) -> Shift:
        return Shift()

    def described(self, settings: Settings, folder: Path) -> dict[str, Any]:
        return {"length": self.length, **described_tokenizer(self.tokenizer, folder)}


class Shift(nn.Module):
    """From blocks [B, L + 1] to `{"input_ids": [B, L]}` and the next tokens [B, L], int64."""

    pure = True
    soft = False

    def draw(self, seed: int, index: Tensor, view: Tensor) -> Tensor:
        """No random numbers [B, 0]."""
        return torch.empty(len(index), 0, device=index.device)

    def forward(self, blocks: Tensor, targets: Tensor, draws: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The input and the targets; the table's own are placeholders."""
        ids = blocks.long()
        return {"input_ids": ids[:, :-1]}, ids[:, 1:]


def _packed(rows: Rows, end: int, length: int) -> Table:
    # Documents in a fixed random order, so that the last blocks are a fair sample of them.
    column = rows.tokens.take(order(len(rows.tokens), 0, 0, SPLIT))
    ids, ends = column.ids, column.offsets[1:]
    stream = torch.empty(len(ids) + len(ends), dtype=ids.dtype)
    ending = torch.zeros(len(stream), dtype=torch.bool)
    ending[ends + torch.arange(len(ends))] = True
    stream[ending], stream[~ending] = end, ids
    count = len(stream) // (length + 1)
    blocks = stream[: count * (length + 1)].view(count, length + 1)
    # L_bytes / L_tokens of the part (Gao et al. The Pile. arXiv:2101.00027, 2020), for the predictions of a block.
    size = torch.full((count,), length * rows.bytes / len(stream))
    return Table(blocks, torch.zeros(count, dtype=torch.long), beside={"bytes": size})
