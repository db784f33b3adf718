"""The typed config of a run: composed once (`kdlab.config.compose`), checked once, then read by attribute.

Components (networks, optimizers, schedules, tasks) are plain mappings with a `_target_`, whose other keys are
arguments of that class; see `kdlab.config.instantiate`. Ranges of values are in `kdlab.config.ranges`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag

from kdlab.config.settings import Settings, Targeted

Component = Mapping[str, Any]
"""`{_target_: package.Class, key: value}`."""


def is_pretrained(model: Component) -> bool:
    """Whether a network is that of a folder of a trained one, its classifier included."""
    named = str(model.get("_target_")).startswith("kdlab.models.pretrained.")
    return named and bool(model.get("path")) and not model.get("new_classifier")


class ModeConfig(Targeted):
    """Who teaches whom. `peers`: how many, or their networks by name; `optimizers`: of learners, by name."""

    peers: StrictInt | Mapping[str, Component] | None = None
    optimizers: Mapping[str, Component] = {}
    scheduler: Component | None = None
    kept: str | None = None


class Phase(Settings):
    """A stretch of training.

    heads: those that take part; None: all. prepare: they are fitted to the teacher alone (`Head.prepare`).
    task_weight: of the supervised loss; None: the run's. train: everything trainable, the learners' bodies (all
    but the classifier) with the heads, or the heads alone. optimizer, scheduler, mode: None: the run's; an
    optimizer without `_target_` is the run's with those settings changed, {lr: 0.01}. part: the training samples that
    it sees, {label: [0, 1]}; None: all. among: the classes that the supervised loss chooses from; None: all.
    """

    epochs: StrictInt = Field(description="a whole number, 0 or more")
    heads: tuple[str, ...] | None = Field(default=None, description="a list of chosen losses, such as [kd]")
    task_weight: StrictFloat | None = None
    train: Literal["all", "body", "head"] = "all"
    prepare: StrictBool = False
    optimizer: Component | None = Field(default=None, description="a group of keys, with its class as _target_")
    scheduler: Component | None = Field(default=None, description="a group of keys, with its class as _target_")
    mode: ModeConfig | None = None
    part: Mapping[str, tuple[StrictInt, ...]] | None = Field(
        default=None, description="a group such as {label: [0, 1]}"
    )
    among: tuple[StrictInt, ...] | None = Field(default=None, description="a list of classes, such as [0, 1]")


class FirstPhase(Phase):
    """The phase before all others that a loss proposes; unless it `stays`, the loss ends with it."""

    stays: StrictBool = True


class HeadConfig(Targeted):
    """A distillation loss; `ramp` and `ramp_shape`: see `kdlab.training.ramp`."""

    weight: StrictFloat = 1.0
    task_weight: StrictFloat = 1.0
    ramp: StrictFloat | None = None
    ramp_shape: Literal["linear", "from_zero", "sigmoid"] = "linear"
    first: FirstPhase | None = None


class LossConfig(Settings):
    """What a run minimises: the supervised loss, `task_weight` times, and the weighted sum of the heads."""

    alpha: StrictFloat | None = None
    temperature: StrictFloat | None = None
    task_weight: StrictFloat = 1.0
    heads: Mapping[str, HeadConfig] = {}


class FitConfig(Settings):
    """The settings of training that decide the result."""

    max_epochs: StrictInt
    batch_size: StrictInt
    accumulate: StrictInt = 1
    precision: str = "32-true"
    gradient_clip: StrictFloat | None = None
    max_steps: StrictInt | None = None


class TrainerConfig(FitConfig):
    """All settings of training; those declared here affect only its speed and what is written meanwhile."""

    compile: StrictBool = False
    channels_last: StrictBool = False
    accelerator: str = "auto"
    devices: StrictInt | Literal["auto"] | Sequence[StrictInt] = 1
    num_nodes: StrictInt = 1
    chunk_rows: StrictInt | Literal["auto"] | None = "auto"
    strategy: str = "auto"
    log_every_n_steps: StrictInt = 50
    checkpoint_every_n_steps: StrictInt | None = None
    progress: StrictBool = True


class TeacherConfig(Settings):
    """A teacher: a network of the store, trained first if missing, or weights from a file.

    mean, std, size, classes: its input and outputs, where they differ from the data's.
    fine_tune: train it on the data although its model names a folder of a trained network.
    mode, loss, phases, teacher: of its training, where it was itself taught; None: labels alone.
    """

    model: Component
    optimizer: Component
    scheduler: Component
    trainer: FitConfig
    seed: StrictInt = 0
    checkpoint: str | None = None
    mean: Sequence[StrictFloat] | None = None
    std: Sequence[StrictFloat] | None = None
    size: StrictInt | None = None
    classes: Any = None
    fine_tune: StrictBool = False
    mode: ModeConfig | None = None
    loss: LossConfig | None = None
    phases: tuple[Phase, ...] | None = None
    teacher: OneOrSeveral | None = None

    @property
    def given(self) -> bool:
        """Whether its weights are given, by a file or by the folder of a trained network; else training makes them."""
        return bool(self.checkpoint) or (is_pretrained(self.model) and not self.fine_tune)

    @property
    def teachers(self) -> tuple[TeacherConfig, ...]:
        """Its own teachers."""
        return members(self.teacher)


class EnsembleConfig(Settings):
    """Several teachers, by name."""

    members: Mapping[str, TeacherConfig]


def _which(given: Any) -> str:
    several = "members" in given if isinstance(given, Mapping) else isinstance(given, EnsembleConfig)
    return "EnsembleConfig" if several else "TeacherConfig"


OneOrSeveral = Annotated[
    Annotated[TeacherConfig, Tag("TeacherConfig")] | Annotated[EnsembleConfig, Tag("EnsembleConfig")],
    Discriminator(_which),
]


class DataConfig(Targeted):
    """A data set: its source, its split and the transforms of a sample; other keys are the source's."""

    classes: StrictInt | None = None
    channels: StrictInt | None = None
    size: StrictInt | None = None
    mean: Sequence[StrictFloat] = ()
    std: Sequence[StrictFloat] = ()
    validation: StrictInt | StrictFloat = 0
    split_seed: StrictInt = 0
    subset: StrictInt | None = None
    unlabelled: StrictInt | str | None = None
    resident: StrictBool | Literal["auto"] = "auto"
    workers: StrictInt = 0
    drop_last: StrictBool = False
    on_corrupt: Literal["stop", "skip"] = "stop"
    augment: Mapping[str, Any] = {}
    views: Mapping[str, Mapping[str, Any]] = {}


