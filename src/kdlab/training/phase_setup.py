"""The setup of each phase of a run: its mode, and the loss of a step.

Most runs have one setup. A curriculum of modes, such as `phases=[{epochs: 20, mode: dml}, {epochs: 10, mode: ema}]`,
has several: they train the same networks, matched by learner name, and a setup is assembled from only the losses of
its phases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch

from kdlab.config.instantiate import build
from kdlab.config.schema import Component, ModeConfig, RunConfig
from kdlab.core.errors import UsageError
from kdlab.core.rng import seed_of
from kdlab.modes.mode import Cast, Mode
from kdlab.training.objective import Objective
from kdlab.training.phases import Phase


@dataclass(frozen=True, eq=False)
class PhaseSetup:
    """What a phase trains with.

    optimizers: per learner, the settings of its own optimizer, if it has one.
    """

    mode: Mode
    objective: Objective
    optimizers: Mapping[str, Component] = field(default_factory=dict)


def phase_setups(
    config: RunConfig, phases: Sequence[Phase], make: Callable[[ModeConfig, Set[str]], PhaseSetup]
) -> tuple[PhaseSetup, ...]:
    """The setup of each phase; phases of one mode share it.

    Args:
        config: of the run.
        phases: of the run.
        make: a setup from the settings of a mode and the names of its losses.

    Raises:
        UsageError: where networks compiled for one mode would train in another.
    """
    every = set(config.loss.heads)
    modes = [phase.mode or config.mode for phase in phases]
    if all(mode == modes[0] for mode in modes):
        return (make(modes[0], every),) * len(phases)
    if config.trainer.compile:
        raise UsageError("trainer.compile=true: compiled networks cannot change modes; leave it out")
    found: list[PhaseSetup] = []
    for place, mode in enumerate(modes):
        if (first := modes.index(mode)) < place:
            found.append(found[first])
            continue
        alike = [phase for phase, other in zip(phases, modes, strict=True) if other == mode]
        active = [every if phase.heads is None else set(phase.heads) for phase in alike]
        found.append(make(mode, set[str]().union(*active)))
    return tuple(found)


def completed(config: RunConfig, phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases, completed from the run: the schedule of the mode where the phase has none and the mode has one, and
    the settings of the run's optimizer where the phase only changes some, `{lr: 0.01}`."""
    return tuple(
        phase.replace(
            scheduler=phase.scheduler or (phase.mode or config.mode).scheduler,
            optimizer=_changed(config.optimizer, phase.optimizer),
        )
        for phase in phases
    )


def _changed(optimizer: Component, own: Component | None) -> Component | None:
    return own if own is None or "_target_" in own else {**optimizer, **own}


def named_learners(model: Component, mode: ModeConfig) -> list[tuple[str, Component]]:
    """The student and the peers that a mode's settings name, each with the config of its network."""
    peers = mode.peers or 0
    if isinstance(peers, int):
        peers = {f"peer{place}": model for place in range(1, peers + 1)}
    return [("student", model), *peers.items()]


def make_mode(config: RunConfig, settings: ModeConfig, cast: Cast, key: str = "") -> Mode:
    """A mode of a run, whose random parts depend on the run's seed alone.

    Args:
        config: of the run.
        settings: of the mode: the run's, or those of one of its phases.
        cast: what it is made of.
        key: prefix of the run's keys in messages, `teacher.`.

    Raises:
        UsageError: where its settings name peers, a student or optimizers that it does not have.
    """
    phases = (f"phases.{place}." for place, phase in enumerate(config.phases or ()) if phase.mode is settings)
    where = f"{key}{next(phases, '')}mode"
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(config.seed, "mode"))
        mode = build(settings.component, Mode, where, allow=config.allow, cast=cast)
    if mode.wants_peers != bool(cast.peers):
        expected = "1 or more, or a list of models" if mode.wants_peers else "none: this mode trains one network"
        raise UsageError(f"{where}.peers={settings.peers}: expected {expected}")
    mode.kept = settings.kept or mode.kept
    if mode.kept not in (students := ("best", *mode.students())):
        raise UsageError(f"{where}.kept={mode.kept}: expected {' or '.join(students)}")
    if mode.kept == "best" and not config.data.validation:
        raise UsageError(
            f"{where}.kept=best selects by validation, and data.validation=0 has none; type {where}.kept=student"
        )
    learners = [learner.name for learner in mode.observed]
    for name in settings.optimizers:
        if name not in learners:
            raise UsageError(f"{where}.optimizers.{name}: expected one of the learners, {' or '.join(learners)}")
    return mode
