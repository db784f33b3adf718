"""Builds the parts of a run from its config: networks, teachers, mode, heads. Uses neither Hydra nor Lightning.

Everything here is quick and trains nothing, so a run is assembled once before anything slow begins, to refuse what
cannot work: networks that cannot be compared, a tap that does not exist, a target not allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdlab.config.instantiate import build, build_nested
from kdlab.config.schema import (
    Component,
    HeadConfig,
    ModeConfig,
    RunConfig,
    TeacherConfig,
    teacher_keys,
)
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Context
from kdlab.core.rng import seed_of
from kdlab.data.check import AGAIN
from kdlab.data.data import target_of
from kdlab.data.table import Source
from kdlab.heads.head import Head
from kdlab.models.pretrained import portable
from kdlab.modes.mode import Cast, Learners
from kdlab.networks.teacher import Observed, Teacher, renormalisation
from kdlab.networks.weights import load_checkpoint
from kdlab.run.derive import teacher_run
from kdlab.run.make_network import grafted, make_network, start_from_teacher, taps_of
from kdlab.run.store import Entry
from kdlab.tasks.task import Task
from kdlab.training.objective import Objective, Term
from kdlab.training.phase_setup import PhaseSetup, completed, make_mode, named_learners, phase_setups
from kdlab.training.phases import plan
from kdlab.training.setup import Parts


class Made(NamedTuple):
    """A network, and the config that describes it."""

    network: nn.Module
    config: Component


def assemble(
    config: RunConfig,
    *,
    teachers: Sequence[Made] | None = None,
    labels: Tensor | None = None,
    samples: int | None = None,
    index: bool = True,
    key: str = "",
) -> Parts:
    """The parts of a run.

    Args:
        config: a run, without what its mode does not use.
        teachers: the network of each of its teachers; None: they are built here, untrained.
        labels: of the training set [samples], for heads that read them.
        samples: the size of the training set.
        index: whether batches hold fixed places in it.
        key: prefix of the run's keys in messages, `teacher.`.

    Raises:
        UsageError, ValueError: where the run is impossible.
    """
    allow, data = config.allow, config.data
    task: Task = build(config.task, Task, "task", allow=allow)  # type: ignore[type-abstract]  # mypy #4717
    batch = example_batch(config)
    outputs = outputs_of(config)
    if labels is None and task.has_labels and task.row_per_sample:
        labels = torch.arange(samples or 2 * outputs) % outputs
    context = Context(outputs, samples or (2 * outputs if labels is None else len(labels)), labels)
    keys = teacher_keys(config.teacher, f"{key}teacher")
    if teachers is None:
        teachers = [untrained(config, own, where) for own, where in zip(config.teachers, keys, strict=True)]
    frozen = tuple(
        _frozen(config, own, made, batch, task, where)
        for own, made, where in zip(config.teachers, teachers, keys, strict=True)
    )
    terms = make_terms(config.loss.heads, allow)
    networks = _Networks(config, task, terms, frozen, batch, key)

    def setup(settings: ModeConfig, active: Set[str]) -> PhaseSetup:
        several = named_learners(config.model, settings)
        mode = make_mode(config, settings, Cast(networks.of(several), frozen, context, batch, len(several) - 1), key)
        used = [term for term in terms if term.name in active]
        objective = Objective(mode, task, used, config.loss.task_weight, context)
        objective.refuse_impossible(mode, index=index, views=(AGAIN, *data.views))
        objective.build(mode, batch, config.seed)
        return PhaseSetup(mode, objective, settings.optimizers)

    phases = completed(config, plan(config.trainer.max_epochs, config.loss.heads, config.phases))
    setups = phase_setups(config, phases, setup)
    last = setups[-1].mode
    described = {student: last.describe(student, networks.configs) for student in last.students()}
    return Parts(task, phases, setups, described)


class _Networks:
    """The networks that a run trains, each built once, by its name, whichever modes train it.

    configs: the plain config that rebuilds each.
    """

    def __init__(
        self, config: RunConfig, task: Task, terms: Sequence[Term], teachers: Sequence[Teacher], batch: Batch, key: str
    ) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self._config, self._task, self._terms, self._teachers = config, task, terms, teachers
        self._batch, self._key = batch, key
        self._built: dict[str, Observed] = {}

    def of(self, named: Sequence[tuple[str, Component]]) -> Learners:
        """The learners of a mode by their places: those that it names, then others like the student."""

        def learner(place: int = 0) -> Observed:
            return self.get(*(named[place] if place < len(named) else (f"branch{place}", self._config.model)))

        return learner

    def get(self, name: str, model: Component) -> Observed:
        """A learner by its name, with whatever a loss grafts onto it."""
        if name not in self._built:
            where = f"{self._key}model" if name == "student" else f"{self._key}mode.peers.{name}"
            with torch.random.fork_rng():
                torch.manual_seed(seed_of(self._config.seed, name))
                network = make_network(model, where, self._config.allow)
                start_from_teacher(network, model, where, self._teachers)
                taps = taps_of(network, model, self._batch, where, self._task, outputs_of(self._config))
                built, described = Observed(name, network, taps, self._task), portable(model)
                described.pop("from_teacher", None)
                for term in self._terms:
                    built, described = grafted(term, built, described, self._teachers, self._batch)
            self._built[name], self.configs[name] = built, described
        return self._built[name]


def make_terms(heads: Mapping[str, HeadConfig], allow: Sequence[str] = ()) -> tuple[Term, ...]:
    """The distillation losses of a run, from `loss.heads`."""
    terms = []
    for name, settings in heads.items():
        make = partial(build, settings.component, Head, f"loss.heads.{name}", allow=allow)
        make()  # so that wrong settings are refused here
        terms.append(Term(name, make, settings.weight, settings.ramp or 0, settings.ramp_shape))
    return tuple(terms)


def trained(config: RunConfig, teacher: TeacherConfig, entry: Entry | None, key: str = "teacher") -> Made:
    """A teacher's network with its weights: from the user's file, else from the store.

    Args:
        config: the run that it teaches in.
        teacher: its settings.
        entry: of the store; None where the weights are given.
        key: of the teacher, for messages.
    """
    if teacher.given:
        network = make_network(teacher.model, f"{key}.model", config.allow)
        if teacher.checkpoint:
            load_checkpoint(Path(teacher.checkpoint), network, f"{key}.checkpoint")
        return Made(network, teacher.model)
    assert entry is not None, "a teacher without given weights is in the store"
    # The entry describes what a mode or a loss made of it (an ensemble of peers, an exit, a graft).
    described = entry.result["network"] if teacher.mode or teacher.loss else teacher.model
    network = make_network(described, f"{key}.model", config.allow)
    network.load_state_dict(entry.weights())
    return Made(network, described)


def untrained(config: RunConfig, teacher: TeacherConfig, key: str = "teacher") -> Made:
    """A teacher's network as training would build it, with untrained weights."""
    if teacher.given:
        return trained(config, teacher, None, key)
    if teacher.mode or teacher.loss:
        return kept(assemble(teacher_run(config, teacher), key=f"{key}."))
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(teacher.seed, "student"))
        return Made(make_network(teacher.model, f"{key}.model", config.allow), teacher.model)


