"""Runs derived from a composed one: without what its mode does not use, its teachers', its student's alone.

Everything that trains composes with `compose_run`; what a mode does not use is dropped only here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdlab.config.compose import compose
from kdlab.config.instantiate import resolve
from kdlab.config.schema import (
    Component,
    EnsembleConfig,
    LossConfig,
    ModeConfig,
    Names,
    Phase,
    RunConfig,
    TeacherConfig,
    TrainerConfig,
    named_teachers,
)
from kdlab.modes.mode import Mode
from kdlab.training.phases import plan

SUPERVISED = ModeConfig(_target_="kdlab.modes.supervised.Supervised")
LABELS_ALONE = LossConfig(task_weight=1.0, heads={})


def compose_run(overrides: Sequence[str] = (), folders: Sequence[Path] = ()) -> RunConfig:
    """A run as it trains: composed, checked, and without what its mode does not use.

    Raises:
        UsageError: see `kdlab.config.compose.compose`.
    """
    return drop_unused(compose(overrides, folders))


def drop_unused(config: RunConfig) -> RunConfig:
    """A run without what its mode does not use: a teacher, losses; likewise for its teachers' training."""
    listens, compares, _ = uses(config.mode, config.phases, config.allow)
    return config.replace(
        teacher=_dropped(config.teacher, config.allow) if listens else None,
        loss=config.loss if compares else LABELS_ALONE,
        phases=config.phases if compares else _labels_only(config.phases),
    )


def unused_overrides(overrides: Sequence[str], config: RunConfig) -> list[str]:
    """The overrides of keys that a run does not use, each in a sentence that says why.

    Args:
        overrides: of the command line.
        config: the run, as `drop_unused` left it.
    """
    mode = f"with mode={config.names.mode}"
    unused: dict[str, str] = {}  # why, by the pattern of the keys
    if config.teacher is None:
        peers = config.mode.peers
        teaches = not isinstance(peers, int | None) and "teacher" in peers  # as a network that is trained along
        unused |= {r"generations": mode, r"teacher\.(?!model\b).*" if teaches else r"teacher(\..*)?": mode}
    for key, teacher in named_teachers(config.teacher):
        if teacher.loss is None:
            why = f"without a {key}.mode that distils, such as {key}.mode=tf_kd, or a {key}.teacher"
            unused[rf"{re.escape(key)}\.loss(\..*)?"] = why
    if not config.distils:
        unused[r"loss(\..*)?"] = mode
    if config.mode.scheduler is not None and not (config.alone and config.distils):  # the student alone's
        unused[r"scheduler(\..*)?"] = mode
    sentences = []
    for override in overrides:
        key = override.lstrip("+").partition("=")[0].rpartition("@")[2]
        reasons = [reason for keys, reason in unused.items() if re.fullmatch(keys, key)]
        sentences += [f"{override} has no effect {reason}" for reason in reasons[:1]]
    return sentences


def alone_run(config: RunConfig) -> RunConfig:
    """The run that trains the same student with labels alone, for the epochs of all phases that train it."""
    phases = plan(config.trainer.max_epochs, config.loss.heads, config.phases)
    phases = tuple(p for p in phases if not p.prepare)
    epochs = sum(p.epochs for p in phases)
    stream = any(p.part or p.among for p in phases)  # the order of its data stays, whoever teaches
    return config.replace(
        model={key: value for key, value in config.model.items() if key != "from_teacher"},
        trainer=config.trainer.replace(max_epochs=epochs), mode=SUPERVISED, loss=LABELS_ALONE,
        phases=tuple(Phase(epochs=p.epochs, part=p.part, among=p.among) for p in phases) if stream else None,
        teacher=None, names=_named(config.names, SUPERVISED, LABELS_ALONE, None),
    )  # fmt: skip


def teacher_run(config: RunConfig, teacher: TeacherConfig) -> RunConfig:
    """The run that trains a teacher of another run: the teacher's recipe, on the same data."""
    mode, loss = teacher.mode or SUPERVISED, teacher.loss or LABELS_ALONE
    names = _named(config.names, mode, loss, teacher.teacher)
    return config.replace(
        model=teacher.model, optimizer=teacher.optimizer, scheduler=teacher.scheduler, seed=teacher.seed,
        trainer=TrainerConfig(**{**dict(config.trainer), **dict(teacher.trainer)}),
        mode=mode, loss=loss, phases=teacher.phases, teacher=teacher.teacher, keep="last",
        names=names.replace(model=_class(teacher.model).lower()),
    )  # fmt: skip


def _labels_only(phases: tuple[Phase, ...] | None) -> tuple[Phase, ...] | None:
    return phases and tuple(phase.replace(heads=None, prepare=False) for phase in phases)


def mode_class(config: RunConfig) -> type[Mode]:
    """The class of a run's mode."""
    found: type[Mode] = resolve(config.mode.target, Mode, "mode", allow=config.allow)
    return found


def uses(mode: ModeConfig, phases: Sequence[Phase] | None, allow: Sequence[str]) -> tuple[bool, bool, bool]:
    """Whether any phase uses a teacher, whether any uses distillation losses, and whether any needs them."""
    settings = [phase.mode or mode for phase in phases or ()] or [mode]
    modes = [resolve(each.target, Mode, "mode", allow=allow) for each in settings]
    compares = [each for each in modes if each.wants_heads]
    return any(each.wants_teacher for each in modes), bool(compares), any(each.needs_heads for each in compares)


def _dropped(
    teacher: TeacherConfig | EnsembleConfig | None, allow: Sequence[str]
) -> TeacherConfig | EnsembleConfig | None:
    if teacher is None:
        return None
    if isinstance(teacher, EnsembleConfig):
        return teacher.replace(members={name: _dropped(member, allow) for name, member in teacher.members.items()})
    listens, compares, _ = uses(teacher.mode or SUPERVISED, teacher.phases, allow)
    return teacher.replace(
        teacher=_dropped(teacher.teacher, allow) if listens else None,
        loss=teacher.loss if compares else None,
        phases=teacher.phases if compares else _labels_only(teacher.phases),
    )


def _named(names: Names, mode: ModeConfig, loss: LossConfig, teacher: object) -> Names:
    """The names of a run that another one waits for, in tables and dashboards."""
    taught_by = _class(teacher.model).lower() if isinstance(teacher, TeacherConfig) else None
    return names.replace(mode=mode.target.split(".")[-2], loss="+".join(loss.heads), teacher=taught_by)


def _class(made: Component) -> str:
    return str(made["_target_"]).rpartition(".")[2]