class LoggerConfig(Settings):
    """Where numbers go besides metrics.csv."""

    wandb: StrictBool = False
    project: str = "kdlab"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


class Names(Settings):
    """The options that a run was composed of, for titles, folders and dashboards."""

    model: str
    data: str
    task: str
    mode: str
    loss: str
    teacher: str | None = None


class RunConfig(Settings):
    """A run.

    keep: which weights of the student are written. phases: None: those that the losses propose, and a main one.
    allow: packages outside kdlab whose classes a `_target_` may name.
    """

    model: Component
    teacher: OneOrSeveral | None
    loss: LossConfig
    mode: ModeConfig
    task: Component
    data: DataConfig
    optimizer: Component
    scheduler: Component
    trainer: TrainerConfig
    logger: LoggerConfig
    seed: StrictInt
    name: str | None = None
    runs: str = "runs"
    alone: StrictBool = True
    keep: Literal["last", "best"] = "last"
    phases: tuple[Phase, ...] | None = None
    allow: tuple[str, ...] = ()
    names: Names

    @property
    def teachers(self) -> tuple[TeacherConfig, ...]:
        """The settings of each teacher: none, one, or the members of an ensemble."""
        return members(self.teacher)

    @property
    def distils(self) -> bool:
        """Whether the student learns from anything but labels; of a run without what its mode does not use."""
        return bool(self.loss.heads) or self.teacher is not None


def members(teacher: TeacherConfig | EnsembleConfig | None) -> tuple[TeacherConfig, ...]:
    """The teachers that a `teacher` group names."""
    if isinstance(teacher, EnsembleConfig):
        return tuple(teacher.members.values())
    return () if teacher is None else (teacher,)


def named_teachers(
    teacher: TeacherConfig | EnsembleConfig | None, key: str = "teacher"
) -> Iterator[tuple[str, TeacherConfig]]:
    """Every teacher with its key, `teacher`, `teacher.members.m0`, and after it its own, `teacher.teacher`."""
    if isinstance(teacher, EnsembleConfig):
        for name, member in teacher.members.items():
            yield from named_teachers(member, f"{key}.members.{name}")
    elif teacher is not None:
        yield key, teacher
        yield from named_teachers(teacher.teacher, f"{key}.teacher")


def teacher_keys(teacher: TeacherConfig | EnsembleConfig | None, key: str = "teacher") -> tuple[str, ...]:
    """The keys of a run's own teachers."""
    if isinstance(teacher, EnsembleConfig):
        return tuple(f"{key}.members.{name}" for name in teacher.members)
    return () if teacher is None else (key,)
