"""Refuses, without torch, runs whose files are missing or whose settings contradict each other."""

from __future__ import annotations

from pathlib import Path

from kdlab.config.schema import RunConfig
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
    if trainer.batch_size % trainer.accumulate:
        raise UsageError(f"trainer.accumulate={trainer.accumulate} does not divide "
                         f"trainer.batch_size={trainer.batch_size} into equal parts")  # fmt: skip
    if (classes := config.task.get("classes", config.data.classes)) != config.data.classes:
        raise UsageError(f"task.classes={classes}, but the data has {config.data.classes} classes; leave it out")
    for teacher in config.teachers:
        check_normalisation("teacher", teacher.plain(), config.data.channels)
        if teacher.checkpoint and not Path(teacher.checkpoint).is_file():
            raise UsageError(f"teacher.checkpoint={teacher.checkpoint}: there is no such file")
