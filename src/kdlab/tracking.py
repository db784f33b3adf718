"""Where a run's numbers go: metrics.csv, which is the ground truth, and Weights & Biases beside it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class MetricsFile(Logger):
    """metrics.csv: one row per logged step, written at once, its columns known from the start.

    Args:
        file: the CSV file; rows already there are kept.
        columns: every number that the run may log.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        super().__init__()
        self.file = file
        self.columns = ("step", "epoch", *columns)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return "0"

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config lies beside this file, in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds one row."""
        fresh = not self.file.is_file()
        with self.file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, self.columns, restval="", extrasaction="ignore")
            if fresh:
                writer.writeheader()
            writer.writerow({"step": step, **metrics})

    def forget_after(self, step: int) -> None:
        """Drops the rows that a resumed run will write again."""
        if not self.file.is_file():
            return
        rows = read_metrics(self.file)
        kept = [row for row in rows if row["step"] <= step]
        aside = self.file.with_suffix(".writing")
        with aside.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        aside.replace(self.file)


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, each with the numbers it holds."""
    with file.open(newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def wandb_logger(
    folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any], *, name: str, job: str, group: str | None
) -> WandbLogger:
    """A W&B run: online where the user is logged in, offline otherwise; nobody is ever asked anything.

    Its id lies in the run folder, so that a resumed run goes on in the same W&B run.
    """
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    place = folder / "wandb_id"
    if not place.is_file():
        place.write_text(wandb.util.generate_id())
    names = config["names"]
    return WandbLogger(
        name=name,
        project=settings["project"],
        save_dir=folder,
        id=place.read_text(),
        mode=mode,
        entity=settings["entity"],
        group=group,
        job_type=job,
        tags=[*settings["tags"], *(str(value) for value in names.values())],
        config=dict(config),
        settings=wandb.Settings(silent=True, console="off"),
    )


def define_metrics(logger: WandbLogger, directions: Mapping[str, str]) -> None:
    """Makes the run's summaries hold the best validation value of every metric, not the last."""
    for name, direction in directions.items():
        logger.experiment.define_metric(f"validation/{name}", step_metric="trainer/global_step", summary=direction)


def finish(logger: WandbLogger, summary: Mapping[str, float], *, failed: bool) -> None:
    """Ends a W&B run, always, with its exit code: the next run of this process would else go on in it."""
    if rank_zero_only.rank == 0 and logger._experiment is not None:
        logger.experiment.summary.update(dict(summary))
        logger.experiment.finish(exit_code=int(failed))
