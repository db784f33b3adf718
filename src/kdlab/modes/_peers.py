"""Networks that are trained together: what deep mutual learning and its kin have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdlab.models.ensemble import Ensemble
from kdlab.modes.mode import Cast, Edge, Mode
from kdlab.teacher import Observed


class Peers(Mode):
    """The student and its peers, equal or different networks; each hears every other.

    Their train-mode outputs of the step teach, as published: no peer is asked twice.
    """

    wants_teacher = False
    wants_peers = True
    kept = "best"

    def __init__(self, cast: Cast) -> None:
        super().__init__(*(cast.learners(place) for place in range(1 + cast.peers)))
        # Not registered: its parts are, as learners.
        self._ensemble = (Ensemble([learner.network for learner in self.observed]),)

    def others(self, learner: int) -> list[int]:
        """The places of all learners but one."""
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
        if student != "ensemble":
            return networks[student]
        members = [without_taps(networks[learner.name]) for learner in self.observed]
        return {"_target_": "kdlab.models.ensemble.Ensemble", "networks": members}


def without_taps(network: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network as its class reads it."""
    return {key: value for key, value in network.items() if key != "taps"}
