"""Refuses, without torch, runs whose files are missing or whose settings contradict each other."""

from __future__ import annotations

from pathlib import Path

from kdlab.config.schema import FitConfig, RunConfig
from kdlab.core.errors import UsageError
from kdlab.data.check import check, check_normalisation


def check_settings(config: RunConfig) -> None:
    """Refuses settings that contradict each other, and missing files; in well under a second.

    Raises:
        UsageError: naming the keys.
    """
    check(config.data.plain())
    trainer = config.trainer
    if config.keep == "best" and not config.data.validation:
        raise UsageError("keep=best needs samples to choose by; set data.validation=COUNT, or keep=last")
    if config.name and "/" in config.name:
        raise UsageError(f"name={config.name}: expected a name that can be a folder's")
    _check_accumulation(trainer, "trainer")
    if (classes := config.task.get("classes", config.data.classes)) != config.data.classes:
        raise UsageError(f"task.classes={classes}, but the data has {config.data.classes} classes; leave it out")
    for teacher in config.teachers:
        _check_accumulation(teacher.trainer, "teacher.trainer")
        check_normalisation("teacher", teacher.plain(), config.data.channels)
        if teacher.checkpoint and not Path(teacher.checkpoint).is_file():
            raise UsageError(f"teacher.checkpoint={teacher.checkpoint}: there is no such file")


def _check_accumulation(trainer: FitConfig, key: str) -> None:
    if trainer.batch_size % trainer.accumulate:
        raise UsageError(f"{key}.accumulate={trainer.accumulate} does not divide "
                         f"{key}.batch_size={trainer.batch_size} into equal parts")  # fmt: skip
