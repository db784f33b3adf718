"""Processes that ask a store for the same network at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from kdlab.run.store import Store

RECIPE = {"model": "contested"}


def ask(root: Path, diary: Path, seconds: float) -> None:
    """Asks for the network, and trains it for so long if it falls to this process, which is written down."""

    def train() -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        with diary.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return {"weight": torch.tensor([float(os.getpid())])}, {"trained_by": os.getpid()}

    (diary.parent / f"asking-{os.getpid()}").touch()
    entry = Store(root).get(RECIPE, train)
    (diary.parent / f"got-{os.getpid()}").write_text(str(int(entry.weights()["weight"].item())))
