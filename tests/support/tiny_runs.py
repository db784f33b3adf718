"""Whole runs that take seconds: two epochs on the digits, networks of a few thousand parameters."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

NETWORKS = ("model=resnet8", "model.width=0.25", "teacher=resnet8", "teacher.model.width=0.5")
SHORT = ("trainer.max_epochs=2", "teacher.trainer.max_epochs=2")
TINY = (*NETWORKS, *SHORT, "logger=csv")


@dataclass
class Told:
    """What a command line left behind: its exit code, its output, and its run folder, if it made one."""

    code: int
    out: str
    err: str
    folder: Path | None

    @property
    def result(self) -> dict[str, Any]:
        """The run's result.json."""
        assert self.folder is not None, self.err
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found


def hears_ctrl_c() -> None:
    """For a process about to start: it would else ignore Ctrl-C where a shell put these tests in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def machine(home: Path) -> Iterator[None]:
    """A home of its own, one thread, W&B offline and without a login, and no run folder agreed on before."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("KDLAB_HOME", home), ("WANDB_MODE", "offline"), ("COLUMNS", "120")):
            patch.setenv(name, str(value))
        patch.chdir(home.parent)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def train(*arguments: str, runs: Path) -> Told:
    """`python -m kdlab.train` in this process."""
    from kdlab.train import main

    before = folders(runs)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([f"runs={runs}", *arguments])
    made = folders(runs) - before
    assert len(made) <= 1
    return Told(code, out.getvalue(), err.getvalue(), made.pop() if made else None)


def folders(runs: Path) -> set[Path]:
    """The run folders below a folder."""
    return set(runs.iterdir()) if runs.is_dir() else set()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and time: equal where nothing was written."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            status = (Path(place) / name).stat()
            found[str((Path(place) / name).relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found
