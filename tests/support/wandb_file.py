"""Reads the log that W&B keeps of a run that is offline: records in LevelDB's log format, each a protobuf message.

A file begins with 7 bytes of its own. Then come blocks of 32 KiB, of pieces with a checksum (4 bytes), a length
(2) and a kind (1: whole, 2: first, 3: middle, 4: last piece of a record); the end of a block too short for
another piece is filled with zeros.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024


@dataclass
class Logged:
    """What one W&B run holds."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def read(file: Path) -> Logged:
    """The content of a .wandb file."""
    logged = Logged()
    for record in records(file):
        match record.WhichOneof("record_type"):
            case "run":
                logged.run = record.run
                logged.config |= _values(record.run.config.update)
            case "config":
                logged.config |= _values(record.config.update)
            case "history":
                logged.history.append(_values(record.history.item))
            case "summary":
                logged.summary |= _values(record.summary.update)
            case "metric":
                logged.metrics[record.metric.name or record.metric.glob_name] = record.metric
            case "exit":
                logged.exit_code = record.exit.exit_code
    return logged


def records(file: Path) -> Iterator[Record]:
    """Every record of a .wandb file."""
    content, place, pieces = file.read_bytes(), 7, b""
    while place < len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        pieces += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(pieces)
            pieces = b""


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
