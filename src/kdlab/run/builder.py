"""From a run's plain config to its parts: networks, teachers, mode, heads. Knows neither Hydra nor Lightning.

Everything here is quick and trains nothing, so a run is assembled once before anything slow begins, only to
see whether it can be: networks that cannot be compared, a tap that does not exist, a target not allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.config.instantiate import build, resolve
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Context, Fields
from kdlab.core.rng import seed_of
from kdlab.heads.head import Head
from kdlab.modes.mode import Cast, Mode
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed, Teacher, renormalisation
from kdlab.networks.weights import StateDict, load_checkpoint
from kdlab.run.recipe import LABELS_ALONE, teacher_run, teachers_of
from kdlab.tasks.task import Task
from kdlab.training.objective import Objective, Term
from kdlab.training.phase_setup import PhaseSetup, completed, make_mode, named_learners, phase_setups
from kdlab.training.phases import Phase, plan
from kdlab.training.setup import Parts

Config = dict[str, Any]

RUN_KEYS = ("weight", "task_weight", "ramp", "ramp_shape", "first")
"""The settings of a head that the run reads; all others are arguments of its class."""


def without_use(config: Mapping[str, Any]) -> Config:
    """The config less what its mode has no use for: a teacher, losses."""
    settings = [phase.get("mode") or config["mode"] for phase in config.get("phases") or [{}]]
    modes = [resolve(mode.get("_target_"), Mode, "mode", allow=config["allow"]) for mode in settings]
    heads = any(mode.wants_heads for mode in modes)
    return {
        **config,
        "teacher": config.get("teacher") if any(mode.wants_teacher for mode in modes) else None,
        "loss": config["loss"] if heads else LABELS_ALONE,
        "phases": config.get("phases") if heads else None,
    }


def assemble(
    config: Mapping[str, Any],
    *,
    teachers: Sequence[StateDict | None] | None = None,
    labels: Tensor | None = None,
    samples: int | None = None,
    index: bool = True,
) -> Parts:
    """The parts of a run.

    Args:
        config: a composed run, as `without_use` leaves it.
        teachers: the weights of each of its teachers, None for one that brings its own; None in place of
            them all: they stay untrained, for a trial assembly.
        labels: of the training set [samples], for heads that read them.
        samples: the size of the training set.
        index: whether batches name fixed places in it.

    Raises:
        UsageError, ValueError: where the run cannot be.
    """
    allow, data = config["allow"], config["data"]
    task: Task = build(config["task"], Task, "task", allow=allow)  # type: ignore[type-abstract]  # mypy #4717
    batch = example_batch(data)
    if labels is None:
        labels = torch.arange(samples or 2 * data["classes"]) % data["classes"]
    context = Context(data["classes"], samples or len(labels), labels)
    settings = teachers_of(config)
    frozen = tuple(
        make_teacher(config, own, weights, batch)
        for own, weights in zip(settings, teachers or [None] * len(settings), strict=True)
    )
    terms = make_terms(config["loss"]["heads"], allow)
    networks: dict[str, Config] = {}
    made: dict[str, Observed] = {}

    def learner(name: str, model: Config) -> Observed:
        if name not in made:
            with torch.random.fork_rng():
                torch.manual_seed(seed_of(config["seed"], name))
                network, taps = make_network(model, "model", allow)
                made[name] = Observed(name, network, find_taps(network, batch["input"], taps))
                networks[name] = model
                for term in terms:
                    made[name], networks[name] = _grafted(term, made[name], networks[name], frozen, batch)
        return made[name]

    def setup(settings: Config, speaking: Set[str]) -> PhaseSetup:
        named = named_learners(config, settings)

        def learners(place: int = 0) -> Observed:
            return learner(*(named[place] if place < len(named) else (f"branch{place}", config["model"])))

        mode = make_mode(config, settings, Cast(learners, frozen, context, batch, len(named) - 1))
        heard = [term for term in terms if term.name in speaking]
        objective = Objective(mode, task, heard, config["loss"]["task_weight"], context)
        objective.refuse_impossible(mode, index=index, views=tuple(data.get("views") or ()))
        objective.build(mode, batch, config["seed"])
        return PhaseSetup(mode, objective, settings.get("optimizers") or {})

    phases = completed(config, plan(config["trainer"]["max_epochs"], config["loss"]["heads"], config["phases"]))
    setups = phase_setups(config, phases, setup)
    for phase, each in zip(phases, setups, strict=True):
        refuse_unprepared(phase, each.objective)
    last = setups[-1].mode
    described = {student: last.describe(student, networks) for student in last.students()}
    return Parts(task, phases, setups, described)


def refuse_unprepared(phase: Phase, objective: Objective) -> None:
    """Refuses a phase that prepares a head which has nothing to prepare."""
    for name in objective.heads if phase.heads is None else phase.heads:
        if phase.prepare and not any(placed.head.prepared() for placed in objective.placed(name)):
            raise UsageError(f"loss={name} has nothing to prepare: set loss.heads.{name}.first=null")


def make_terms(heads: Mapping[str, Config], allow: Sequence[str] = ()) -> tuple[Term, ...]:
    """The distillation losses of a run, from `loss.heads`."""
    terms = []
    for name, settings in heads.items():
        key = f"loss.heads.{name}"
        own = {key: value for key, value in settings.items() if key not in RUN_KEYS}
        make = partial(build, own, Head, key, allow=allow)
        make()  # so that wrong settings are met here
        ramp, shape = settings.get("ramp") or 0, settings.get("ramp_shape") or "linear"
        terms.append(Term(name, make, settings.get("weight", 1.0), ramp, shape))
    return tuple(terms)


def make_network(
    config: Mapping[str, Any], key: str = "model", allow: Sequence[str] = ()
) -> tuple[nn.Module, Mapping[str, Any] | None]:
    """A network from its config, with the taps that the config names, if any."""
    own = {name: value for name, value in config.items() if name != "taps"}
    return build(own, nn.Module, key, allow=allow), config.get("taps")


def make_teacher(
    config: Mapping[str, Any], teacher: Mapping[str, Any], weights: StateDict | None, batch: Batch
) -> Teacher:
    """A frozen teacher of a run, from its own settings."""
    data = config["data"]
    made = made_by(config, teacher)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(teacher["seed"], "student"))
        network, taps = make_network(made, "teacher.model", config["allow"])
    if teacher.get("checkpoint"):
        load_checkpoint(Path(teacher["checkpoint"]), network)
    elif weights is not None:
        network.load_state_dict(weights)
    size = teacher.get("size")
    named = str(teacher["model"].get("_target_", "network")).rsplit(".", 1)[-1]
    adjust = renormalisation(data["mean"], data["std"], teacher.get("mean"), teacher.get("std"))
    input = batch["input"] if size is None else torch.randn(2, data["channels"], size, size)
    taps_found = find_taps(network, input, taps)
    classes = teacher.get("classes")
    if classes is not None:
        told = Observed(named, network, taps_found).example(input).knowledge.logits.shape[1]
        places = (None, *range(told))
        if not isinstance(classes, list) or len(classes) != data["classes"] or any(c not in places for c in classes):
            raise UsageError(
                f"teacher.classes={classes}: expected {data['classes']} entries, for each class of the data the "
                f"teacher's class from 0 to {told - 1} that means the same, or null"
            )
    return Teacher(f"teacher {named}", network, taps_found, renormalise=adjust, size=size, classes=classes)


def made_by(config: Mapping[str, Any], teacher: Mapping[str, Any]) -> Config:
    """The config of the network that a teacher's recipe ends with.

    That is its model, unless it was taught: its mode may keep an ensemble of peers or an exit, its losses may
    build parts of its own teacher into it.
    """
    if teacher.get("checkpoint") or not (teacher.get("mode") or teacher.get("loss")):
        model: Config = teacher["model"]
        return model
    parts = assemble(without_use(teacher_run(config, teacher)))
    return parts.networks[next(iter(parts.mode.validated()))]


def example_batch(data: Mapping[str, Any], samples: int = 2) -> Batch:
    """A batch of noise in the shape of a data set, the same each time."""
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(samples, data["channels"], data["size"], data["size"], generator=generator)
    place = torch.arange(samples)
    return {"input": input, "target": place % data["classes"], "index": place, "view": torch.zeros_like(place)}


def rebuild(network: Mapping[str, Any], allow: Sequence[str] = ()) -> nn.Module:
    """A student's network from the config that `student.yaml` holds, with untrained weights."""
    return make_network(network, "model", allow)[0]


def _grafted(
    term: Term, student: Observed, config: Config, teachers: Sequence[Teacher], batch: Batch
) -> tuple[Observed, Config]:
    head = term.make()
    if not head.grafts:
        return student, config
    if not teachers:
        raise UsageError(f"loss={term.name} builds parts of a frozen teacher into the student, and here is none")
    whole = Fields(stages="all", embedding=True, classifier=True)
    for side in (student, teachers[0]):
        if not side.offers.classifier:
            raise UsageError(f"loss={term.name} needs {side.name}'s classifier, which is not to be had here")
        side.listen(whole)
    learner, teacher = student.example(batch["input"]), teachers[0].example(batch["input"])
    student.close()
    network = head.graft(student.network, learner, teacher)
    describe: Any = network.config
    rebuilt = describe({key: value for key, value in config.items() if key != "taps"})
    return Observed(student.name, network, find_taps(network, batch["input"], getattr(network, "taps", None))), rebuilt
