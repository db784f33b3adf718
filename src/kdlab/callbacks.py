"""What happens around training: the best student is kept, checkpoints are written, progress is shown."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from kdlab.distiller import Distiller
from kdlab.store import save_weights


class KeepBest(Callback):
    """Keeps the weights of the best epoch by the task's primary metric on the validation part."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "best.safetensors"
        self.best: float | None = None
        self.epoch: int | None = None
        self.last: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares, and writes aside and renames where this epoch is better."""
        assert isinstance(pl_module, Distiller)
        self.last = float(trainer.callback_metrics[f"validation/{pl_module.task.primary}"])
        if pl_module.task.better(self.last, self.best):
            self.best, self.epoch = self.last, trainer.current_epoch + 1
            if trainer.is_global_zero:
                student = next(iter(pl_module.mode.students().values()))
                save_weights(student.state_dict(), self.file.with_suffix(".writing"))
                self.file.with_suffix(".writing").replace(self.file)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epoch, self.last = state_dict["best"], state_dict["epoch"], state_dict["last"]


def checkpoints(folder: Path, every_n_steps: int | None) -> list[Callback]:
    """`last.ckpt`, written anew at the end of every epoch, and every so many steps where asked."""
    keep: dict[str, Any] = {"dirpath": folder, "filename": "last", "enable_version_counter": False}
    found: list[Callback] = [ModelCheckpoint(**keep, every_n_epochs=1, save_on_train_epoch_end=True)]
    if every_n_steps is not None:
        found.append(ModelCheckpoint(**keep, every_n_train_steps=every_n_steps, save_on_train_epoch_end=False))
    return found


class ProgressLine(Callback):
    """One line on a terminal, drawn anew at most five times a second; on anything else, one line at the end."""

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
        """A look at the clock, and nothing else, most of the time."""
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
        text = f"{self.name}: epoch {pl_module.epochs_done():.1f} of {total}  {rate:.1f} steps/s{scored}"
        print(f"{start}{text:<78}", end="", file=sys.stderr, flush=True)
