"""Texts that a teacher wrote, kept for later runs: `written/KEY.safetensors` under kdlab's home.

KEY is the hash of all that determines them: the writers' weights, the prompts and the settings. A file is written
atomically, by one process at a time, and read memory-mapped; one that is damaged is written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.core.files import replacing
from kdlab.core.paths import home

VERSION = 1
"""Increase it when the same writers, prompts and settings make other texts."""


def written_once(
    writers: Iterable[nn.Module], prompt: Tensor, settings: Mapping[str, Any], write: Callable[[], Tensor]
) -> Tensor:
    """The texts [n, L] that an earlier run kept, if they are whole; else what `write` makes, kept. Read-only.

    Args:
        writers: the networks that write.
        prompt: [n, P], the beginnings of the texts.
        settings: all else that determines them, as plain data.

    Raises:
        UsageError: where they cannot be kept.
    """
    from filelock import FileLock

    digest = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode())
    for writer in writers:
        digest.update(repr(writer).encode())
        for name, value in sorted(writer.state_dict().items()):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            _add(digest, value)
    _add(digest, prompt)
    file = home() / "written" / f"{digest.hexdigest()}.safetensors"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if (found := _read(file)) is None:
                _keep(file, write())
                found = _read(file)
    except OSError as error:
        raise UsageError(f"written texts cannot be kept in {file.parent} ({error}); set KDLAB_HOME=DIR") from error
    assert found is not None, "it was written under the lock"
    return found


def _keep(file: Path, text: Tensor) -> None:
    from safetensors.torch import save_file

    with replacing(file) as aside:
        save_file({"text": text}, aside, {"digest": _digest(text)})


def _read(file: Path) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            text: Tensor = opened.get_tensor("text")  # memory-mapped
            return text if opened.metadata()["digest"] == _digest(text) else None
    except (SafetensorError, FileNotFoundError, KeyError, TypeError):
        return None


def _digest(value: Tensor) -> str:
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Tensor) -> None:
    digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
