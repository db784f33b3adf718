"""Networks that are trained together: the common part of deep mutual learning and related modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdlab.config.instantiate import network_arguments
from kdlab.models.ensemble import Ensemble
from kdlab.modes.mode import Edge, Mode
from kdlab.networks.teacher import Observed


class Peers(Mode):
    """The student and its peers, equal or different networks; each learns from every other.

    Their train-mode outputs of the step teach, as published: no peer runs twice.
    """

    wants_teacher = False
    kept = "best"

    def __init__(self, *learners: Observed) -> None:
        super().__init__(*learners)
        # Not registered: its parts are, as learners.
        self._ensemble: tuple[nn.Module] = (Ensemble([learner.network for learner in learners]),)

    def others(self, learner: int) -> list[int]:
        """The places of all learners except one."""
        return [place for place in range(len(self.observed)) if place != learner]

    @property
    def edges(self) -> tuple[Edge, ...]:
        names = [learner.name for learner in self.observed]
        return tuple(
            Edge(learner, place, f"{name}-{names[other]}")
            for learner, name in enumerate(names)
            for place, other in enumerate(self.others(learner))
        )

    def source(self, edge: Edge) -> Observed | None:
        return self.observed[self.others(edge.learner)[edge.teacher]]

    def students(self) -> dict[str, nn.Module]:
        return {**super().students(), "ensemble": self._ensemble[0]}

    def describe(self, student: str, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        return networks[student] if student != "ensemble" else self.described_ensemble(networks)

    def described_ensemble(self, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The plain config that rebuilds the ensemble, from those of the learners."""
        return {"_target_": "kdlab.models.ensemble.Ensemble", "networks": self.members(networks)}

    def members(self, networks: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """The configs of the learners' networks, as their classes read them."""
        return [network_arguments(networks[learner.name]) for learner in self.observed]


class TaughtTogether(Peers):
    """Peers whose response heads read one ensemble of all; feature and relation heads read each peer separately.

    The ensemble is the last teacher of every lesson.
    """

    @property
    def edges(self) -> tuple[Edge, ...]:
        last = len(self.observed) - 1
        each = [edge._replace(kinds=("feature", "relation")) for edge in super().edges]
        together = [
            Edge(place, last, f"{peer.name}-ensemble", ("response",)) for place, peer in enumerate(self.observed)
        ]
        return (*each, *together)

    def source(self, edge: Edge) -> Observed | None:
        return super().source(edge) if edge.teacher < len(self.observed) - 1 else None
