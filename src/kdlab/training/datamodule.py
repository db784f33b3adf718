"""The data of a run as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch

from kdlab.data.data import Batches as Loader
from kdlab.data.data import Data
from kdlab.training.distiller import Distiller


class Batches(pl.LightningDataModule):
    """The data of a run, on the device and for the rank that Lightning gave this process.

    Args:
        data: of the run.
        parts: of each phase, whose training samples it sees.
    """

    def __init__(
        self, data: Data, parts: Sequence[Data], batch_size: int, seed: int, views: tuple[str, ...] = (),
        accumulate: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.parts = parts
        self.data, self.batch_size, self.seed, self.views = data, batch_size, seed, views
        self.accumulate = accumulate
        self._given_out: list[Loader] = []

    def close(self) -> None:
        """Ends the processes that fetch batches."""
        for loader in self._given_out:
            loader.close()

    def _place(self) -> dict[str, Any]:
        assert self.trainer is not None
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world": trainer.world_size, "device": trainer.strategy.root_device}

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        distiller = cast("Distiller", self.trainer.lightning_module)
        timeline = distiller.timeline
        place = timeline.place(distiller.steps)
        loader = self.parts[place].train_loader(
            self.batch_size, self.seed, views=self.views, accumulate=self.accumulate, **self._place()
        )
        assert len(loader) == timeline.steps[place]
        # Lightning restores a loader's state within an epoch, but not between two.
        epoch, within = timeline.epoch(distiller.steps)
        loader.load_state_dict({"drawn": epoch * len(loader) + within})
        self._given_out.append(loader)
        return loader

    def training_part(self) -> Loader:
        """The whole training part, in order, for every rank."""
        loader = self.data.eval_loader("train", self.batch_size, device=self._place()["device"])
        self._given_out.append(loader)
        return loader

    def val_dataloader(self) -> Any:
        loader = self.data.eval_loader("validation", self.batch_size, **self._place())
        self._given_out.append(loader)
        return loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are made on the device."""
        return batch
