"""The typed config of a run: composed once (`kdlab.config.compose`), checked once, then read by attribute.

Components (networks, optimizers, schedules, tasks) are plain mappings with a `_target_`, whose other keys are
arguments of that class; see `kdlab.config.instantiate`. Ranges of values are in `kdlab.config.ranges`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, Tag, ValidationError
from pydantic.fields import FieldInfo

from kdlab.core.errors import UsageError, nearest

Component = Mapping[str, Any]
"""`{_target_: package.Class, key: value}`."""

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A group of keys: immutable, without undeclared keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def replace(self, **changes: Any) -> Self:
        """The same settings with other values for some keys."""
        return self.model_copy(update=changes)

    def plain(self) -> dict[str, Any]:
        """Plain data for YAML and JSON; keys that were never set are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Targeted(Settings):
    """A component with some keys read by kdlab; all others are arguments of its class."""

    model_config = ConfigDict(extra="allow")

    target: str = Field(alias="_target_")

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of its class."""
        return dict(self.model_extra or {})

    @property
    def component(self) -> dict[str, Any]:
        """Its class and the arguments, for `kdlab.config.instantiate.build`."""
        return {"_target_": self.target, **self.options}


class ModeConfig(Targeted):
    """Who teaches whom. `peers`: how many, or their networks by name; `optimizers`: of learners, by name."""

    peers: int | Mapping[str, Component] | None = None
    optimizers: Mapping[str, Component] = {}
    scheduler: Component | None = None
    kept: str | None = None


class Phase(Settings):
    """A stretch of training.

    heads: those that take part; None: all. prepare: they are fitted to the teacher alone (`Head.prepare`).
    task_weight: of the supervised loss; None: the run's. train: everything trainable, the learners' bodies (all
    but the classifier) with the heads, or the heads alone. optimizer, scheduler, mode: None: the run's; an
    optimizer without `_target_` is the run's with those settings changed, {lr: 0.01}.
    """

    epochs: int = Field(description="a whole number, 0 or more")
    heads: tuple[str, ...] | None = Field(default=None, description="a list of chosen losses, such as [kd]")
    task_weight: float | None = None
    train: Literal["all", "body", "head"] = "all"
    prepare: StrictBool = False
    optimizer: Component | None = Field(default=None, description="a group of keys, with its class as _target_")
    scheduler: Component | None = Field(default=None, description="a group of keys, with its class as _target_")
    mode: ModeConfig | None = None


class FirstPhase(Phase):
    """The phase before all others that a loss proposes; unless it `stays`, the loss ends with it."""

    stays: StrictBool = True


class HeadConfig(Targeted):
    """A distillation loss; `ramp` and `ramp_shape`: see `kdlab.training.ramp`."""

    weight: float = 1.0
    task_weight: float = 1.0
    ramp: float | None = None
    ramp_shape: Literal["linear", "from_zero", "sigmoid"] = "linear"
    first: FirstPhase | None = None


class LossConfig(Settings):
    """What a run minimises: the supervised loss, `task_weight` times, and the weighted sum of the heads."""

    alpha: float | None = None
    temperature: float | None = None
    task_weight: float = 1.0
    heads: Mapping[str, HeadConfig] = {}


class FitConfig(Settings):
    """The settings of training that decide the result."""

    max_epochs: int
    batch_size: int
    accumulate: int = 1
    precision: str = "32-true"
    gradient_clip: float | None = None
    max_steps: int | None = None


class TrainerConfig(FitConfig):
    """All settings of training; those declared here affect only its speed and what is written meanwhile."""

    compile: StrictBool = False
    channels_last: StrictBool = False
    accelerator: str = "auto"
    devices: int | Literal["auto"] | Sequence[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    log_every_n_steps: int = 50
    checkpoint_every_n_steps: int | None = None
    progress: StrictBool = True


class TeacherConfig(Settings):
    """A teacher: a network of the store, trained first if missing, or weights from a file.

    mean, std, size, classes: its input and outputs, where they differ from the data's.
    mode, loss, phases, teacher: of its training, where it was itself taught; None: labels alone.
    """

    model: Component
    optimizer: Component
    scheduler: Component
    trainer: FitConfig
    seed: int = 0
    checkpoint: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None
    classes: Any = None
    mode: ModeConfig | None = None
    loss: LossConfig | None = None
    phases: tuple[Phase, ...] | None = None
    teacher: OneOrSeveral | None = None

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

    classes: int | None = None
    channels: int | None = None
    size: int | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    validation: int | float = 0
    split_seed: int = 0
    subset: int | None = None
    unlabelled: int | str | None = None
    resident: StrictBool | Literal["auto"] = "auto"
    workers: int = 0
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
    seed: int
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
        """Whether the student learns from anything but labels."""
        return bool(self.loss.heads)


def members(teacher: TeacherConfig | EnsembleConfig | None) -> tuple[TeacherConfig, ...]:
    """The teachers that a `teacher` group names."""
    if isinstance(teacher, EnsembleConfig):
        return tuple(teacher.members.values())
    return () if teacher is None else (teacher,)


def parse(kind: type[S], given: Mapping[str, Any], key: str = "") -> S:
    """Plain data as settings of a kind.

    Args:
        kind: of the settings.
        given: plain data.
        key: where they stand, for messages.

    Raises:
        UsageError: naming the first key that is missing, unknown or of another type.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UsageError(_message(kind, key, error)) from error


_EXPECTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "a word", "tuple": "a list",
    "mapping": "a group of keys", "dict": "a group of keys", "model": "a group of keys",
}  # fmt: skip


def _message(kind: type[Settings], key: str, error: ValidationError) -> str:
    # A misspelled key is also missing. For a value that fits none of several types, pydantic reports all errors;
    # the deepest one is about what was meant.
    first = max(error.errors(), key=lambda each: (len(each["loc"]), each["type"] == "extra_forbidden"))
    # Between the keys it also lists the types that it tried.
    loc = [str(part) for part in first["loc"] if isinstance(part, int) or part.islower() or not part.isalpha()]
    loc = [part for part in loc if part not in ("[key]", "int", "float", "str", "bool")]
    path = ".".join(filter(None, (key, *loc)))
    field, declared = _declared(kind, loc)
    if first["type"] == "extra_forbidden":
        return f"{path}: there is no such key{nearest(loc[-1], declared)}"
    if first["type"] == "missing":
        return f"{path} is missing; expected {path}=VALUE"
    value = "null" if first["input"] is None else first["input"]
    bounds = first.get("ctx", {})
    if field is not None and field.description:
        expected = field.description
    elif "ge" in bounds:
        expected = f"a whole number, {bounds['ge']} or more"
    elif "gt" in bounds:
        expected = f"a number above {bounds['gt']:g}"
    else:
        words = str(first["msg"]).removeprefix("Input should be ").replace("'", "")
        expected = _EXPECTED.get(first["type"].split("_")[0], words)
    return f"{path}={value}: expected {expected}"


def _declared(kind: type[BaseModel], path: Sequence[str]) -> tuple[FieldInfo | None, list[str]]:
    """The last declared field on a path of keys, and the keys on its level."""
    found, level = None, kind
    for part in path:
        level = kind
        fields = {field.alias or name: field for name, field in kind.model_fields.items()}
        if part in fields:  # else it is a name, or a place in a list
            found = fields[part]
            kind = next(_settings_in(found.annotation), kind)
    return found, [field.alias or name for name, field in level.model_fields.items()]


def _settings_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _settings_in(part)