def kept(parts: Parts) -> Made:
    """The network that a run ends with, and the config that describes it."""
    parts.close()
    name, network = next(iter(parts.mode.validated().items()))
    return Made(network, parts.networks[name])


def outputs_of(config: RunConfig) -> int:
    """How many outputs a run's networks need: one for each class, token or value of its data."""
    data = config.data.plain()
    return target_of(data, config.allow).outputs(data)


def example_batch(config: RunConfig, samples: int = 2, size: int | None = None) -> Batch:
    """A batch of noise with the shapes of a run's data, the same each time; `size`: of pictures, if not the data's."""
    data = config.data.plain() | ({} if size is None else {"size": size})
    target = target_of(data, config.allow)
    return target.example(build_nested(data, Source, "data", config.allow), samples)


def _frozen(config: RunConfig, teacher: TeacherConfig, made: Made, batch: Batch, task: Task, key: str) -> Teacher:
    data = config.data
    adjust = renormalisation(data.mean, data.std, teacher.mean, teacher.std)
    own = batch if teacher.size is None else example_batch(config, size=teacher.size)
    taps = taps_of(made.network, made.config, own, f"{key}.model", task)
    name = str(teacher.model.get("_target_", "network")).rsplit(".", 1)[-1]
    if (classes := teacher.classes) is not None:
        outputs = Observed(name, made.network, taps, task).example(own).knowledge.logits.shape[1]
        places = (None, *range(outputs))
        fits = isinstance(classes, list) and len(classes) == data.classes and all(c in places for c in classes)
        if not fits or all(c is None for c in classes):
            raise UsageError(
                f"{key}.classes={classes}: expected {data.classes} entries, for each class of the data the "
                f"teacher's class from 0 to {outputs - 1} that means the same, or null"
            )
    return Teacher(f"teacher {name}", made.network, taps, task, renormalise=adjust, size=teacher.size, classes=classes)
