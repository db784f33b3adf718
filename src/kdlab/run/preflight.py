"""The preflight: refuses, in one line, everything that can be refused before anything slow begins.

`kdlab.train` checks a run, `kdlab.sweep` every run that its space can reach, `kdlab.distill` its arguments. Networks
are built once: one that was built to check its own training then stands in as an untrained teacher.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdlab.config.instantiate import build, resolve
from kdlab.config.schema import Component, RunConfig, TeacherConfig, TrainerConfig, teacher_keys
from kdlab.core.distributed import processes
from kdlab.core.errors import UsageError
from kdlab.core.paths import home
from kdlab.data.data import Data
from kdlab.run.builder import Made, assemble, example_batch, kept, untrained
from kdlab.run.contradictions import check_settings
from kdlab.run.derive import teacher_run, uses
from kdlab.run.smallest_share import check_share, smallest_share, try_share
from kdlab.training.freezing import freeze
from kdlab.training.lr_schedule import make_scheduler
from kdlab.training.objective import Objective
from kdlab.training.phases import Phase
from kdlab.training.setup import Parts

STEPS = 1000
"""About how many steps of a phase its schedule is tried for; the real number depends on the data."""

MakeOptimizer = Callable[[Sequence[torch.nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer, int, int], tuple[LRScheduler, str]]


class Preflight:
    """Checks runs. One instance builds each teacher once, however many runs it teaches.

    Args:
        data: of the runs, once they are loaded.
    """

    def __init__(self, data: Data | None = None) -> None:
        self._teachers: dict[str, Made] = {}
        self._labels = None if data is None else data.labels
        self._samples = None if data is None else data.sizes["train"]

    def check(self, config: RunConfig) -> Parts:
        """Refuses an impossible run.

        Args:
            config: a run, without what its mode does not use.

        Returns:
            Its parts, untrained.

        Raises:
            UsageError: in one line, naming the key.
        """
        check_settings(config)
        check_hardware(config.trainer)
        try:
            parts = self._assembled(config)
        except ValueError as error:
            raise UsageError(" ".join(str(error).split())) from error
        except (RuntimeError, ArithmeticError, MemoryError, TypeError) as error:  # of parts made with odd settings
            raise UsageError(f"the run cannot be put together: {type(error).__name__}: {error}") from error
        parts.close()
        check_home()
        return parts

    def _assembled(self, config: RunConfig, key: str = "") -> Parts:
        if uses(config.mode, config.phases, config.allow)[2] and not config.loss.heads:
            raise UsageError(
                f"{key}loss=[]: expected a loss or more, such as {key}loss=kd; for labels alone type "
                f"{key}mode=supervised"
            )
        keys = teacher_keys(config.teacher, f"{key}teacher")
        teachers = [self._teacher(config, own, where) for own, where in zip(config.teachers, keys, strict=True)]
        samples = self._samples or config.data.subset
        if check_share(config, samples, ranks := _ranks(config, key), key):
            tried = assemble(config, teachers=teachers, key=key, labels=self._labels, samples=self._samples)
            try_share(config, tried, example_batch(config, samples=1), samples, ranks, key)
        parts = assemble(config, teachers=teachers, key=key, labels=self._labels, samples=self._samples)
        if config.trainer.precision == "16-mixed" and any(setup.optimizers for setup in parts.setups):
            raise UsageError(f"{key}trainer.precision=16-mixed scales one optimizer's gradients; type bf16-mixed")
        check_phases(config, parts, key)
        return parts

    def _teacher(self, config: RunConfig, teacher: TeacherConfig, key: str) -> Made:
        run = teacher_run(config, teacher)
        name = json.dumps([teacher.plain(), config.data.plain(), config.task], sort_keys=True, default=list)
        if name not in self._teachers:
            self._teachers[name] = (
                untrained(config, teacher, key) if teacher.given else kept(self._assembled(run, f"{key}."))
            )
        return self._teachers[name]


def check_samples(config: RunConfig, data: Data) -> None:
    """Refuses what only the loaded data show: a run that its training set is too small for, or of one class, and a
    phase of samples that there are not.

    Args:
        config: a run that passed its preflight.
        data: loaded.

    Raises:
        UsageError: in one line, naming the key.
    """
    for phase in config.phases or ():
        seen = data if phase.part is None else data.part(phase.part)
        left = set() if phase.among is None or seen.labels is None else {*seen.labels.tolist()} - {-1, *phase.among}
        if left:
            raise UsageError(
                f"phases: among={list(phase.among or ())} leaves out the label {min(left)} of its own samples"
            )
    labels = data.labels
    one_class = labels is not None and bool((labels == labels[0]).all())
    if _small(config, data.sizes["train"]) or one_class:
        Preflight(data).check(config)


def _small(config: RunConfig, samples: int, key: str = "") -> bool:
    """Whether a part of a batch has fewer than two samples, of a run or of those that train its teachers."""
    return smallest_share(config.trainer, samples, _ranks(config, key)) < 2 or any(
        _small(teacher_run(config, teacher), samples, "teacher.") for teacher in config.teachers if not teacher.given
    )


def _ranks(config: RunConfig, key: str) -> int:
    """How many processes share a batch; a run that another one waits for, whose keys have a prefix, is on one."""
    trainer = config.trainer
    return 1 if key else processes(trainer.accelerator, trainer.devices, trainer.num_nodes)


def check_phases(config: RunConfig, parts: Parts, key: str = "") -> None:
    """Refuses a phase in which nothing trains, or whose optimizer or schedule is impossible.

    Raises:
        UsageError: naming the key.
    """
    for place, phase in enumerate(parts.phases):
        where = f"{key}phases.{place}"
        given = None if config.phases is None else config.phases[place].scheduler
        if config.phases is None and phase is not parts.phases[-1] and phase.heads:
            where = f"{key}loss.heads.{phase.heads[0]}.first"  # the loss that proposed it
            proposed = config.loss.heads[phase.heads[0]].first
            given = None if proposed is None else proposed.scheduler
        check_trains(parts, place, where)
        mode = f"{where}.mode" if config.phases and config.phases[place].mode else f"{key}mode"
        own = {f"{mode}.optimizers.{name}": each for name, each in parts.setups[place].optimizers.items()}
        optimizers = {**own, **_either(config.optimizer, phase.optimizer, f"{key}optimizer", f"{where}.optimizer")}
        whence = f"{where}.scheduler" if given else f"{mode}.scheduler"
        ((schedule, scheduler),) = _either(config.scheduler, phase.scheduler, f"{key}scheduler", whence).items()
        for name, optimizer in optimizers.items():
            check_components(optimizer, name, scheduler, schedule, phase.epochs, config.allow)


def check_trains(parts: Parts, place: int, where: str) -> None:
    """Refuses a phase that prepares a loss with nothing to prepare, or trains nothing; freezes as training does.

    Raises:
        UsageError: naming the key.
    """
    phase, setup = parts.phases[place], parts.setups[place]
    _check_prepared(phase, setup.objective)
    can_train = {
        parameter
        for each in parts.setups
        for parameter in (*each.mode.parameters(), *each.objective.parameters())
        if parameter.requires_grad
    }
    freeze(setup, phase, can_train)
    trains = any(parameter.requires_grad for parameter in can_train)
    for parameter in can_train:
        parameter.requires_grad_(True)
    if not trains:
        named = " and ".join(setup.objective.heads if phase.heads is None else phase.heads)
        why = f"{named} has nothing to learn" if named else "no loss takes part"
        raise UsageError(f"{where}.train={phase.train}: nothing trains, as {why}; type all")


def _check_prepared(phase: Phase, objective: Objective) -> None:
    for name in objective.heads if phase.heads is None else phase.heads:
        if phase.prepare and not any(placed.head.prepared() for placed in objective.placed(name)):
            raise UsageError(f"loss={name} has nothing to prepare: set loss.heads.{name}.first=null")


def _either(default: Component, own: Component | None, key: str, own_key: str) -> dict[str, Component]:
    return {key: default} if own is None else {own_key: own}


def check_components(
    optimizer: Component, key: str, scheduler: Component, scheduler_key: str, epochs: int, allow: Sequence[str]
) -> None:
    """Refuses an optimizer or schedule of the wrong class or settings, or that cannot be stepped to the end.

    Raises:
        UsageError: naming the key.
    """
    for settings, kind, where in ((optimizer, Optimizer, key), (scheduler, LRScheduler, scheduler_key)):
        if not isinstance(settings, Mapping):
            raise UsageError(f"{where}={settings}: expected a group of keys, with its class as _target_")
        resolve(settings.get("_target_"), kind, where, allow=allow)
    # These need a GPU, which should not be initialised for this.
    portable = {name: value for name, value in optimizer.items() if name not in ("capturable", "fused")}
    check_steps(
        lambda parameters: build(portable, Optimizer, key, allow=allow, params=parameters),
        lambda made, epochs, steps: make_scheduler(scheduler, made, epochs, steps, allow, scheduler_key),
        epochs, key, scheduler_key,
    )  # fmt: skip


def check_steps(optimizer: MakeOptimizer, scheduler: MakeScheduler, epochs: int, key: str, scheduler_key: str) -> None:
    """Steps an optimizer and its schedule, over one parameter, as often as a phase would.

    Args:
        optimizer: from parameters.
        scheduler: from the optimizer, the epochs and the steps of the phase; also says `epoch` or `step`.
        epochs: of the phase.
        key, scheduler_key: their keys, for messages.

    Raises:
        UsageError: where they raise.
    """
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    steps = epochs * max(1, STEPS // max(1, epochs))
    try:
        made = optimizer([parameter])
        made.step()
        key = scheduler_key
        schedule, interval = scheduler(made, epochs, steps)
        made.step()
        total = getattr(schedule, "total_steps", steps)
        for _ in range(epochs if interval == "epoch" else min(steps, max(epochs, total))):
            schedule.step()
    except UsageError:
        raise
    except Exception as error:  # torch raises many types
        raise UsageError(f"{key} cannot be stepped with its settings: {type(error).__name__}: {error}") from error


def check_hardware(trainer: TrainerConfig) -> None:
    """Refuses devices that this machine does not have, and a batch that does not divide among them.

    Raises:
        UsageError: with the devices it has, or a batch size that divides.
    """
    accelerator, devices, size = trainer.accelerator, trainer.devices, trainer.batch_size
    there = torch.accelerator.device_count()
    if accelerator in ("gpu", "cuda", "mps") and not there:
        raise UsageError(f"trainer.accelerator={accelerator}, but torch sees no such device; leave it auto")
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        if absent := [place for place in devices if not there or place >= there]:
            raise UsageError(f"trainer.devices={list(devices)}: there is no device {absent[0]}; torch sees {there}")
    elif accelerator != "cpu" and there and isinstance(devices, int) and devices > there:
        raise UsageError(f"trainer.devices={devices}, but torch sees {there}; expected auto or at most {there}")
    if not (world := processes(accelerator, devices, trainer.num_nodes)):
        raise UsageError("trainer.devices=[]: expected auto, a number, or a list of indices such as [0,1]")
    if size % world:
        raise UsageError(
            f"trainer.batch_size={size} does not divide over {world} devices; {max(size // world, 1) * world} does"
        )


def check_home() -> None:
    """Refuses a `$KDLAB_HOME` that is not writable.

    Raises:
        UsageError: naming it.
    """
    try:
        home().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home()).close()
    except OSError as error:
        raise UsageError(f"KDLAB_HOME={home()}: not writable ({error.strerror})") from error
