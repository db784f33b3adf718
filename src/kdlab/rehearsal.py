"""A run is put together once before anything slow begins, only to see whether it can be. Knows no Lightning."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdlab.assembly import assemble, example_batch, make_network, without_use
from kdlab.build import resolve
from kdlab.errors import UsageError
from kdlab.modes.mode import Mode
from kdlab.observe import find_taps
from kdlab.recipe import teacher_run, teachers_of
from kdlab.trace import logits_of

Config = Mapping[str, Any]


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
            f"{key}loss=[]: expected a loss or more, such as loss=kd; for labels alone type mode=supervised"
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
    if config["trainer"]["precision"] == "16-mixed" and any(course.optimizers for course in parts.courses):
        raise UsageError(f"{key}trainer.precision=16-mixed scales one optimizer's gradients; type bf16-mixed")
    refuse_settings(config["optimizer"], Optimizer, f"{key}optimizer", config["allow"], params=[])
    refuse_settings(config["scheduler"], LRScheduler, f"{key}scheduler", config["allow"], optimizer=None)
    for place, phase in enumerate(parts.phases):
        where = f"{key}phases.{place}."
        if phase.optimizer is not None:
            refuse_settings(phase.optimizer, Optimizer, f"{where}optimizer", config["allow"], params=[])
        if phase.scheduler is not None:
            refuse_settings(phase.scheduler, LRScheduler, f"{where}scheduler", config["allow"], optimizer=None)


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


def refuse_settings(settings: Config, kind: type, key: str, allow: list[str], **arguments: Any) -> None:
    """Refuses an optimizer or a schedule that is none, or does not take its settings.

    Raises:
        UsageError: naming the key.
    """
    target = resolve(settings.get("_target_"), kind, key, allow=allow)
    own = {name: value for name, value in settings.items() if name not in ("_target_", "interval")}
    try:
        inspect.signature(target).bind(**own, **arguments)
    except TypeError as error:
        raise UsageError(f"{key}: {settings['_target_']} does not fit its settings: {error}") from error


def refuse_hardware(accelerator: str, devices: Any) -> None:
    """Refuses devices that this machine does not have.

    Raises:
        UsageError: saying what it has.
    """
    there = torch.accelerator.device_count()
    if accelerator in ("gpu", "cuda", "mps") and not there:
        raise UsageError(f"trainer.accelerator={accelerator}, but torch sees no such device here; leave it auto")
    if accelerator != "cpu" and there and isinstance(devices, int) and devices > there:
        raise UsageError(f"trainer.devices={devices}, but torch sees {there} here; expected auto or at most as many")


def _names(taps: Any) -> bool:
    if not isinstance(taps, Mapping):
        return False
    lists = [names for key, names in taps.items() if key != "classifier" and names is not None]
    return isinstance(taps.get("classifier"), str | None) and all(isinstance(names, list) for names in lists)
