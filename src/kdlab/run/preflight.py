"""A run is put together once before anything slow begins, only to see whether it can be. Knows no Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdlab.config.instantiate import build, resolve
from kdlab.core.distributed import processes
from kdlab.core.errors import UsageError
from kdlab.modes.mode import Mode
from kdlab.networks.observer import find_taps
from kdlab.networks.trace import logits_of
from kdlab.run.builder import assemble, example_batch, make_network, without_use
from kdlab.run.recipe import teacher_run, teachers_of
from kdlab.training.freezing import freeze
from kdlab.training.lr_schedule import make_scheduler
from kdlab.training.setup import Parts

Config = Mapping[str, Any]

STEPS = 1000
"""Of a whole phase, about, in which its schedule is tried; the data says later how many there are."""


def rehearse(config: Config, key: str = "") -> None:
    """Assembles a run, those that it waits for first, untrained.

    Args:
        config: a composed run, as `without_use` leaves it.
        key: where it stands, `teacher.`, for messages.

    Raises:
        UsageError, ValueError: where they cannot be.
    """
    mode = resolve(config["mode"].get("_target_"), Mode, f"{key}mode", allow=config["allow"])
    if mode.wants_heads and not config["loss"]["heads"]:
        raise UsageError(
            f"{key}loss=[]: expected a loss or more, such as {key}loss=kd; for labels alone type {key}mode=supervised"
        )
    for teacher in teachers_of(config):
        run = teacher_run(config, teacher)
        size = teacher.get("size") or config["data"]["size"]
        refuse_network({**run, "data": {**config["data"], "size": size}}, f"{key}teacher.model")
        if not teacher.get("checkpoint"):
            rehearse(without_use(run), f"{key}teacher.")
    classes = config["data"]["classes"]
    if (outputs := refuse_network(config, f"{key}model")) != classes:
        raise UsageError(f"{key}model has {outputs} outputs, but the data has {classes} classes; expected as many")
    parts = assemble(config)
    if config["trainer"]["precision"] == "16-mixed" and any(setup.optimizers for setup in parts.setups):
        raise UsageError(f"{key}trainer.precision=16-mixed scales one optimizer's gradients; type bf16-mixed")
    refuse_phases(config, parts, key)


def refuse_phases(config: Config, parts: Parts, key: str = "") -> None:
    """Refuses a phase in which nothing trains, or whose optimizer or schedule cannot be.

    Raises:
        UsageError: naming the key.
    """
    can_train = {
        parameter
        for setup in parts.setups
        for parameter in (*setup.mode.parameters(), *setup.objective.parameters())
        if parameter.requires_grad
    }
    for place, (phase, setup) in enumerate(zip(parts.phases, parts.setups, strict=True)):
        where = f"{key}phases.{place}"
        if not config["phases"] and phase is not parts.phases[-1] and phase.heads:
            where = f"{key}loss.heads.{phase.heads[0]}.first"  # which proposed it
        freeze(setup, phase, can_train)
        if not any(parameter.requires_grad for parameter in can_train):
            silent = " and ".join(setup.objective.heads if phase.heads is None else phase.heads)
            why = f"{silent} has nothing to learn" if silent else "no loss speaks"
            raise UsageError(f"{where}.train={phase.train}: nothing trains, as {why}; type all")
        written = config["phases"][place] if config["phases"] else {}
        optimizers: dict[str, Config] = {f"{key}mode.optimizers.{name}": own for name, own in setup.optimizers.items()}
        optimizers |= _either(config, key, where, "optimizer", phase.optimizer)
        whence = where if written.get("scheduler") else f"{key}mode"
        ((schedule, scheduler),) = _either(config, key, whence, "scheduler", phase.scheduler).items()
        for name, optimizer in optimizers.items():
            refuse_settings(optimizer, name, scheduler, schedule, phase.epochs, config["allow"])


def _either(config: Config, key: str, where: str, group: str, own: Config | None) -> dict[str, Config]:
    return {f"{key}{group}": config[group]} if own is None else {f"{where}.{group}": own}


def refuse_network(config: Config, key: str) -> int:
    """Refuses a network that cannot be built, cannot see the data, or has no such taps; the number of its outputs.

    Raises:
        UsageError: naming the key.
    """
    with torch.random.fork_rng():
        network, taps = make_network(config["model"], key, config["allow"])
    if taps is not None and not _names(taps):
        raise UsageError(f"{key}.taps={taps}: expected names of layers, {{stages: [NAME, ...], classifier: NAME}}")
    input = example_batch(config["data"])["input"]
    try:
        with torch.no_grad():
            outputs = logits_of(network.eval()(input)).shape[1]
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{key} does not take batches of {list(input.shape)}: {error}") from error
    try:
        find_taps(network, input, taps)
    except (RuntimeError, UsageError) as error:
        raise UsageError(f"{key}.taps: {error}") from error
    return int(outputs)


def refuse_settings(
    optimizer: Config, key: str, scheduler: Config, scheduler_key: str, epochs: int, allow: Sequence[str]
) -> None:
    """Refuses an optimizer or a schedule that is none or does not take its settings, by stepping it to the end.

    Raises:
        UsageError: naming the key.
    """
    for settings, kind, where in ((optimizer, Optimizer, key), (scheduler, LRScheduler, scheduler_key)):
        if not isinstance(settings, Mapping):
            raise UsageError(f"{where}={settings}: expected a group of keys, with its class as _target_")
        resolve(settings.get("_target_"), kind, where, allow=allow)
    # These ask for a GPU, which is not to be woken for this.
    optimizer = {name: value for name, value in optimizer.items() if name not in ("capturable", "fused")}
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    steps = epochs * max(1, STEPS // max(1, epochs))
    try:
        made = build(optimizer, Optimizer, key, allow=allow, params=[parameter])
        made.step()
        key = scheduler_key
        schedule, interval = make_scheduler(scheduler, made, epochs, steps, allow, key)
        made.step()
        total = getattr(schedule, "total_steps", steps)
        for _ in range(epochs if interval == "epoch" else min(steps, max(epochs, total))):
            schedule.step()
    except UsageError:
        raise
    except Exception as error:  # whatever torch stumbles over
        raise UsageError(f"{key} cannot be stepped with its settings: {type(error).__name__}: {error}") from error


def refuse_hardware(trainer: Config) -> None:
    """Refuses devices that this machine does not have, and a batch that cannot be shared out among them.

    Raises:
        UsageError: saying what it has, or what divides.
    """
    accelerator, devices, size = trainer["accelerator"], trainer["devices"], trainer["batch_size"]
    there = torch.accelerator.device_count()
    if accelerator in ("gpu", "cuda", "mps") and not there:
        raise UsageError(f"trainer.accelerator={accelerator}, but torch sees no such device here; leave it auto")
    if accelerator != "cpu" and there and isinstance(devices, int) and devices > there:
        raise UsageError(f"trainer.devices={devices}, but torch sees {there} here; expected auto or at most as many")
    if not (world := processes(trainer)):
        raise UsageError("trainer.devices=[]: expected auto, how many, or the places of some, such as [0,1]")
    if size % world:
        raise UsageError(
            f"trainer.batch_size={size} does not divide over {world} devices; {max(size // world, 1) * world} does"
        )


def _names(taps: Any) -> bool:
    if not isinstance(taps, Mapping):
        return False
    single = ("classifier", "stem")
    lists = [names for key, names in taps.items() if key not in single and names is not None]
    return all(isinstance(taps.get(key), str | None) for key in single) and all(isinstance(x, list) for x in lists)
