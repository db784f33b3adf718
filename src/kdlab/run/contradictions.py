"""Refuses, without torch, runs whose files are missing or whose settings contradict each other."""

from __future__ import annotations

import json
from pathlib import Path

from kdlab.config.schema import FitConfig, RunConfig, TeacherConfig, is_pretrained, named_teachers
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
    _check_accumulation(trainer, "trainer")
    if (classes := config.task.get("classes", config.data.classes)) != config.data.classes:
        raise UsageError(f"task.classes={classes}, but the data has {config.data.classes} classes; leave it out")
    for key, teacher in named_teachers(config.teacher):
        _check_teacher(key, teacher, config)


def _check_teacher(key: str, teacher: TeacherConfig, config: RunConfig) -> None:
    _check_accumulation(teacher.trainer, f"{key}.trainer")
    check_normalisation(key, teacher.plain(), config.data.channels)
    if teacher.fine_tune and (teacher.checkpoint or not is_pretrained(teacher.model)):
        raise UsageError(f"{key}.fine_tune=true: only a teacher from a folder, {key}=pretrained_classifier, needs it")
    if not teacher.given:
        for name in ("classes", "size", "mean", "std"):
            if (value := getattr(teacher, name)) is not None:
                given = json.dumps(value, default=list)
                raise UsageError(
                    f"{key}.{name}={given}: a teacher without {key}.checkpoint is trained on this run's data as they "
                    "are; leave it out"
                )
    elif teacher.checkpoint and not Path(teacher.checkpoint).is_file():
        raise UsageError(f"{key}.checkpoint={teacher.checkpoint}: there is no such file")


def _check_accumulation(trainer: FitConfig, key: str) -> None:
    if trainer.batch_size % trainer.accumulate:
        raise UsageError(f"{key}.accumulate={trainer.accumulate} does not divide "
                         f"{key}.batch_size={trainer.batch_size} into equal parts")  # fmt: skip
