"""Callbacks of training: keep the best student, write checkpoints, show progress."""

from __future__ import annotations

import logging
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from kdlab.core.files import replacing
from kdlab.core.printable import printable
from kdlab.networks.weights import save_weights
from kdlab.training.checkpoint_io import LAST
from kdlab.training.distiller import Distiller
from kdlab.training.validation import prefixes

# Silences Lightning's notes on devices and products, its use of what torch deprecates, and its warnings on
# checkpoints, which kdlab writes, and on a mode's frozen copies of its student, which are intended.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
for _message in (
    ".*LeafSpec.* is deprecated",
    "Checkpoint directory .* is not empty",
    "The dirpath has changed from .*",
    "Using ModelCheckpoint with manual optimization",
    ".*in eval mode at the start of training",
    "The `srun` command is available",
):
    warnings.filterwarnings("ignore", message=_message)


@dataclass
class Validated:
    """The primary metric of one student on the validation part: of the best epoch, counted from 1, and the last."""

    best: float | None = None
    epoch: int | None = None
    last: float | None = None


class KeepBest(Callback):
    """Keeps the weights of each student's best epoch by the task's primary metric on the validation part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.of: defaultdict[str, Validated] = defaultdict(Validated)

    def file(self, student: str) -> Path:
        """The file of the weights of a student's best epoch."""
        return self.folder / f"best-{student}.safetensors"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the weights, atomically, where this epoch is better."""
        assert isinstance(pl_module, Distiller)
        primary = pl_module.task.primary
        students = pl_module.mode.validated()
        for name, prefix in prefixes(pl_module.mode).items():
            seen = self.of[name]
            seen.last = float(trainer.callback_metrics[f"{prefix}/{primary}"])
            if not pl_module.task.better(seen.last, seen.best):
                continue
            seen.best, seen.epoch = seen.last, trainer.current_epoch + 1
            if trainer.is_global_zero:
                with replacing(self.file(name)) as aside:
                    save_weights(students[name].state_dict(), aside)

    def state_dict(self) -> dict[str, Any]:
        return {name: asdict(seen) for name, seen in self.of.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.of.update({name: Validated(**seen) for name, seen in state_dict.items()})


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Keeps Ctrl-C a KeyboardInterrupt: Lightning turns it into SystemExit, then ignores the next one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


class StepCheckpoint(ModelCheckpoint):
    """Writes checkpoints within an epoch, and none at its last step: Lightning would resume after its validation.

    The checkpoint of the epoch follows at once.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        assert isinstance(pl_module, Distiller)
        if not pl_module.between_epochs():
            super().on_train_batch_end(trainer, pl_module, *rest)


def checkpoints(folder: Path, every_n_steps: int | None) -> list[Callback]:
    """`last.ckpt`, replaced at the end of every epoch, and every `every_n_steps` steps if given."""
    keep: dict[str, Any] = {"dirpath": folder, "filename": Path(LAST).stem, "enable_version_counter": False}
    found: list[Callback] = [ModelCheckpoint(**keep, every_n_epochs=1, save_on_train_epoch_end=True)]
    if every_n_steps is not None:
        found.append(StepCheckpoint(**keep, every_n_train_steps=every_n_steps, save_on_train_epoch_end=False))
    return found


class ProgressLine(Callback):
    """One line on a terminal, redrawn at most five times a second; elsewhere, one line at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._drawn = 0.0
        self._live = sys.stderr.isatty()
        self._start = 0
        self._clock = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        self._start, self._clock = pl_module.steps, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Mostly only reads the clock."""
        if self._live and (now := time.monotonic()) - self._drawn > 0.2:
            self._drawn = now
            self._show(trainer, pl_module, "\r")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._show(trainer, pl_module, "\r" if self._live else "")
            print(file=sys.stderr)

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule, start: str) -> None:
        assert isinstance(pl_module, Distiller)
        if not trainer.is_global_zero:
            return
        rate = (pl_module.steps - self._start) / max(1e-9, time.monotonic() - self._clock)
        total = sum(phase.epochs for phase in pl_module.phases)
        primary = pl_module.task.primary
        value = trainer.callback_metrics.get(f"validation/{primary}")
        scored = "" if value is None else f"  validation {primary} {float(value):.4f}"
        text = f"{printable(self.name)}: epoch {pl_module.epochs_done():.1f} of {total}  {rate:.1f} steps/s{scored}"
        print(f"{start}{text:<78}", end="", file=sys.stderr, flush=True)
