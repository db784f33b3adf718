"""A student taught by an earlier copy of itself: the common part of ema and snapshot."""

from __future__ import annotations

from copy import deepcopy
from typing import Self

from kdlab.core.knowledge import Progress
from kdlab.modes.mode import Cast, Edge, Mode
from kdlab.networks.teacher import Observed, Teacher


class OwnCopy(Mode):
    """One student, and a frozen copy of it: never trained, in eval mode, saved with the mode.

    Args:
        cast: the networks of the run.
        name: of the copy.
    """

    wants_teacher = False

    def __init__(self, cast: Cast, name: str) -> None:
        student = cast.learners()
        super().__init__(student)
        self.copy = deepcopy(student.network)
        self.copied = Teacher(name, self.copy, student.taps, student.reader)

    @property
    def sources(self) -> tuple[Observed, ...]:
        return (*self.observed, self.copied)

    @property
    def edges(self) -> tuple[Edge, ...]:
        return (Edge(0, 0, f"student-{self.copied.name}"),)

    def source(self, edge: Edge) -> Observed:
        return self.copied

    def begin_epoch(self, progress: Progress) -> None:
        """A phase starts with a copy of the current student."""
        if progress.step == 0:
            self.copy.load_state_dict(self.learners[0].state_dict())

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.copy.eval()
        return self
