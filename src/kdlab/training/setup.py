"""A run, put together and not yet trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdlab.config.schema import Component
from kdlab.modes.mode import Mode
from kdlab.tasks.task import Task
from kdlab.training.objective import Objective
from kdlab.training.phase_setup import PhaseSetup
from kdlab.training.phases import Phase


@dataclass
class Parts:
    """A run, put together and not yet trained.

    phases, setups: one setup per phase; phases of one mode share it.
    networks: per student, the plain config that rebuilds its network.
    """

    task: Task
    phases: tuple[Phase, ...]
    setups: tuple[PhaseSetup, ...]
    networks: Mapping[str, Component] = field(default_factory=dict)

    @property
    def mode(self) -> Mode:
        """That of the last phase, whose students are kept."""
        return self.setups[-1].mode

    @property
    def objective(self) -> Objective:
        """That of the last phase."""
        return self.setups[-1].objective

    def close(self) -> None:
        """Takes every hook away."""
        for setup in self.setups:
            setup.mode.close()

    @property
    def views(self) -> tuple[str, ...]:
        """The further views of a sample that any phase asks for."""
        asked = {view for setup in self.setups for view in (*setup.objective.views(), *setup.mode.shows)}
        return tuple(sorted(asked))
